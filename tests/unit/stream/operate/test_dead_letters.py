"""What sending a dead letter again sends, and what an operator is shown of it."""

import json
from typing import Any

import pytest
import typer

from schemas.codec import encode
from schemas.dead_letter import Reason, bounded
from schemas.ids import position_id
from schemas.scoring import ScoreRequest
from schemas.time_units import DAY_MS
from schemas.topics import TABLE
from stream.cli.dlq import as_fields, as_text, since_ms
from stream.fold.records import EVENT_ID, RESENT, PartitionTotals, Totals
from stream.offline.replay_log import LogRecord
from stream.operate.dead_letters import (
    NAMED_AT_MOST,
    FoundLetter,
    Replayed,
    SourceTopic,
    headers_again,
    outcome_of,
    target_partition,
)
from stream.process.settings import load_settings
from stream.roles.features_fold import FeaturesFold
from stream.roles.scoring_policy import ScoringPolicy
from tests.builders import NOW_MS, click, dead_letter, score_request, search

CLICKS = TABLE["click"].name
TOPICS = {kind: topic.name for kind, topic in TABLE.items()}


def found(kind: str = "click", **changes: Any) -> FoundLetter:
    return FoundLetter(kind, dead_letter(**changes), partition=0, offset=7, refused_ms=NOW_MS + 5)


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "sent"),
        ({"timestamp_ms": NOW_MS - DAY_MS}, "expired"),
        ({"timestamp_ms": NOW_MS - DAY_MS, "reason": Reason.FROM_FUTURE}, "sent"),
        ({"topic": "payments"}, "foreign"),
        ({"partition": 4}, "no_partition"),
        ({"partition": -1}, "no_partition"),
    ],
    ids=str,
)
def test_a_dead_letter_is_sent_unless_its_topic_keeps_no_such_records_or_is_another(
    changes: dict[str, Any], outcome: str
) -> None:
    assert outcome_of(found(**changes), SourceTopic(CLICKS, 4, NOW_MS - 1000)) == outcome


@pytest.mark.parametrize(
    ("partitioner", "misplaced_keys", "reason", "partition"),
    [
        ("murmur2", "dead_letter", Reason.MISPLACED_KEY, 2),
        ("crc32", "dead_letter", Reason.MISPLACED_KEY, 3),
        ("murmur2", "accept", Reason.MISPLACED_KEY, 1),
        ("murmur2", "dead_letter", Reason.UNKNOWN_CURRENCY, 1),
    ],
)
def test_a_record_with_a_misplaced_key_is_sent_where_the_key_belongs_and_every_other_one_where_it_was(
    partitioner: str, misplaced_keys: str, reason: Reason, partition: int
) -> None:
    settings = load_settings(partitioner=partitioner, misplaced_keys=misplaced_keys)
    letter = dead_letter(key=b"crc-1", partition=1, reason=reason)

    assert target_partition(letter, settings, 4) == partition


def test_a_dead_letter_without_its_bytes_is_left() -> None:
    letter = bounded(dead_letter(value=b"x" * 300_000))
    assert outcome_of(FoundLetter("click", letter, 0, 7, NOW_MS), SourceTopic(CLICKS, 4)) == "not_whole"


def test_a_dead_letter_of_a_topic_that_is_gone_is_left() -> None:
    assert outcome_of(found(), SourceTopic(CLICKS, 0)) == "no_partition"


def test_the_first_letters_of_each_outcome_are_named_and_all_are_counted() -> None:
    replayed = Replayed()
    for offset in range(2 * NAMED_AT_MOST):
        replayed.count(FoundLetter("click", dead_letter(), 3, offset, NOW_MS), "expired")
        replayed.count(FoundLetter("click", dead_letter(), 3, offset, NOW_MS), "sent")
    replayed.count(found(), "refused", "too large")

    assert (replayed.outcomes["expired"], replayed.outcomes["sent"], replayed.total) == (40, 40, 81)
    assert [left.letter_offset for left in replayed.left] == [*range(NAMED_AT_MOST), 7]
    assert replayed.left[-1].why == "too large"


def test_an_event_with_an_id_is_sent_with_its_own_headers_only() -> None:
    headers = (("trace", b"1"),)
    assert headers_again(found(value=encode(click()), headers=headers)) == headers


def test_an_event_without_an_id_takes_the_id_of_its_first_position_along_and_keeps_it() -> None:
    value, headers = encode(click(event_id=None)), (("trace", b"1"),)

    first = headers_again(found(value=value, headers=headers, offset=41))
    second = headers_again(found(value=value, headers=first, offset=99))

    assert first == second == (*headers, (EVENT_ID, position_id(CLICKS, 3, 41).encode()))


def test_a_message_of_ours_is_marked_once_however_often_it_is_sent_again() -> None:
    value, topic = encode(score_request()), TOPICS["score-request"]

    first = headers_again(found("score-request", value=value, topic=topic, headers=(("trace", b"1"),)))
    second = headers_again(found("score-request", value=value, topic=topic, headers=first))

    assert first == second == (("trace", b"1"), (RESENT, b"1"))


def test_an_event_without_an_id_that_is_sent_again_twice_counts_once_under_the_id_it_would_have_had() -> None:
    fold = FeaturesFold(topics=TOPICS, policy=ScoringPolicy(), rates={"EUR": 1.0})
    value = encode(search(event_id=None))
    [(_, event_id)] = headers_again(found("search", value=value, topic=TOPICS["search"], partition=0, offset=4))
    again = [LogRecord(TOPICS["search"], 0, n, NOW_MS, b"u-1", value, ((EVENT_ID, event_id),)) for n in (8, 9)]
    totals = PartitionTotals()

    [output] = fold.fold({}, totals, again, NOW_MS).outputs

    assert totals.events == Totals(events_in=2, applied=1, duplicate_dropped=1)
    assert isinstance(output.message, ScoreRequest)
    assert output.message.event_id == position_id(TOPICS["search"], 0, 4)


@pytest.mark.parametrize("header", [b"", b"x" * 65, "é".encode()])
def test_an_id_header_that_could_be_no_id_is_ignored(header: bytes) -> None:
    fold = FeaturesFold(topics=TOPICS, policy=ScoringPolicy(), rates={})
    record = LogRecord(TOPICS["search"], 0, 8, NOW_MS, b"u-1", encode(search(event_id=None)), ((EVENT_ID, header),))

    [output] = fold.fold({}, PartitionTotals(), [record], NOW_MS).outputs

    assert isinstance(output.message, ScoreRequest)
    assert output.message.event_id == position_id(TOPICS["search"], 0, 8)


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [("30m", NOW_MS - 1_800_000), ("7d", NOW_MS - 7 * DAY_MS), ("1970-01-01", 0), ("1970-01-01T01:00:00+01:00", 0)],
)
def test_since_is_a_span_or_a_time(text: str, at_ms: int) -> None:
    assert since_ms(text, NOW_MS) == at_ms


@pytest.mark.parametrize("text", ["", "soon", "-3h", "7w"])
def test_a_since_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="ISO 8601"):
        since_ms(text, NOW_MS)


def test_what_is_shown_cannot_steer_a_terminal_or_forge_a_line() -> None:
    evil = b"\x1b[2J\r\n\xff\xe2\x80\xae"
    text = as_text(found(value=evil, key=evil, detail=evil.decode(errors="replace"), headers=(("h\x1b", evil),)))
    assert all(character.isprintable() or character == "\n" for character in text)
    assert len(text.split("\n")) == 6
    assert r"\x1b[2J\x0d\x0a\xff\u202e" in text


def test_a_long_value_is_cut_and_says_how_much_is_left_out() -> None:
    assert "… (8000 more)" in as_text(found(value=b"x" * 10_000))


def test_the_json_of_a_dead_letter_holds_the_original_bytes() -> None:
    import base64

    import msgspec

    fields = json.loads(msgspec.json.encode(as_fields(found(value=b"\xff\x00"))))
    assert base64.b64decode(fields["value_b64"]) == b"\xff\x00"
    assert (fields["reason"], fields["topic"], fields["offset"]) == ("bad_json", CLICKS, 41)
