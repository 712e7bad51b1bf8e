"""A recorded log → the same rows, score requests, signals and decisions as the live roles, without a broker.

Recorded events keep their partition and offset; others get what `footfall send` into empty topics gives them. They are
folded in the order of aligned topics: by arrival time, then topic, then offset. Time is theirs; no clock is read. Start at
Replay.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from heapq import heappop, heappush
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from aiokafka.partitioner import murmur2
from msgspec import Struct
from msgspec.structs import replace

from models.features.spec import KINDS
from models.features.user_state import UserState, encode_row
from schemas.codec import encode
from schemas.scoring import ScoreRequest
from schemas.topics import DAY_MS
from stream.fold.records import Output, PartitionTotals, Totals
from stream.logs.event_log import LoggedEvent, read_log
from stream.process.settings import Settings, SettingsError
from stream.roles.features_fold import FeaturesFold, TriggersFold
from stream.roles.scorer_fold import render_signals
from stream.roles.scoring_policy import ScoringPolicy, load_trigger_policy
from stream.roles.trigger_row import TriggerState

if TYPE_CHECKING:  # a replay without a model never loads torch
    from models.serving.scorer import Scorer

DECODED_ROWS = 20_000  # users whose rows are held decoded, 12 to 35 kB each, before all go back to bytes
DISORDER_MS = 600_000  # how much earlier a record may be stamped than one before it in its partition and be put in its place
FAR_MS = 1 << 62


class LogRecord(Struct, frozen=True, gc=False):
    """A logged event, or a message of ours, as the Kafka record it was or will be."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Replay:
    """The state of a replay: rows and totals by partition number, next offsets by topic and partition."""

    def __init__(self, settings: Settings, *, partitions: int) -> None:
        """Replay with the policies of `settings` into `partitions` partitions per topic."""
        topics = settings.topics()
        self._names = {kind: topic.name for kind, topic in topics.items()}
        self._partitions = partitions
        self.ttl_ms = round(settings.ttl_days * DAY_MS)
        self._next: dict[tuple[str, int], int] = defaultdict(int)
        self.features, self.triggers = features_fold(settings), triggers_fold(settings)
        self.rows: dict[int, dict[bytes, bytes | UserState]] = defaultdict(dict)
        self.trigger_rows: dict[int, dict[bytes, bytes | TriggerState]] = defaultdict(dict)
        self.totals: dict[int, PartitionTotals] = defaultdict(PartitionTotals)
        self.trigger_totals: dict[int, PartitionTotals] = defaultdict(PartitionTotals)

    def number(self, event: LoggedEvent) -> LogRecord:
        """Return an event as the record it was, or will be."""
        if event.partition is None or event.offset is None:
            record = self.record(event.kind, self.partition_of(event.key), event.record_ms, event.key, event.value)
            return replace(record, headers=event.headers) if event.headers else record
        topic = self._names[event.kind]
        return LogRecord(topic, event.partition, event.offset, event.record_ms, event.key, event.value, event.headers)

    def record(self, kind: str, partition: int, timestamp_ms: int, key: bytes | None, value: bytes | None) -> LogRecord:
        """Number a message with the next offset of its topic and partition."""
        topic = self._names[kind]
        offset = self._next[topic, partition]
        self._next[topic, partition] = offset + 1
        return LogRecord(topic, partition, offset, timestamp_ms, key, value)

    def partition_of(self, key: bytes | None) -> int:
        """Choose the partition of a key among this replay's."""
        return partition_of(key, self._partitions)

    def fold(self, events: Iterable[LoggedEvent]) -> Iterator[Output]:
        """Fold a log's events in order and yield what role features sends: score requests and dead letters."""
        touched, fold = set[bytes | None](), self.features.fold
        for event in aligned(events):
            record = self.number(event)
            partition = record.partition
            yield from fold(self.rows[partition], self.totals[partition], [record], event.record_ms).outputs
            touched.add(event.key)
            if len(touched) > DECODED_ROWS:
                self.pack()
                touched.clear()

    def pack(self) -> None:
        """Put decoded rows of role features back to bytes: no output depends on when."""
        for rows in self.rows.values():
            for key, row in rows.items():
                if isinstance(row, UserState):
                    rows[key] = encode_row(row)

    def signals(self, events: Iterable[LoggedEvent], scorer: "Scorer", *, batch: int = 64) -> Iterator[Output]:
        """Yield every output of all roles: requests, signals, decisions and dead letters, signals in micro-batches.

        Sentiment joins its user's row when its micro-batch is scored, as it would live: soon, not at once.
        """
        waiting: list[ScoreRequest] = []
        for output in self.fold(events):
            yield output
            if isinstance(output.message, ScoreRequest):
                waiting.append(output.message)
                if len(waiting) >= batch:
                    yield from self._score(waiting, scorer)
                    waiting = []
        yield from self._score(waiting, scorer)

    def _score(self, requests: list[ScoreRequest], scorer: "Scorer") -> Iterator[Output]:
        for request, scores in zip(requests, scorer.score(requests), strict=True):
            at = request.source.timestamp_ms
            rendered = render_signals(
                request,
                scores,
                horizons_days=list(scorer.horizons_days),
                model_version=scorer.model_version,
                received_ms=at,
                scored_ms=at,
            )
            for output in rendered:
                yield output
                partition = output.partition
                record = self.record(output.kind, partition, at, output.key, encode(output.message))
                if output.kind == "review-sentiment":
                    self.features.fold(self.rows[partition], self.totals[partition], [record], at)
                else:
                    rows, totals = self.trigger_rows[partition], self.trigger_totals[partition]
                    yield from self.triggers.fold(rows, totals, [record], at).with_rows

    def summed(self) -> Totals:
        """Sum what became of the log's events over all partitions."""
        total = Totals()
        for partition in self.totals.values():
            total.add(partition.events)
        return total


@lru_cache(maxsize=1 << 20)
def partition_of(key: bytes | None, partitions: int) -> int:
    """Choose the partition that Kafka's default partitioner chooses; a record without a key goes to the first."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions if key else 0


def aligned(events: Iterable[LoggedEvent]) -> Iterator[LoggedEvent]:
    """Order events of one arrival time by topic, as alignment does; offsets or a log's own order decide the rest."""
    for _, together in groupby(in_offset_order(events), key=lambda event: event.record_ms):
        yield from sorted(together, key=lambda event: KINDS.index(event.kind))


def in_offset_order(events: Iterable[LoggedEvent]) -> Iterator[LoggedEvent]:
    """Put recorded events of each partition in the order of their offsets, which producers' clocks need not follow.

    An event waits for those before it, but no longer than DISORDER_MS of log time: offsets may be missing for good.
    """
    waiting: dict[tuple[str, int], list[tuple[int, int, LoggedEvent]]] = defaultdict(list)
    following: dict[tuple[str, int], int] = defaultdict(int)
    looked_ms = 0

    def released(place: tuple[str, int], stamped_before_ms: int) -> Iterator[LoggedEvent]:
        heap = waiting[place]
        while heap and (heap[0][0] <= following[place] or heap[0][2].record_ms < stamped_before_ms):
            offset, _, event = heappop(heap)
            following[place] = offset + 1
            yield event

    for number, event in enumerate(events):
        if event.partition is None or event.offset is None:
            yield event
            continue
        place = (event.kind, event.partition)
        heappush(waiting[place], (event.offset, number, event))
        yield from released(place, -FAR_MS)
        if event.record_ms > looked_ms + DISORDER_MS // 10:
            looked_ms = event.record_ms
            for held in waiting:
                yield from released(held, event.record_ms - DISORDER_MS)
    for held in waiting:
        yield from released(held, FAR_MS)


def features_fold(settings: Settings) -> FeaturesFold:
    """Build the fold of role features as the settings say."""
    return FeaturesFold(
        topics={kind: topic.name for kind, topic in settings.topics().items()},
        policy=ScoringPolicy(
            arrivals=frozenset(KINDS.index(kind) for kind in settings.arrival_kinds),
            pause_ms=round(settings.pause_minutes * 60_000),
            every_clicks=settings.every_clicks,
            min_gap_ms=round(settings.min_gap_seconds * 1000),
            score_lateness_ms=round(settings.score_lateness_minutes * 60_000),
        ),
        rates=settings.rates,
        lateness_ms=round(settings.lateness_hours * 3_600_000),
        ttl_ms=round(settings.ttl_days * DAY_MS),
    )


def triggers_fold(settings: Settings) -> TriggersFold:
    """Build the fold of role triggers as the settings and the policy file say.

    Raises:
        SettingsError: the policy file cannot be used.
    """
    topics = {kind: topic.name for kind, topic in settings.topics().items()}
    try:
        policy = load_trigger_policy(settings.trigger_policy)
    except ValueError as error:
        raise SettingsError(f"setting trigger_policy: {error}") from error
    return TriggersFold(topics=topics, policy=policy)


def score_requests(log: Path, settings: Settings) -> Iterator[ScoreRequest]:
    """Yield every score request that a log causes, in order, without scoring it."""
    for output in Replay(settings, partitions=1).fold(read_log(log)):
        if isinstance(output.message, ScoreRequest):
            yield output.message
