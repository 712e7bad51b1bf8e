"""Whatever rows leave their decoded form, and whenever, the bytes in the end are the same, and so are the outputs."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.features.row_codec import encode_row, newest_ms
from models.features.user_state import UserState
from schemas.codec import encode
from schemas.scoring import ScoreRequest
from schemas.time_units import DAY_MS
from stream.fold.records import Output, PartitionTotals
from stream.fold.rows import RowRules, Rows
from stream.offline.replay_log import LogRecord
from stream.roles.features_fold import FeaturesFold
from stream.roles.scoring_policy import ScoringPolicy
from tests.builders import NOW_MS, browse, click, purchase, visit

MAKE = {"visit": visit, "browse": browse, "click": click, "purchase": purchase}
TOPICS = {kind: kind for kind in ("visit", "browse", "click", "search", "purchase", "review", "rating", "review-sentiment")}
STEPS = st.lists(
    st.tuples(
        st.sampled_from(sorted(MAKE)),
        st.integers(0, 5),  # user
        st.integers(0, 12 * DAY_MS),  # silence before the event
        st.sampled_from(["goes on", "barrier", "barrier"]),
    ),
    min_size=1,
    max_size=40,
)


def folded(steps: list[tuple[str, int, int, str]], rules: RowRules) -> tuple[dict[bytes, bytes], dict[bytes, bytes], list[Any]]:
    """Fold steps with barriers between: rows in memory, rows in the changelog, and the score requests."""
    fold = FeaturesFold(topics=TOPICS, policy=ScoringPolicy(every_clicks=1), rates={"EUR": 1.0}, ttl_ms=40 * DAY_MS)
    rows, totals = Rows(rules), PartitionTotals()
    changelog: dict[bytes, bytes | None] = {}
    dirty: dict[bytes, Any] = {}
    outputs: list[Output] = []
    at_ms = NOW_MS
    for offset, (kind, user, silence_ms, then) in enumerate([*steps, ("visit", 9, 0, "barrier")]):
        at_ms += silence_ms
        key = b"u-%d" % user
        event = MAKE[kind](user_id=key.decode(), event_time_ms=at_ms, event_id=f"e-{offset}")
        found = fold.fold(rows, totals, [LogRecord(kind, 0, offset, at_ms, key, encode(event))], at_ms)
        dirty |= found.dirty
        outputs += found.outputs
        if then == "barrier":
            written = [(key, encode_row(row)) for key, row in dirty.items()]  # type: ignore[arg-type]
            changelog.update(written)
            changelog.update(rows.evict(written, at_ms))
            dirty.clear()
    held = {key: encode_row(row) if isinstance(row, UserState) else row for key, row in rows.items()}
    requests = [output.message for output in outputs if isinstance(output.message, ScoreRequest)]
    return held, {key: row for key, row in changelog.items() if row is not None}, requests


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, st.integers(0, 60_000))
def test_rows_are_equal_byte_for_byte_whatever_was_given_back_in_between(
    steps: list[tuple[str, int, int, str]], decoded_bytes: int
) -> None:
    stays = folded(steps, RowRules())

    found = folded(steps, RowRules(decoded_bytes=decoded_bytes))

    assert found == stays
    assert found[0] == found[1]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, st.integers(0, 60_000))
def test_an_expired_row_and_a_stale_one_that_is_still_there_give_the_same_scores(
    steps: list[tuple[str, int, int, str]], decoded_bytes: int
) -> None:
    _, _, requests = folded(steps, RowRules())

    held, changelog, found = folded(
        steps, RowRules(decoded_bytes=decoded_bytes, expire_after_ms=42 * DAY_MS, newest_ms=newest_ms)
    )

    assert found == requests
    assert held == changelog
