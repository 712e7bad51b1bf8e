"""A recorded run is verified request by request; whatever was changed in it is found and named, never called equal."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from models.features.spec import FEATURE_SPEC
from schemas.codec import decode, encode
from schemas.errors import LogError
from schemas.scoring import ScoreRequest
from schemas.time_units import DAY_MS
from stream.logs.event_log import LoggedEvent, write_log
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.verification import FILE, Verification, write_verification
from stream.process.settings import Settings, load_settings
from tests.builders import NOW_MS, purchase, search, visit
from tests.fakes import FixedScorer
from tests.recording import PARTITIONS, LiveRun, live_run

DIRTY = SimulatorConfig(seed=5, shoppers=10, days=30, late=0.05, duplicates=0.05, malformed=0.05)
Log = list[LoggedEvent]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(reporting_currency="GBP", partitions=PARTITIONS)


@pytest.fixture(scope="module")
def log(settings: Settings) -> Log:
    return live_run(settings, [event.logged for event in simulate(DIRTY)], FixedScorer(), crashes=True)


def verified(settings: Settings, log: Log, folder: Path, scorer: Any = None) -> tuple[Verification, list[dict[str, Any]]]:
    write_log(folder / "log", log, source="test")
    found = write_verification(folder / "log", settings, scorer or FixedScorer(), folder / "out")
    rows = duckdb.sql(f"SELECT * FROM '{folder / 'out' / FILE}'")
    return found, [dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()]


def requests_of(log: Log) -> list[tuple[int, ScoreRequest]]:
    return [(place, decode(ScoreRequest, event.value)) for place, event in enumerate(log) if event.kind == "score-request"]


def changed(log: Log, place: int, **fields: Any) -> Log:
    """Change fields of the request at a place of a log."""
    request = msgspec.structs.replace(decode(ScoreRequest, log[place].value), **fields)
    return [*log[:place], msgspec.structs.replace(log[place], value=encode(request)), *log[place + 1 :]]


def one_request(log: Log, wanted: Callable[[ScoreRequest], bool] = lambda request: True) -> tuple[int, ScoreRequest]:
    """Return a request of the middle of a log, and its place there."""
    found = [(place, request) for place, request in requests_of(log) if wanted(request)]
    return found[len(found) // 2]


def events_of(log: Log, request: ScoreRequest, kind: str) -> list[int]:
    """Return the places of a user's events of a kind, in the order of their offsets."""
    places = [
        place
        for place, event in enumerate(log)
        if event.kind == kind and event.key == request.user_id.encode() and event.partition == request.source.partition
    ]
    return sorted(places, key=lambda place: log[place].offset or 0)


def test_a_run_that_crashed_and_heard_sentiment_agrees_in_every_request(settings: Settings, log: Log, tmp_path: Path) -> None:
    found, rows = verified(settings, log, tmp_path)

    requests = [request for _, request in requests_of(log)]
    assert found.agrees and found.equal == found.requests == len(requests) == len(rows)
    assert (found.mismatched, found.unverifiable, found.ids_missing, found.ids_extra, found.ids_not_reached) == (0, {}, 0, 0, 0)
    assert found.repeated == len(requests) - len({request.request_id for request in requests}) > 0
    guards = {(request.request_id, encode(request.guard)) for request in requests}
    assert len(guards) > len({name for name, _ in guards}), "a request sent again must rest on another interleaving"
    assert any("review-sentiment" in request.guard for request in requests)
    assert (found.scored, found.unscored, found.orphans, found.score_difference) == (len(requests), 0, 0, 0.0)
    assert {row["state_hash"] is None for row in rows} == {False}


def test_equal_evidence_has_an_equal_state_hash_and_other_evidence_another(
    settings: Settings, log: Log, tmp_path: Path
) -> None:
    _, rows = verified(settings, log, tmp_path)

    by_guard = {(row["user_id"], row["guard"], row["state_hash"]) for row in rows}
    assert len(by_guard) == len({(user, guard) for user, guard, _ in by_guard}) == len({hashed for *_, hashed in by_guard})


@pytest.mark.parametrize("name", ["click.count.life", "user.tenure_ms", "review.sentiment_mean.life"])
def test_a_changed_feature_is_named_and_nothing_else(settings: Settings, log: Log, tmp_path: Path, name: str) -> None:
    at = FEATURE_SPEC.names.index(name)
    place, request = one_request(log, lambda request: request.features[at] is not None)
    features = list(request.features)
    features[at] = (features[at] or 0.0) + 1e-9 if name.startswith("review") else (features[at] or 0.0) + 1

    found, rows = verified(settings, changed(log, place, features=features), tmp_path)

    assert not found.agrees
    assert (found.mismatched, found.differing, found.equal) == (1, {name: 1}, found.requests - 1)
    assert [row["differing"] for row in rows if row["verdict"] == "mismatch"] == [[name]]


@pytest.mark.parametrize("field", ["history", "categories", "text", "request_id"])
def test_a_changed_field_is_named(settings: Settings, log: Log, tmp_path: Path, field: str) -> None:
    place, request = one_request(log, lambda request: bool(request.text and request.history and request.categories))
    other = getattr(request, field)[:-1] or "x"

    found, _ = verified(settings, changed(log, place, **{field: other}), tmp_path)

    assert (found.mismatched, found.differing) == (1, {field: 1})


@pytest.mark.parametrize("by", [-1, 1])
def test_a_guard_that_names_other_events_is_a_mismatch(settings: Settings, log: Log, tmp_path: Path, by: int) -> None:
    def others(request: ScoreRequest) -> list[int]:
        """Return the offsets of the user's browses on the other side of what the guard names."""
        last = request.guard["browse"][1] if "browse" in request.guard else -1
        offsets = [log[place].offset or 0 for place in events_of(log, request, "browse")]
        return [offset for offset in offsets if (offset < last if by < 0 else offset > last)] if last >= 0 else []

    place, request = one_request(log, lambda request: request.kind != "browse" and len(others(request)) > 3)
    since, _ = request.guard["browse"]
    guard = {**request.guard, "browse": (since, others(request)[2 * by])}

    found, _ = verified(settings, changed(log, place, guard=guard), tmp_path)

    assert found.mismatched == 1
    assert found.differing["browse.count.life"] == 1


def test_a_guard_without_a_topic_is_a_mismatch(settings: Settings, log: Log, tmp_path: Path) -> None:
    place, request = one_request(log, lambda request: len(request.guard) > 3)
    for kind in (request.kind, next(kind for kind in request.guard if kind != request.kind)):
        guard = {name: span for name, span in request.guard.items() if name != kind}
        (tmp_path / kind).mkdir()
        found, _ = verified(settings, changed(log, place, guard=guard), tmp_path / kind)
        assert found.mismatched == 1


def test_an_event_that_the_log_lacks_shows_in_every_later_request_of_its_user(
    settings: Settings, log: Log, tmp_path: Path
) -> None:
    _, request = one_request(log, lambda request: request.kind == "search")
    gone = events_of(log, request, "search")[0]

    found, rows = verified(settings, log[:gone] + log[gone + 1 :], tmp_path)

    rest = [other for _, other in requests_of(log) if other.user_id == request.user_id and "search" in other.guard]
    assert found.mismatched == len(rest)
    assert {row["user_id"] for row in rows if row["verdict"] != "equal"} == {request.user_id}
    assert not found.agrees


def test_a_row_that_began_before_the_log_is_unverifiable_and_never_equal(settings: Settings, log: Log, tmp_path: Path) -> None:
    first = {
        partition: sorted(event.offset for event in log if (event.kind, event.partition) == ("browse", partition))[40]
        for partition in range(3)
    }
    cut = [event for event in log if event.kind != "browse" or event.offset >= first[event.partition]]

    found, rows = verified(settings, cut, tmp_path)

    before = [
        request
        for _, request in requests_of(cut)
        if request.guard.get("browse", (1 << 60, 0))[0] < first[request.source.partition]
    ]
    assert found.unverifiable == {"its row began before the log": len(before)}
    assert found.equal == found.requests - len(before) > 0
    assert (found.agrees, found.mismatched, found.ids_missing, found.ids_extra) == (True, 0, 0, 0)
    assert {row["state_hash"] for row in rows if row["verdict"] == "unverifiable"} == {None}


def test_a_row_that_goes_on_after_the_log_is_unverifiable(settings: Settings, log: Log, tmp_path: Path) -> None:
    last = max(event.offset for event in log if (event.kind, event.partition) == ("search", 0))
    cut = [event for event in log if (event.kind, event.partition, event.offset) != ("search", 0, last)]

    found, _ = verified(settings, cut, tmp_path)

    assert list(found.unverifiable) == ["the log ends before its last event"]


def test_a_request_of_another_feature_spec_is_unverifiable(settings: Settings, log: Log, tmp_path: Path) -> None:
    place, _ = one_request(log)

    found, _ = verified(settings, changed(log, place, spec_version="other"), tmp_path)

    assert found.unverifiable == {"made by feature spec other": 1}


def test_requests_that_were_not_sent_are_missing_unless_the_run_had_not_come_to_them(
    settings: Settings, log: Log, tmp_path: Path
) -> None:
    place, request = one_request(log, lambda request: request.kind == "search")
    lost = [event for event in log if event.kind != "score-request" or request.request_id.encode() not in (event.value or b"")]
    found, _ = verified(settings, lost, tmp_path)
    assert (found.agrees, found.ids_missing, found.some_ids) == (False, 1, [request.request_id])

    early = [event for event in log if event.kind != "score-request" or event.record_ms <= request.source.timestamp_ms]
    (tmp_path / "early").mkdir()
    found, _ = verified(settings, early, tmp_path / "early")
    assert (found.agrees, found.ids_missing) == (True, 0)
    assert found.ids_not_reached > 0


def test_scores_beyond_the_tolerance_are_mismatches(settings: Settings, log: Log, tmp_path: Path) -> None:
    _, request = one_request(log)

    found, rows = verified(settings, log, tmp_path, FixedScorer(off_by=0.01, user=request.user_id))

    wrong = [row for row in rows if row["user_id"] == request.user_id]
    assert found.differing == {"score": len(wrong)}
    assert found.score_difference == pytest.approx(0.01)
    assert {row["verdict"] for row in wrong} == {"mismatch"}


def test_a_topic_silent_for_longer_than_the_ttl_begins_anew_and_is_verified(tmp_path: Path) -> None:
    settings = load_settings(ttl_days=31, partitions=PARTITIONS, reporting_currency="GBP")
    events = [
        *[purchase(event_id=f"p{day}", currency="GBP", event_time_ms=NOW_MS + day * DAY_MS) for day in (0, 5, 80, 81)],
        *[visit(event_id=f"v{day}", event_time_ms=NOW_MS + day * DAY_MS) for day in (0, 30, 60, 82)],
        *[search(event_id=f"s{day}", event_time_ms=NOW_MS + day * DAY_MS) for day in (1, 50, 83)],
    ]
    logged = [LoggedEvent(type(event).__name__.lower(), event.event_time_ms, b"u-1", encode(event)) for event in events]
    log = live_run(settings, sorted(logged, key=lambda event: event.record_ms), FixedScorer(), window=1)

    found, _ = verified(settings, log, tmp_path)

    assert (found.agrees, found.equal) == (True, found.requests)
    sinces = [request.guard["purchase"][0] for _, request in requests_of(log) if "purchase" in request.guard]
    assert set(sinces) == {0, 2}


def test_a_topic_that_lay_behind_the_others_by_more_than_the_ttl_is_in_no_guard_and_unverifiable(tmp_path: Path) -> None:
    settings = load_settings(ttl_days=31, partitions=PARTITIONS)
    events = [search(event_time_ms=NOW_MS), visit(event_time_ms=NOW_MS - 32 * DAY_MS)]
    logged = [LoggedEvent(type(event).__name__.lower(), event.event_time_ms, b"u-1", encode(event)) for event in events]
    log = live_run(settings, logged, FixedScorer())  # its one window folds the search first

    found, _ = verified(settings, log, tmp_path)

    assert (found.agrees, found.equal) == (True, 1)
    assert found.unverifiable == {"its own topic had been silent for longer than the ttl": 1}


def test_a_row_that_was_damaged_and_began_anew_is_verified_from_where_it_began(settings: Settings, tmp_path: Path) -> None:
    run = LiveRun(settings, FixedScorer())
    sent = run.publish(event.logged for event in simulate(DIRTY))
    run.fold(sent[: len(sent) // 2])
    for rows in run.rows.values():
        rows |= dict.fromkeys(rows, b"\x02 no row")
    run.fold(sent[len(sent) // 2 :])

    found, _ = verified(settings, run.log, tmp_path)

    assert (found.mismatched, found.equal) == (0, found.requests)
    begun: dict[tuple[str, str], set[int]] = defaultdict(set)
    for _, request in requests_of(run.log):
        for kind, (since, _) in request.guard.items():
            begun[request.user_id, kind].add(since)
    assert max(map(len, begun.values())) == 2


def test_a_log_without_score_requests_and_one_of_other_topics_are_refused(settings: Settings, log: Log, tmp_path: Path) -> None:
    write_log(tmp_path / "events", [event for event in log if event.kind == "click"], source="test")
    write_log(tmp_path / "log", log, source="test")

    with pytest.raises(LogError, match="holds no score requests"):
        write_verification(tmp_path / "events", settings, None, tmp_path / "out")
    with pytest.raises(LogError, match=r"the settings name eu\.shop"):
        write_verification(tmp_path / "log", load_settings(topic_prefix="eu."), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_share_of_users_that_is_held_at_a_time_changes_nothing(
    settings: Settings, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    one, rows = verified(settings, log, tmp_path / "one")
    monkeypatch.setattr("stream.offline.user_buckets.BUCKET_RECORDS", len(log) // 4)
    monkeypatch.setattr("stream.offline.user_buckets.BLOCK_RECORDS", 50)

    four, others = verified(settings, log, tmp_path)

    assert one == four
    assert sorted(map(repr, rows)) == sorted(map(repr, others))


def test_a_misplaced_record_that_the_live_run_refused_is_refused_again(settings: Settings, tmp_path: Path) -> None:
    events = [event.logged for event in simulate(DIRTY)]
    stray = next(event for event in events if event.kind == "visit" and event.key is not None)
    run = LiveRun(settings, FixedScorer())
    elsewhere = (run.replay.partition_of(stray.key) + 1) % PARTITIONS
    sent = [run.send("visit", elsewhere, stray.record_ms, stray.key, stray.value), *run.publish(events)]
    run.fold(sent)

    found, _ = verified(settings, run.log, tmp_path)

    assert stray.key not in run.rows[elsewhere]
    assert found.agrees and found.requests and not found.ids_missing
