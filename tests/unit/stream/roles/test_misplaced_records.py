"""The folds check a key where a user's row or part of it begins: no user is split, and no event pays for the check."""

from typing import Any

import pytest

from schemas.codec import encode
from schemas.dead_letter import DeadLetter, Reason
from schemas.time_units import DAY_MS
from schemas.topics import TABLE
from stream.fold.placement import Placement
from stream.fold.records import Folded, PartitionTotals, Totals
from stream.fold.rows import Rows
from stream.fold.undo import Undo
from stream.offline.replay_log import LogRecord
from stream.roles.features_fold import FeaturesFold
from stream.roles.handler_errors import fold_guarded
from stream.roles.scoring_policy import ScoringPolicy
from stream.roles.trigger_policy import Campaign, TriggerPolicy
from stream.roles.triggers_fold import TriggersFold
from tests.builders import NOW_MS, click, interest, purchase, review_sentiment, source_position, visit

TOPICS = {kind: topic.name for kind, topic in TABLE.items()}
USER, HOME, ELSEWHERE = "crc-1", 2, 3  # of four partitions, by murmur2; crc32 chooses the other one
KEY = USER.encode()
STRICT, LENIENT = Placement("murmur2", 4), Placement("murmur2", 4, accepts_misplaced=True)


def features(placement: Placement | None) -> FeaturesFold:
    return FeaturesFold(topics=TOPICS, policy=ScoringPolicy(), rates={"EUR": 1.0}, placement=placement)


def record(kind: str, message: Any, *, partition: int, offset: int = 0, at: int = NOW_MS) -> LogRecord:
    return LogRecord(TOPICS[kind], partition, offset, at, KEY, encode(message))


def letters(folded: Folded) -> list[tuple[str, Reason]]:
    return [(output.kind, output.message.reason) for output in folded.outputs if isinstance(output.message, DeadLetter)]


def test_a_record_of_another_partition_becomes_a_dead_letter_and_leaves_no_row() -> None:
    rows, totals = dict[bytes, Any](), PartitionTotals()

    folded = features(STRICT).fold(rows, totals, [record("click", click(user_id=USER), partition=ELSEWHERE)], NOW_MS)

    assert letters(folded) == [("click.dlq", "misplaced_key")]
    assert (rows, folded.dirty) == ({}, {})
    assert totals.events == Totals(events_in=1, dead_lettered=1) and totals.outputs == {"dead-letter": 1}
    assert [(found.partition, found.expected) for found in folded.misplaced] == [(ELSEWHERE, HOME)]


def test_every_record_of_a_misplaced_key_is_refused_whatever_came_before_it() -> None:
    rows, totals = dict[bytes, Any](), PartitionTotals()
    records = [record("click", click(user_id=USER, event_id=f"c-{n}"), partition=ELSEWHERE, offset=n) for n in range(3)]

    folded = features(STRICT).fold(rows, totals, [*records, records[0]], NOW_MS)

    assert letters(folded) == [("click.dlq", "misplaced_key")] * 4
    assert rows == {} and totals.events.dead_lettered == 4


def test_a_topic_that_begins_in_an_older_row_is_checked_and_the_parts_that_the_row_has_are_not() -> None:
    rows, totals = dict[bytes, Any](), PartitionTotals()
    features(None).fold(rows, totals, [record("visit", visit(user_id=USER), partition=ELSEWHERE)], NOW_MS)
    before = [part is not None for part in rows[KEY].topics]
    again = record("visit", visit(user_id=USER, event_id="v-2"), partition=ELSEWHERE, offset=1)
    bought = record("purchase", purchase(user_id=USER), partition=ELSEWHERE)

    folded = features(STRICT).fold(rows, totals, [again, bought], NOW_MS)

    assert letters(folded) == [("purchase.dlq", "misplaced_key")]
    assert totals.events == Totals(events_in=3, applied=2, dead_lettered=1)
    assert [part is not None for part in rows[KEY].topics] == before


def test_a_part_that_expired_begins_anew_and_is_checked_again() -> None:
    rows, totals, later = dict[bytes, Any](), PartitionTotals(), NOW_MS + 500 * DAY_MS
    features(None).fold(rows, totals, [record("visit", visit(user_id=USER), partition=ELSEWHERE)], NOW_MS)
    back = visit(user_id=USER, event_id="v-2", event_time_ms=later)

    folded = features(STRICT).fold(rows, totals, [record("visit", back, partition=ELSEWHERE, offset=1, at=later)], NOW_MS)

    assert letters(folded) == [("visit.dlq", "misplaced_key")]
    assert rows[KEY].topics[0].newest_ms == NOW_MS


def test_a_late_record_is_late_in_any_partition() -> None:
    totals = PartitionTotals()
    late = record("click", click(user_id=USER), partition=ELSEWHERE, at=NOW_MS + 2 * DAY_MS)

    folded = features(STRICT).fold({}, totals, [late], NOW_MS)

    assert totals.events == Totals(events_in=1, late_dropped=1)
    assert folded.misplaced == []


def test_accepted_keys_are_folded_and_found_once_per_part() -> None:
    rows, totals = dict[bytes, Any](), PartitionTotals()
    records = [
        *(record("click", click(user_id=USER, event_id=f"c-{n}"), partition=ELSEWHERE, offset=n) for n in range(3)),
        record("visit", visit(user_id=USER), partition=ELSEWHERE),
    ]

    folded = features(LENIENT).fold(rows, totals, records, NOW_MS)

    assert totals.events == Totals(events_in=4, applied=4) and letters(folded) == []
    assert [found.topic for found in folded.misplaced] == [TOPICS["click"], TOPICS["visit"]]


def test_our_own_feedback_stays_in_the_partition_of_its_source() -> None:
    rows, totals = dict[bytes, Any](), PartitionTotals()

    folded = features(STRICT).fold(
        rows, totals, [record("review-sentiment", review_sentiment(user_id=USER), partition=ELSEWHERE)], NOW_MS
    )

    assert totals.feedback == Totals(events_in=1, applied=1) and folded.misplaced == []


def test_refused_records_take_no_memory_for_a_row() -> None:
    rows, totals = Rows(), PartitionTotals()
    records = [record("click", click(user_id=USER), partition=ELSEWHERE, offset=n) for n in range(2)]

    folded = fold_guarded(features(STRICT), rows, totals, Undo(), records, NOW_MS)

    assert letters(folded) == [("click.dlq", "misplaced_key")] * 2 and len(rows) == rows.decoded == 0


# ---------------------------------------------------------------------------------------------------------- triggers

POLICY = TriggerPolicy(version="policy-1", campaigns=[Campaign(id="mugs", signal="interest", threshold=0.5)])


def triggers(placement: Placement | None) -> TriggersFold:
    return TriggersFold(topics=TOPICS, policy=POLICY, placement=placement)


@pytest.mark.parametrize(("partition", "decided"), [(HOME, 1), (ELSEWHERE, 0)])
def test_a_campaign_decides_only_in_the_partition_of_its_user(partition: int, decided: int) -> None:
    rows, totals = dict[bytes, Any](), PartitionTotals()

    folded = triggers(STRICT).fold(rows, totals, [record("interest", interest(user_id=USER), partition=partition)], NOW_MS)

    assert (len(folded.with_rows), len(rows)) == (decided, decided)
    assert letters(folded) == [("interest.dlq", "misplaced_key")] * (1 - decided)
    assert totals.events == Totals(events_in=1, applied=decided, dead_lettered=1 - decided)


def test_signals_go_on_into_a_row_that_exists_and_accepted_keys_into_a_new_one() -> None:
    rows = dict[bytes, Any]()
    first = record("interest", interest(user_id=USER), partition=ELSEWHERE)
    later = interest(user_id=USER, signal_id="i-2", source=source_position(offset=42))
    second = record("interest", later, partition=ELSEWHERE, offset=1)

    accepted = triggers(LENIENT).fold(rows, PartitionTotals(), [first], NOW_MS)
    kept = triggers(STRICT).fold(rows, PartitionTotals(), [second], NOW_MS)

    assert [found.expected for found in accepted.misplaced] == [HOME]
    assert (letters(kept), kept.misplaced, len(kept.with_rows)) == ([], [], 1)
