"""Folding records: nothing is lost, nothing counts twice, and a request names exactly the records it rests on."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from models.features.recent_ids import RecentIds, id_hash
from models.features.row_codec import encode_row
from models.features.spec import FEATURE_SPEC, KINDS
from models.features.user_state import UserState
from schemas.codec import decode, encode
from schemas.dead_letter import DeadLetter, Reason
from schemas.errors import RowVersionError
from schemas.ids import output_id, position_id
from schemas.scoring import ScoreRequest
from schemas.signals import AdTrigger, Interest, Suppression, Unread
from schemas.time_units import DAY_MS, MINUTE_MS
from schemas.topics import TABLE
from stream.fold.ordering import aligned
from stream.fold.records import RESENT, Folded, Output, PartitionTotals, Totals
from stream.logs.simulate.dirt import MALFORMED
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.replay_log import LogRecord
from stream.roles.features_fold import SENT_AT, FeaturesFold
from stream.roles.scoring_policy import ScoringPolicy
from stream.roles.trigger_policy import Campaign, TriggerPolicy
from stream.roles.trigger_row import decode_trigger_row, encode_trigger_row
from stream.roles.triggers_fold import TriggersFold
from tests.builders import (
    NOW_MS,
    churn_risk,
    click,
    interest,
    purchase,
    purchase_line,
    review,
    review_sentiment,
    search,
    source_position,
    visit,
)

TOPICS = {kind: topic.name for kind, topic in TABLE.items()}
KIND_OF = {name: kind for kind, name in TOPICS.items()}
KEY = b"u-1"


class Features:
    """A fold of role features with its rows and totals; `fold` takes events and numbers them, `fold_records` records."""

    def __init__(self) -> None:
        self.step = FeaturesFold(topics=TOPICS, policy=ScoringPolicy(), rates={"EUR": 1.0, "GBP": 1.25})
        self.rows: dict[bytes, Any] = {}
        self.totals = PartitionTotals()
        self._offsets: Counter[str] = Counter()

    def fold(self, *events: Any, record_ms: int | None = None, headers: Sequence[tuple[str, bytes]] = ()) -> Folded:
        records = []
        for event in events:
            topic = TOPICS["review-sentiment" if hasattr(event, "sentiment") else type(event).__name__.lower()]
            at = event.event_time_ms if record_ms is None else record_ms
            value, headers = encode(event), tuple(headers)
            records.append(LogRecord(topic, 0, self._offsets[topic], at, event.user_id.encode(), value, headers))
            self._offsets[topic] += 1
        return self.fold_records(records)

    def fold_records(self, records: Sequence[LogRecord]) -> Folded:
        return self.step.fold(self.rows, self.totals, records, NOW_MS + 7)


def raw(kind: str, value: bytes | None, *, key: bytes | None = KEY, offset: int = 0) -> LogRecord:
    return LogRecord(TOPICS[kind], 3, offset, NOW_MS, key, value)


def requests_of(outputs: Iterable[Output]) -> list[ScoreRequest]:
    return [output.message for output in outputs if isinstance(output.message, ScoreRequest)]


def balanced(totals: Totals) -> bool:
    accounted = totals.applied + totals.replay_skipped + totals.dead_lettered + totals.declared_dropped
    return totals.events_in == accounted


# ------------------------------------------------------------------------------------------------- a dirty, made shop


@pytest.fixture(scope="module")
def dirty() -> list[Any]:
    return simulate(SimulatorConfig(seed=2, shoppers=25, days=30, late=0.05, duplicates=0.05, malformed=0.05))


@pytest.fixture(scope="module")
def dirty_records(dirty: list[Any]) -> list[LogRecord]:
    offsets: Counter[str] = Counter()
    records = []
    for event in aligned([event.logged for event in dirty]):
        topic = TOPICS[event.kind]
        records.append(LogRecord(topic, 0, offsets[topic], event.record_ms, event.key, event.value))
        offsets[topic] += 1
    return records


def test_on_dirty_input_every_record_is_applied_skipped_dead_lettered_or_dropped(
    dirty: list[Any], dirty_records: list[LogRecord]
) -> None:
    features, dirt = Features(), Counter(event.dirt for event in dirty)

    folded = features.fold_records(dirty_records)

    totals = features.totals.events
    assert balanced(totals)
    assert totals.events_in == len(dirty)
    assert totals.dead_lettered == sum(dirt[label] for label in MALFORMED)
    assert totals.late_dropped == dirt["late:beyond-a-day"]
    assert totals.duplicate_dropped == dirt["duplicate"] > 0
    assert features.totals.outputs == Counter(
        "dead-letter" if output.kind.endswith(".dlq") else output.kind for output in folded.outputs
    )


def test_every_malformed_record_becomes_a_dead_letter_with_its_reason_and_its_original_bytes(
    dirty: list[Any], dirty_records: list[LogRecord]
) -> None:
    letters = [o for o in Features().fold_records(dirty_records).outputs if isinstance(o.message, DeadLetter)]
    originals = {(record.topic, record.offset): record for record in dirty_records}

    for output in letters:
        letter = output.message
        original = originals[letter.topic, letter.offset]
        assert (letter.key, letter.value, letter.timestamp_ms) == (original.key, original.value, original.timestamp)
        assert output.kind == f"{KIND_OF[letter.topic]}.dlq"
    expected = Counter(MALFORMED[event.dirt][0] for event in dirty if event.dirt in MALFORMED)
    assert Counter(output.message.reason for output in letters) == expected


def test_the_records_a_request_names_give_its_features_again_and_no_others_are_needed(dirty_records: list[LogRecord]) -> None:
    requests = requests_of(Features().fold_records(dirty_records).outputs)
    by_user: dict[bytes | None, list[LogRecord]] = defaultdict(list)
    for record in dirty_records:
        by_user[record.key].append(record)

    assert len(requests) > 300
    for request in requests[::5]:
        guard = {TOPICS[kind]: span for kind, span in request.guard.items()}
        named = [
            record
            for record in by_user[request.user_id.encode()]
            if record.topic in guard and guard[record.topic][0] <= record.offset <= guard[record.topic][1]
        ]
        [*others, cause] = cause_last(named, request)
        again = Features()
        again.fold_records(others)
        [found] = requests_of(again.fold_records([cause]).outputs)
        assert (found.features, found.history, found.categories) == (request.features, request.history, request.categories)
        assert (found.request_id, found.guard) == (request.request_id, request.guard)


def cause_last(records: list[LogRecord], request: ScoreRequest) -> list[LogRecord]:
    """Put all other topics first, each in its own order, and the record that caused the request last."""
    own = [record for record in records if record.topic == request.source.topic]
    return [record for record in records if record.topic != request.source.topic] + own


def test_records_seen_again_are_skipped_and_change_nothing(dirty_records: list[LogRecord]) -> None:
    features = Features()
    features.fold_records(dirty_records)
    rows = {key: encode_row(row) for key, row in features.rows.items()}
    applied = features.totals.events.applied
    features.rows = dict(rows)

    again = features.fold_records(dirty_records)

    assert features.totals.events.applied == applied
    assert features.totals.events.replay_skipped >= applied
    assert balanced(features.totals.events)
    assert requests_of(again.outputs) == []
    assert again.dirty == {}
    assert {key: row if isinstance(row, bytes) else encode_row(row) for key, row in features.rows.items()} == rows


# ------------------------------------------------------------------------------------------------------ dead letters


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (None, KEY, Reason.EMPTY_VALUE),
        (b"", KEY, Reason.EMPTY_VALUE),
        (b"{", KEY, Reason.BAD_JSON),
        (b"\xff\xfe", KEY, Reason.BAD_JSON),
        (b'{"a":' + b"[" * 100_000, KEY, Reason.BAD_JSON),
        (b" " * 256_001, KEY, Reason.TOO_LARGE),
        (b'{"user_id":"u-1","event_time_ms":1}', KEY, Reason.MISSING_FIELD),
        (b'{"user_id":"u-1","event_time_ms":"1","item_id":"i"}', KEY, Reason.WRONG_TYPE),
        (b'{"user_id":"u-1","event_time_ms":-1,"item_id":"i"}', KEY, Reason.OUT_OF_RANGE),
        (b'{"user_id":"u-1","event_time_ms":1,"item_id":"\xed\xa0\x80"}', KEY, Reason.BAD_JSON),
        (encode(click()), b"u-2", Reason.KEY_MISMATCH),
        (encode(click()), None, Reason.MISSING_KEY),
        (encode(click(event_time_ms=NOW_MS + 5 * MINUTE_MS + 1)), KEY, Reason.FROM_FUTURE),
    ],
)
def test_a_record_that_is_refused_becomes_a_dead_letter_and_the_stream_goes_on(
    value: bytes | None, key: bytes | None, reason: Reason
) -> None:
    features = Features()

    folded = features.fold_records([raw("click", value, key=key, offset=8), raw("click", encode(click()), offset=9)])

    [output] = folded.outputs
    letter = output.message
    assert isinstance(letter, DeadLetter)
    assert (output.kind, output.partition, output.timestamp_ms, output.key) == ("click.dlq", 3, NOW_MS + 7, key)
    assert (letter.topic, letter.partition, letter.offset) == (TOPICS["click"], 3, 8)
    assert letter.reason == reason
    assert letter.key == key
    assert letter.value == (None if reason is Reason.TOO_LARGE else value)
    assert features.totals.events == Totals(events_in=2, applied=1, dead_lettered=1)


def test_a_purchase_in_an_unknown_currency_is_a_dead_letter_that_says_what_to_do() -> None:
    features = Features()

    [output] = features.fold(purchase(currency="USD")).outputs

    assert isinstance(output.message, DeadLetter)
    assert output.message.reason == Reason.UNKNOWN_CURRENCY
    assert output.message.detail == "found currency USD, expected one of EUR, GBP: add it to currency_rates"
    assert features.rows == {}


def test_an_event_five_minutes_ahead_of_its_arrival_is_accepted() -> None:
    features = Features()

    features.fold(click(), record_ms=NOW_MS - 5 * MINUTE_MS)

    assert features.totals.events.applied == 1


def test_a_late_event_is_counted_and_dropped_and_its_id_is_not_remembered() -> None:
    features = Features()

    dropped = features.fold(click(), record_ms=NOW_MS + DAY_MS + 1)
    features.fold(click(), record_ms=NOW_MS + DAY_MS)

    assert (dropped.outputs, dropped.dirty) == ([], {})
    assert features.totals.events == Totals(events_in=2, applied=1, late_dropped=1)


def test_a_duplicate_is_counted_and_dropped_and_another_topic_may_use_the_same_id() -> None:
    features = Features()

    features.fold(click(event_id="same"), click(event_id="same"), search(event_id="same"))

    assert features.totals.events == Totals(events_in=3, applied=2, duplicate_dropped=1)


def test_events_without_an_id_are_never_duplicates() -> None:
    features = Features()

    features.fold(*[click(event_id=None)] * 3)

    assert features.totals.events.applied == 3


@pytest.mark.parametrize("header", [b"", b"noon", b"1.5", b"9" * 5000])
def test_a_sent_at_header_that_is_no_number_does_not_stop_the_stream(header: bytes) -> None:
    features = Features()

    features.fold(visit(), headers=[(SENT_AT, header)])

    assert balanced(features.totals.events)


@pytest.mark.parametrize("returned", [False, True])
def test_a_purchase_at_all_limits_of_its_fields_leaves_a_row_that_can_be_encoded(returned: bool) -> None:
    features = Features()
    line = purchase_line(unit_price=1e9, quantity=1_000_000, returned=returned)

    features.fold(purchase(lines=[line] * 200))

    assert all(encode_row(row) for row in features.rows.values())


# ----------------------------------------------------------------------------------------------------- score requests


def test_a_request_says_who_what_why_from_where_and_when() -> None:
    [output] = Features().fold(search(query="blue mug")).outputs
    request = output.message

    assert isinstance(request, ScoreRequest)
    assert (output.kind, output.partition, output.key, output.timestamp_ms) == ("score-request", 0, KEY, NOW_MS + 7)
    assert (request.user_id, request.event_id, request.kind, request.due) == ("u-1", "search-1", "search", "search")
    assert (request.source.topic, request.source.offset) == (TOPICS["search"], 0)
    assert (request.guard, request.text, request.review_id) == ({"search": (0, 0)}, "blue mug", None)
    assert (request.spec_version, len(request.features)) == (FEATURE_SPEC.version, len(FEATURE_SPEC.names))
    assert request.timings.folded_ms == NOW_MS + 7
    assert request.request_id == output_id("u-1", "search", "search-1", "score-request")
    assert decode(ScoreRequest, encode(request)) == request


def test_a_request_of_a_review_carries_its_text_and_id() -> None:
    [request] = requests_of(Features().fold(review(text="A lovely mug.", review_id="r-9")).outputs)

    assert (request.text, request.review_id) == ("A lovely mug.", "r-9")


def test_an_event_without_an_id_gets_one_from_its_position() -> None:
    features = Features()

    one, two = requests_of(features.fold(search(event_id=None), search(event_id=None)).outputs)

    assert [one.event_id, two.event_id] == [position_id(TOPICS["search"], 0, offset) for offset in (0, 1)]
    assert one.request_id != two.request_id


@pytest.mark.parametrize(("headers", "sent_ms"), [([], NOW_MS), ([("other", b"x"), (SENT_AT, b"1234567")], 1_234_567)])
def test_a_request_was_sent_when_its_header_says_or_else_at_the_records_own_time(headers: Any, sent_ms: int) -> None:
    [request] = requests_of(Features().fold(visit(), headers=headers).outputs)

    assert request.timings.sent_ms == sent_ms


def test_rows_that_changed_are_dirty_and_the_fold_reads_rows_from_their_bytes() -> None:
    features = Features()
    first = features.fold(click())
    features.rows = {key: encode_row(row) for key, row in features.rows.items()}

    second = features.fold(click(event_id="click-2"))

    assert set(first.dirty) == set(second.dirty) == {KEY}
    assert isinstance(features.rows[KEY], UserState)
    assert features.rows[KEY].topics[KINDS.index("click")].tiles.totals[0] == 2


# ---------------------------------------------------------------------------------------------------------- feedback


def test_sentiment_is_counted_by_itself_and_once_per_review_and_causes_no_score() -> None:
    features = Features()
    features.fold(review())

    folded = features.fold(review_sentiment(), review_sentiment(signal_id="again"), review_sentiment(review_id="other"))

    assert folded.outputs == []
    assert set(folded.dirty) == {KEY}
    assert features.totals.feedback == Totals(events_in=3, applied=2, duplicate_dropped=1)
    assert features.totals.events == Totals(events_in=1, applied=1)


def test_sentiment_seen_again_is_skipped_and_one_that_is_none_is_a_dead_letter() -> None:
    features = Features()
    features.fold(review_sentiment())

    features.fold_records([raw("review-sentiment", encode(review_sentiment()))])
    [output] = features.fold_records([raw("review-sentiment", b"?", offset=1)]).outputs

    assert output.kind == "review-sentiment.dlq"
    assert features.totals.feedback == Totals(events_in=3, applied=1, replay_skipped=1, dead_lettered=1)


def test_a_null_sentiment_moves_the_guard_and_adds_to_no_mean() -> None:
    features, without = Features(), Features()
    null = review_sentiment(review_id="unread", sentiment=None, unread=Unread.BLANK)
    features.fold(review(), null, review_sentiment(sentiment=0.5))
    without.fold(review(), review_sentiment(sentiment=0.5))
    later = search(event_time_ms=NOW_MS + 1)

    (found,), (expected,) = requests_of(features.fold(later).outputs), requests_of(without.fold(later).outputs)

    assert found.features == expected.features
    assert (found.guard["review-sentiment"], expected.guard["review-sentiment"]) == ((0, 1), (0, 0))
    features.fold_records([raw("review-sentiment", encode(null))])
    features.fold(null)
    assert features.totals.feedback == Totals(events_in=4, applied=2, replay_skipped=1, duplicate_dropped=1)


def test_a_user_of_whom_only_a_null_sentiment_came_has_no_mean_yet() -> None:
    features = Features()
    features.fold(review_sentiment(sentiment=None, unread=Unread.NO_WORDS))

    (found,) = requests_of(features.fold(search(event_time_ms=NOW_MS + 1)).outputs)

    assert found.guard["review-sentiment"] == (0, 0)
    assert found.features[FEATURE_SPEC.names.index("review.sentiment_mean.life")] is None


@pytest.mark.parametrize("key", [None, b"u-2"])
def test_sentiment_under_another_key_is_a_dead_letter_and_makes_no_row(key: bytes | None) -> None:
    features = Features()

    [output] = features.fold_records([raw("review-sentiment", encode(review_sentiment()), key=key)]).outputs

    assert output.kind == "review-sentiment.dlq"
    assert (features.rows, features.totals.feedback) == ({}, Totals(events_in=1, dead_lettered=1))


def test_the_offset_of_sentiment_is_in_the_guard_of_the_next_request() -> None:
    features = Features()
    features.fold(review())
    features.fold(review_sentiment())

    [request] = requests_of(features.fold(search(event_time_ms=NOW_MS + 1)).outputs)

    assert request.guard == {"review": (0, 0), "search": (0, 0), "review-sentiment": (0, 0)}


# ---------------------------------------------------------------------------------------------------------- triggers


class Triggers:
    """A fold of role triggers with one campaign per signal, its rows and totals."""

    def __init__(self) -> None:
        campaigns = [
            Campaign(id="mugs", signal="interest", threshold=0.5),
            Campaign(id="back", signal="churn-risk", threshold=0.2),
        ]
        self.step = TriggersFold(topics=TOPICS, policy=TriggerPolicy(version="policy-1", campaigns=campaigns))
        self.rows: dict[bytes, Any] = {}
        self.totals = PartitionTotals()

    def fold(self, *records: tuple[str, int, Any]) -> Folded:
        """Fold records given as kind, offset and signal, or bytes."""
        made = [raw(k, v if isinstance(v, bytes) else encode(v), offset=offset) for k, offset, v in records]
        return self.step.fold(self.rows, self.totals, made, NOW_MS)


def later(offset: int, **changes: Any) -> Interest:
    """Return an interest whose source event is at an offset of its topic."""
    return interest(signal_id=f"interest-{offset}", source=source_position(offset=offset), **changes)


def test_decisions_go_with_the_rows_under_the_users_key() -> None:
    triggers = Triggers()

    folded = triggers.fold(("interest", 0, interest()), ("churn-risk", 0, churn_risk()))

    assert folded.outputs == []
    assert [(o.kind, o.partition, o.key, type(o.message)) for o in folded.with_rows] == [("ad-trigger", 3, KEY, AdTrigger)] * 2
    assert set(folded.dirty) == {KEY}
    assert triggers.totals.outputs == {"ad-trigger": 2}


def test_a_campaign_on_cooldown_sends_a_suppression_with_the_rows() -> None:
    triggers = Triggers()

    folded = triggers.fold(("interest", 0, later(41)), ("interest", 1, later(42)))

    assert [(o.kind, type(o.message)) for o in folded.with_rows] == [("ad-trigger", AdTrigger), ("suppression", Suppression)]
    assert triggers.totals.outputs == {"ad-trigger": 1, "suppression": 1}


def test_a_repeated_signal_is_ignored_and_counted_however_many_came_since() -> None:
    triggers = Triggers()
    signals = [later(offset, event_time_ms=NOW_MS + offset) for offset in range(600)]
    triggers.fold(*[("interest", n, signal) for n, signal in enumerate(signals)])
    triggers.rows = {key: encode_trigger_row(row) for key, row in triggers.rows.items()}

    again = triggers.fold(*[("interest", 600 + n, signal) for n, signal in enumerate(signals)])

    assert (again.with_rows, again.dirty) == ([], {})
    assert triggers.totals.events == Totals(events_in=1200, applied=600, duplicate_dropped=600)


def test_topics_of_one_name_but_another_id_are_told_apart() -> None:
    triggers = Triggers()
    ids = ("old", "new", "new", "")
    signals = [interest(signal_id=f"i-{n}", source=source_position(topic_id=name)) for n, name in enumerate(ids)]

    triggers.fold(*[("interest", n, signal) for n, signal in enumerate(signals)])

    assert triggers.totals.events == Totals(events_in=4, applied=3, duplicate_dropped=1)
    assert triggers.rows[KEY].decided == {"interest": {"old": 41, "new": 41, "shop.clicks.v1": 41}}


def test_a_signal_sent_again_from_the_dead_letters_is_decided_once_and_hides_none_of_the_later_ones() -> None:
    triggers = Triggers()
    triggers.fold(("interest", 0, later(50)))
    resent = replace(raw("interest", encode(later(7)), offset=1), headers=((RESENT, b"1"),))
    of_request = later(8, resent=True)

    first = triggers.step.fold(triggers.rows, triggers.totals, [resent], NOW_MS)
    again = triggers.step.fold(triggers.rows, triggers.totals, [replace(resent, offset=2)], NOW_MS)
    other = triggers.fold(("interest", 3, of_request), ("interest", 4, of_request), ("interest", 5, later(50)))

    assert [len(folded.with_rows) for folded in (first, again, other)] == [1, 0, 1]
    assert triggers.totals.events == Totals(events_in=6, applied=3, duplicate_dropped=3)


def test_a_row_of_the_version_before_decides_none_of_its_signals_again() -> None:
    triggers = Triggers()
    ids = RecentIds()
    ids.add(id_hash("interest-9"))
    triggers.rows = {KEY: msgspec.msgpack.encode([3, {"interest": 4}, {"interest": ids}, {}, NOW_MS])}

    triggers.fold(("interest", 5, later(9)), ("interest", 6, later(10)))

    assert triggers.totals.events == Totals(events_in=2, applied=1, duplicate_dropped=1)


def test_a_signal_dated_far_ahead_is_a_dead_letter_and_leaves_the_cooldown_as_it_was() -> None:
    triggers, in_2096 = Triggers(), NOW_MS + 70 * 365 * DAY_MS
    dated = later(2, event_time_ms=in_2096)
    stamped = interest(signal_id="i-3", event_time_ms=in_2096, source=source_position(offset=3, timestamp_ms=in_2096))
    minute_later = later(4, event_time_ms=NOW_MS + MINUTE_MS)

    folded = triggers.fold(
        ("interest", 0, later(1)), ("interest", 1, dated), ("interest", 2, stamped), ("interest", 3, minute_later)
    )

    assert [output.message.reason for output in folded.outputs] == [Reason.FROM_FUTURE] * 2  # type: ignore[attr-defined]
    assert [type(output.message) for output in folded.with_rows] == [AdTrigger, Suppression]
    assert triggers.rows[KEY].last_fired_ms == {"mugs": NOW_MS}
    assert triggers.rows[KEY].newest_ms == NOW_MS + MINUTE_MS


def test_a_source_a_day_ahead_of_its_signal_is_decided_and_one_beyond_is_not() -> None:
    triggers = Triggers()
    times = ((1, NOW_MS + DAY_MS), (2, NOW_MS + DAY_MS + 1))
    ahead = [interest(signal_id=f"i-{n}", source=source_position(offset=n, timestamp_ms=at)) for n, at in times]

    folded = triggers.fold(*[("interest", n, signal) for n, signal in enumerate(ahead)])

    assert triggers.totals.events == Totals(events_in=2, applied=1, dead_lettered=1)
    [letter] = [output.message for output in folded.outputs]
    assert "expected at most 1440 minutes after the arrival of its signal" in letter.detail  # type: ignore[attr-defined]


def test_a_row_that_a_signal_from_2096_left_behind_silences_no_campaign() -> None:
    triggers, in_2096 = Triggers(), NOW_MS + 70 * 365 * DAY_MS
    triggers.rows = {KEY: msgspec.msgpack.encode([3, {"interest": 4}, {}, {"mugs": in_2096}, in_2096])}

    folded = triggers.fold(("interest", 5, later(9)), ("interest", 6, later(10)))

    assert [type(output.message) for output in folded.with_rows] == [AdTrigger, Suppression]
    assert triggers.rows[KEY].last_fired_ms == {"mugs": NOW_MS}


def test_a_signal_sent_without_a_topic_id_is_a_repeat_when_it_comes_with_one() -> None:
    triggers = Triggers()
    triggers.fold(("interest", 0, later(7)))
    named = [interest(signal_id=f"interest-{n}", source=source_position(offset=n, topic_id="id")) for n in (7, 8)]

    triggers.fold(*[("interest", 1 + n, signal) for n, signal in enumerate(named)])

    assert triggers.totals.events == Totals(events_in=3, applied=2, duplicate_dropped=1)


def test_a_decision_is_named_by_the_position_of_its_source_and_the_campaign() -> None:
    named, other_id, elsewhere = (
        Triggers().fold(("interest", 0, signal)).with_rows[0].message.trigger_id  # type: ignore[attr-defined]
        for signal in (later(7), interest(signal_id="other", source=source_position(offset=7)), later(8))
    )

    assert named == other_id != elsewhere


def test_a_signal_record_seen_again_is_skipped_by_its_topics_own_offset() -> None:
    triggers = Triggers()
    triggers.fold(("interest", 5, interest()))
    triggers.rows = {key: encode_trigger_row(row) for key, row in triggers.rows.items()}

    again = triggers.fold(("interest", 5, interest(signal_id="other")), ("churn-risk", 0, churn_risk()))

    assert [output.message.campaign_id for output in again.with_rows] == ["back"]
    assert triggers.totals.events == Totals(events_in=3, applied=2, replay_skipped=1)


@pytest.mark.parametrize("value", [b"?", b"{}", b"[" * 100_000, json.dumps({"user_id": 7}).encode()])
def test_a_poison_signal_becomes_a_dead_letter_and_the_stream_goes_on(value: bytes) -> None:
    triggers = Triggers()

    folded = triggers.fold(("interest", 0, value), ("interest", 1, interest()))

    [output] = folded.outputs
    assert isinstance(output.message, DeadLetter)
    assert (output.kind, output.message.value, output.message.offset) == ("interest.dlq", value, 0)
    assert len(folded.with_rows) == 1
    assert triggers.totals.events == Totals(events_in=2, applied=1, dead_lettered=1)


@pytest.mark.parametrize("kind", ["interest", "churn-risk"])
@pytest.mark.parametrize(("key", "reason"), [(None, Reason.MISSING_KEY), (b"u-2", Reason.KEY_MISMATCH)])
def test_a_signal_under_another_key_is_a_dead_letter_and_makes_no_row(kind: str, key: bytes | None, reason: Reason) -> None:
    triggers, signal = Triggers(), {"interest": interest(), "churn-risk": churn_risk()}[kind]

    folded = triggers.step.fold(triggers.rows, triggers.totals, [raw(kind, encode(signal), key=key)], NOW_MS)

    assert [output.message.reason for output in folded.outputs if isinstance(output.message, DeadLetter)] == [reason]
    assert (triggers.rows, triggers.totals.events) == ({}, Totals(events_in=1, dead_lettered=1))


def test_a_trigger_row_comes_back_from_its_bytes_and_one_of_another_version_is_refused() -> None:
    triggers = Triggers()
    triggers.fold(("interest", 0, interest()))
    row = triggers.rows[KEY]

    assert decode_trigger_row(encode_trigger_row(row)) == row
    with pytest.raises(RowVersionError, match="version 5, expected version 1 to 4"):
        decode_trigger_row(msgspec.msgpack.encode(msgspec.structs.replace(row, version=5)))


def signal_at(n: int) -> Interest:
    at = NOW_MS + (n - 9) * DAY_MS // 3
    return interest(signal_id=f"s-{n}", event_time_ms=at, source=source_position(offset=n, timestamp_ms=at))


def test_chunks_of_any_size_decide_the_same() -> None:
    signals = [("interest", n, signal_at(n)) for n in range(9)]
    whole, parts = Triggers(), Triggers()

    one = whole.fold(*signals).with_rows
    other = [output for signal in signals for output in parts.fold(signal).with_rows]

    assert one == other
    assert encode_trigger_row(whole.rows[KEY]) == encode_trigger_row(parts.rows[KEY])
