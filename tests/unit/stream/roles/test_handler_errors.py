"""A bug that meets one record costs that record alone: its row is as if it had never come, all others are unchanged."""

from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

import pytest

from models.features.row_codec import encode_row
from models.features.user_state import UserState
from schemas.codec import encode
from schemas.dead_letter import DeadLetter, Reason
from schemas.errors import RowVersionError
from schemas.scoring import ScoreRequest
from schemas.topics import TABLE
from stream.fold.ordering import aligned
from stream.fold.records import Folded, Output, PartitionTotals, Totals
from stream.fold.rows import Rows
from stream.fold.undo import Undo
from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.replay_log import LogRecord
from stream.roles.features_fold import FeaturesFold
from stream.roles.handler_errors import Fold, fold_guarded
from stream.roles.scoring_policy import ScoringPolicy
from stream.roles.trigger_policy import Campaign, TriggerPolicy
from stream.roles.trigger_row import encode_trigger_row
from stream.roles.triggers_fold import TriggersFold
from tests.builders import NOW_MS, churn_risk, click, interest, purchase, review_sentiment, search, source_position, visit
from tests.fakes import BrokenPolicy, BrokenRates, BrokenRequests, BrokenTriggers

TOPICS = {kind: topic.name for kind, topic in TABLE.items()}
RATES = {"EUR": 1.0, "GBP": 1.25}
CAMPAIGN = Campaign(id="win-back", signal="churn-risk", threshold=0.1, cooldown_hours=1.0)
POLICY = TriggerPolicy(version="p", campaigns=[CAMPAIGN])


class Guarded:
    """A guarded fold with its rows, totals and undo; `flush` encodes what changed, as a barrier does."""

    def __init__(self, fold: Fold) -> None:
        self.step, self.rows, self.totals, self.undo = fold, Rows(), PartitionTotals(), Undo()
        self._pending: dict[bytes, Any] = {}
        self.outputs: list[Output] = []

    def fold(self, records: Sequence[LogRecord]) -> Folded:
        folded = fold_guarded(self.step, self.rows, self.totals, self.undo, records, NOW_MS)
        self._pending.update(folded.dirty)
        self.outputs += folded.outputs
        return folded

    def flush(self) -> None:
        self.rows.evict([(key, encoded(row)) for key, row in self._pending.items()], NOW_MS)
        self.undo.flushed()
        self._pending = {}

    def written(self) -> dict[bytes, bytes]:
        """Return every row as it is or would be written."""
        return {key: row if isinstance(row, bytes) else encoded(row) for key, row in self.rows.items()}

    def letters(self) -> list[DeadLetter]:
        return [output.message for output in self.outputs if isinstance(output.message, DeadLetter)]


def encoded(row: Any) -> bytes:
    return encode_row(row) if isinstance(row, UserState) else encode_trigger_row(row)


def features(policy: Any = None, rates: Any = None) -> FeaturesFold:
    return FeaturesFold(topics=TOPICS, policy=policy or ScoringPolicy(), rates=rates or RATES)


def records_of(events: Iterable[Any]) -> list[LogRecord]:
    offsets: Counter[str] = Counter()
    records = []
    for event in events:
        kind = "review-sentiment" if hasattr(event, "sentiment") else type(event).__name__.lower()
        kind = {"churnrisk": "churn-risk"}.get(kind, kind)
        key = event.user_id.encode()
        records.append(LogRecord(TOPICS[kind], 0, offsets[kind], event.event_time_ms, key, encode(event)))
        offsets[kind] += 1
    return records


def balanced(totals: Totals) -> bool:
    return totals.unaccounted == 0


# -------------------------------------------------------------------------------------------------------- a made shop


@pytest.fixture(scope="module")
def shop() -> list[tuple[LogRecord, str | None]]:
    """Records of a made shop with their event ids; few shoppers, so that bad and good records meet in the same rows."""
    offsets: Counter[str] = Counter()
    found = []
    for event in aligned([event.logged for event in simulate(SimulatorConfig(seed=5, shoppers=12, days=40))]):
        found.append((numbered(event, offsets), decoded_id(event)))
    return found


def numbered(event: LoggedEvent, offsets: Counter[str]) -> LogRecord:
    topic = TOPICS[event.kind]
    offsets[topic] += 1
    return LogRecord(topic, 0, offsets[topic] - 1, event.record_ms, event.key, event.value)


def decoded_id(event: LoggedEvent) -> str | None:
    from msgspec.json import decode

    found: str | None = decode(event.value or b"{}").get("event_id")
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("late", [False, True], ids=["before the row changes", "after the row changed"])
def test_rows_and_requests_equal_a_fold_without_the_bad_records(
    shop: list[tuple[LogRecord, str | None]], seed: int, late: bool
) -> None:
    rng = Random(seed)
    chosen = {event_id for _, event_id in shop if event_id is not None and rng.random() < 0.5}
    step: FeaturesFold = features(policy=BrokenPolicy(chosen))
    if late:
        step = BrokenRequests(topics=TOPICS, policy=ScoringPolicy(), rates=RATES)
        step.broken = chosen
    guarded, sound = Guarded(step), Guarded(features())
    records = [record for record, _ in shop]

    first = 0
    while first < len(records):
        size = rng.randint(1, 300)
        guarded.fold(records[first : first + size])
        if rng.random() < 0.4:
            guarded.flush()
        if rng.random() < 0.2:  # rows are let go and read again from what was written
            guarded.flush()
            written, guarded.rows = guarded.written(), Rows()
            guarded.rows.load(written.items())
        first += size

    bad = {(letter.topic, letter.offset) for letter in guarded.letters()}
    assert len(bad) > 50
    sound.fold([record for record in records if (record.topic, record.offset) not in bad])
    assert guarded.written() == sound.written()
    good = [output.message for output in guarded.outputs if isinstance(output.message, ScoreRequest)]
    assert good == [output.message for output in sound.outputs]
    assert balanced(guarded.totals.events)
    assert guarded.totals.events.dead_lettered == len(bad)
    assert guarded.totals.events.applied == sound.totals.events.applied


# ----------------------------------------------------------------------------------------------------------- one record


def test_a_purchase_that_fails_in_the_middle_leaves_the_row_as_it_was_and_the_chunk_goes_on() -> None:
    good = [click(), purchase(event_id="p-1", event_time_ms=NOW_MS + 1), click(event_id="c-3", event_time_ms=NOW_MS + 3)]
    bad = purchase(event_id="p-2", currency="USD", event_time_ms=NOW_MS + 2)
    guarded, sound = Guarded(features(rates=BrokenRates(RATES, "USD"))), Guarded(features())

    records = records_of([*good[:2], bad, good[2]])
    folded = guarded.fold(records)
    sound.fold([records[0], records[1], records[3]])

    assert guarded.written() == sound.written()
    assert set(folded.dirty) == {b"u-1"}
    assert folded.dirty[b"u-1"] is guarded.rows[b"u-1"]
    assert guarded.totals.events == Totals(events_in=4, applied=3, dead_lettered=1)


def test_the_dead_letter_says_what_was_raised_and_where_with_a_code_that_stays_for_the_same_bug() -> None:
    guarded = Guarded(features(rates=BrokenRates(RATES, "USD")))
    record = LogRecord(TOPICS["purchase"], 0, 0, NOW_MS, b"u-1", encode(purchase(currency="USD")), (("trace", b"1"),))

    guarded.fold([record, *records_of([purchase(event_id="p-2", currency="USD")] * 2)[1:]])

    one, two = guarded.letters()
    assert (one.reason, one.exception) == (Reason.HANDLER_ERROR, "KeyError")
    assert one.detail.startswith("code ") and one.detail.endswith(": 'USD'")
    assert one.detail == two.detail
    assert one.stacktrace.split("\n")[0].startswith("tests/fakes.py:")
    assert "features/user_state.py" in one.stacktrace
    assert (one.key, one.value, one.headers) == (record.key, record.value, record.headers)


def test_a_bad_record_after_an_unflushed_chunk_takes_the_place_of_the_row_that_waits_to_be_written() -> None:
    guarded, sound = Guarded(features(rates=BrokenRates(RATES, "USD"))), Guarded(features())
    records = records_of([purchase(), purchase(event_id="p-2", currency="USD")])
    guarded.fold(records[:1])

    folded = guarded.fold(records[1:])

    sound.fold(records[:1])
    assert encoded(folded.dirty[b"u-1"]) == sound.written()[b"u-1"]


def test_a_user_whose_first_record_is_bad_has_no_row() -> None:
    guarded = Guarded(features(rates=BrokenRates(RATES, "USD")))

    folded = guarded.fold(records_of([purchase(currency="USD")]))

    assert (guarded.rows, folded.dirty) == ({}, {})


def test_a_row_that_was_only_read_goes_back_to_its_bytes() -> None:
    guarded = Guarded(features(rates=BrokenRates(RATES, "USD")))
    records = records_of([purchase(), purchase(event_id="p-2", currency="USD")])
    guarded.fold(records[:1])
    guarded.flush()
    row = guarded.written()[b"u-1"]
    guarded.rows, guarded.undo = Rows(), Undo()
    guarded.rows[b"u-1"] = row

    folded = guarded.fold(records[1:])

    assert (guarded.rows, folded.dirty) == ({b"u-1": row}, {})


def test_a_bad_record_sent_again_once_the_bug_is_mended_counts_once() -> None:
    guarded = Guarded(features(policy=BrokenPolicy({"click-1"})))
    record = records_of([click()])[0]
    again = [LogRecord(record.topic, 0, offset, record.timestamp, record.key, record.value) for offset in (1, 2)]

    guarded.fold([record])
    guarded.step = features()
    guarded.fold(again)

    assert guarded.totals.events == Totals(events_in=3, applied=1, dead_lettered=1, duplicate_dropped=1)


def test_feedback_that_fails_is_a_dead_letter_of_its_own_topic_and_the_users_other_events_stay() -> None:
    sentiment = review_sentiment(sentiment=0.5)
    guarded, sound = Guarded(features()), Guarded(features())
    records = records_of([visit(), search(), sentiment])
    guarded.fold(records[:2])
    guarded.rows[b"u-1"].topics[7] = "no state"  # a bug that left rubbish in the row

    guarded.fold(records[2:])

    sound.fold(records[:2])
    assert [output.kind for output in guarded.outputs if output.kind.endswith(".dlq")] == ["review-sentiment.dlq"]
    assert guarded.written() == sound.written()
    assert guarded.totals.feedback == Totals(events_in=1, dead_lettered=1)


def test_a_row_of_another_version_is_no_error_of_a_record() -> None:
    guarded = Guarded(features())
    guarded.rows[b"u-1"] = b"\x63no row"

    with pytest.raises(RowVersionError):
        guarded.fold(records_of([click()]))


# ------------------------------------------------------------------------------------------------------------- triggers


def test_a_signal_whose_decision_fails_leaves_no_campaign_fired_and_no_decision() -> None:
    hour = 3_600_000
    signals = [
        churn_risk(
            signal_id=f"s-{n}",
            event_time_ms=NOW_MS + n * hour,
            source=source_position(offset=n, timestamp_ms=NOW_MS + n * hour),
        )
        for n in range(6)
    ]
    broken = TriggersFold(topics=TOPICS, policy=BrokenTriggers(POLICY, {"s-0", "s-2", "s-3"}))  # type: ignore[arg-type]
    guarded, sound = Guarded(broken), Guarded(TriggersFold(topics=TOPICS, policy=POLICY))
    records = records_of(signals)

    sent = [output for chunk in (records[:2], records[2:]) for output in guarded.fold(chunk).with_rows]
    expected = sound.fold([records[n] for n in (1, 4, 5)]).with_rows

    assert sent == expected
    assert guarded.written() == sound.written()
    assert guarded.totals.events == Totals(events_in=6, applied=3, dead_lettered=3)
    assert {letter.exception for letter in guarded.letters()} == {"IndexError"}


def test_signals_of_both_topics_are_restored_together() -> None:
    broken = TriggersFold(topics=TOPICS, policy=BrokenTriggers(POLICY, {"i-2"}))  # type: ignore[arg-type]
    guarded, sound = Guarded(broken), Guarded(TriggersFold(topics=TOPICS, policy=POLICY))
    first, second, third = (interest(signal_id=f"i-{n}", source=source_position(offset=n)) for n in (1, 2, 3))
    records = records_of([first, churn_risk(), second, third])

    guarded.fold(records)

    sound.fold([records[0], records[1], records[3]])
    assert guarded.written() == sound.written()
