"""Signals that come again, in any way a crash or an operator repeats them: each is decided once, and none is skipped.

A repeat is a scan of the source topic from an earlier offset, by a worker that took over or by one that was stopped and goes
on. Scans may overlap in any way: each begins at or before the first offset that nobody has sent.
"""

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from models.features.spec import RECENT_IDS
from schemas.codec import encode
from schemas.signals import AdTrigger, Interest, Suppression
from schemas.topics import TABLE
from stream.fold.placement import Placement
from stream.fold.records import RESENT, PartitionTotals, Totals
from stream.offline.replay_log import LogRecord
from stream.roles.features_fold import FeaturesFold
from stream.roles.scoring_policy import ScoringPolicy
from stream.roles.trigger_policy import Campaign, TriggerPolicy
from stream.roles.trigger_row import TriggerState, encode_trigger_row
from stream.roles.triggers_fold import TriggersFold
from tests.builders import NOW_MS, click, interest, search, source_position

TOPICS = {kind: topic.name for kind, topic in TABLE.items()}
USER, KEY = "u-1", b"u-1"
PARTITION = 2  # of four: the key of the user belongs to another one, so its records are misplaced, and accepted
SOURCE_KINDS = ("click", "search")
MINUTE_MS = 60_000

# per scan: how far it begins before the first offset that nobody has sent, and how many signals it sends
SCANS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), min_size=1, max_size=12)


def signal(kind: str, offset: int, **changes: Any) -> Interest:
    """Return the signal of the event at an offset of a source topic."""
    source = source_position(topic=TOPICS[kind], partition=PARTITION, offset=offset, topic_id=f"id-of-{kind}")
    return interest(user_id=USER, signal_id=f"{kind}-{offset}", source=source, **changes)


class Subscriber:
    """A fold of role triggers, and the positions of the source events that it decided, in order."""

    def __init__(self) -> None:
        policy = TriggerPolicy(version="p", campaigns=[Campaign(id="mugs", signal="interest", threshold=0.5)])
        self.fold = TriggersFold(topics=TOPICS, policy=policy, placement=Placement("murmur2", 4, accepts_misplaced=True))
        self.rows: dict[bytes, Any] = {}
        self.totals = PartitionTotals()
        self.decided: list[tuple[str, int]] = []
        self.ids: list[str] = []

    def receive(self, signals: list[Interest], *, resent: bool = False) -> None:
        """Fold signals as the next records of their topic, and encode the row, as a takeover would."""
        for one in signals:
            headers = ((RESENT, b"1"),) if resent else ()
            record = LogRecord(TOPICS["interest"], PARTITION, self.totals.events.events_in, NOW_MS, KEY, encode(one), headers)
            for output in self.fold.fold(self.rows, self.totals, [record], NOW_MS).with_rows:
                decision = output.message
                assert isinstance(decision, AdTrigger | Suppression)
                assert decision.source is not None
                self.decided.append((decision.source.topic, decision.source.offset))
                self.ids.append(decision.trigger_id if isinstance(decision, AdTrigger) else decision.suppression_id)
        self.rows = {key: encode_trigger_row(row) if isinstance(row, TriggerState) else row for key, row in self.rows.items()}


def scanned(scans: list[tuple[int, int]]) -> list[int]:
    """Return the offsets that scans send, one after the other."""
    sent, offsets = 0, list[int]()
    for back, count in scans:
        begin = max(0, sent - back)
        offsets += range(begin, begin + count)
        sent = max(sent, begin + count)
    return offsets


@st.composite
def interleavings(draw: st.DrawFn) -> list[int]:
    """Return the offsets that overlapping scans send: those of two workers, of which neither waits for the other."""
    offsets = scanned(draw(SCANS))
    end = draw(st.sampled_from(offsets)) + 1
    other = list(range(max(0, end - 40), end))  # the scan of the other worker
    begin = offsets.index(other[0])
    merged, rest = offsets[:begin], offsets[begin:]
    while rest and other:
        merged.append(rest.pop(0) if draw(st.booleans()) else other.pop(0))
    return merged + rest + other


@settings(max_examples=150, deadline=None)
@given(interleavings(), interleavings(), st.randoms(use_true_random=False))
def test_each_signal_is_decided_once_in_the_order_of_its_source_however_scans_overlap(
    clicks: list[int], searches: list[int], random: Any
) -> None:
    waiting = {"click": list(clicks), "search": list(searches)}
    subscriber = Subscriber()

    while left := [kind for kind, offsets in waiting.items() if offsets]:  # source topics interleave in the signal topic
        kind = random.choice(left)
        subscriber.receive([signal(kind, waiting[kind].pop(0))])

    for kind, offsets in (("click", clicks), ("search", searches)):
        found = [offset for topic, offset in subscriber.decided if topic == TOPICS[kind]]
        assert found == sorted(set(offsets))
    assert len(set(subscriber.ids)) == len(subscriber.ids)
    repeats = len(clicks) + len(searches) - len(subscriber.decided)
    assert subscriber.totals.events == Totals(
        events_in=len(clicks) + len(searches), applied=len(subscriber.decided), duplicate_dropped=repeats
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(RECENT_IDS + 1, 3 * RECENT_IDS), st.integers(1, 3 * RECENT_IDS))
def test_a_prefix_that_is_longer_than_the_list_of_ids_is_skipped_when_it_is_sent_again(count: int, prefix: int) -> None:
    subscriber, signals = Subscriber(), [signal("click", offset) for offset in range(count)]

    subscriber.receive(signals)
    subscriber.receive(signals[:prefix])
    subscriber.receive([signal("click", count)])

    assert [offset for _, offset in subscriber.decided] == list(range(count + 1))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=60), st.sets(st.integers(0, 60)), st.integers(1, 3))
def test_a_refused_signal_that_is_sent_again_is_decided_once_and_hides_no_other(
    live: list[int], refused: set[int], times: int
) -> None:
    offsets, subscriber = sorted(set(live) - refused), Subscriber()

    for offset in offsets:
        subscriber.receive([signal("click", offset)])
    for _ in range(times):  # an operator sends the dead letters again, perhaps more than once and in another order
        subscriber.receive([signal("click", offset) for offset in sorted(refused, reverse=True)], resent=True)
    subscriber.receive([signal("click", offset) for offset in offsets])
    subscriber.receive([signal("click", 61)])

    assert sorted(offset for _, offset in subscriber.decided) == sorted({*offsets, *refused, 61})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SOURCE_KINDS), st.integers(0, 3)), min_size=1, max_size=40), st.randoms())
def test_requests_of_a_user_and_topic_ascend_and_are_the_same_after_a_crash_in_another_order(
    steps: list[tuple[str, int]], random: Any
) -> None:
    logs: dict[str, list[LogRecord]] = {kind: [] for kind in SOURCE_KINDS}
    for number, (kind, minutes) in enumerate(steps):
        at = NOW_MS + number * minutes * MINUTE_MS
        event = {"click": click, "search": search}[kind](user_id=USER, event_id=f"e-{number}", event_time_ms=at)
        logs[kind].append(LogRecord(TOPICS[kind], PARTITION, len(logs[kind]), at, KEY, encode(event)))
    first = interleaved(logs, random)
    again = interleaved(logs, random)

    before, after = positions(first), positions(again)

    for kind in SOURCE_KINDS:
        assert before[kind] == after[kind]
        assert all(one < next_one for one, next_one in pairwise(before[kind]))


def interleaved(logs: dict[str, list[LogRecord]], random: Any) -> list[LogRecord]:
    """Return the records of all topics in a random interleaving that keeps the order of each."""
    waiting, merged = {kind: list(records) for kind, records in logs.items()}, list[LogRecord]()
    while left := [records for records in waiting.values() if records]:
        merged.append(random.choice(left).pop(0))
    return merged


def positions(records: list[LogRecord]) -> dict[str, list[int]]:
    """Fold records in a partition that is not the home of their key, and return the source offsets of the requests."""
    fold = FeaturesFold(
        topics=TOPICS,
        policy=ScoringPolicy(every_clicks=2, min_gap_ms=0),
        rates={},
        placement=Placement("murmur2", 4, accepts_misplaced=True),
        topic_ids={TOPICS[kind]: f"id-of-{kind}" for kind in SOURCE_KINDS},
    )
    found: dict[str, list[int]] = {kind: [] for kind in SOURCE_KINDS}
    rows: dict[bytes, Any] = {}
    for output in fold.fold(rows, PartitionTotals(), [replace(record) for record in records], NOW_MS).outputs:
        source = output.message.source  # type: ignore[attr-defined]
        assert source.topic_id == f"id-of-{output.message.kind}"  # type: ignore[attr-defined]
        found[output.message.kind].append(source.offset)  # type: ignore[attr-defined]
    return found
