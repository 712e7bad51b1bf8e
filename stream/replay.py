"""A recorded log → the same rows, score requests, signals and decisions as the live roles, without a broker.

Records get the partition and offset that `footfall send` into empty topics gives them, and are folded in the order of
aligned topics: by arrival time, then topic, then offset. Start at Replay.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from aiokafka.partitioner import murmur2
from msgspec import Struct

from models.features.spec import KINDS
from models.features.user_state import UserState
from schemas.codec import encode
from schemas.scoring import ScoreRequest
from stream.event_log import LoggedEvent, read_log
from stream.pipeline import FeaturesFold, TriggersFold
from stream.policies import ScoringPolicy, load_trigger_policy
from stream.records import Output, PartitionTotals, Totals
from stream.settings import Settings, SettingsError
from stream.signals import render_signals
from stream.trigger_row import TriggerState

if TYPE_CHECKING:  # a replay without a model never loads torch
    from models.scorer import Scorer


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
        self._next: dict[tuple[str, int], int] = defaultdict(int)
        self.features, self.triggers = features_fold(settings), triggers_fold(settings)
        self.rows: dict[int, dict[bytes, bytes | UserState]] = defaultdict(dict)
        self.trigger_rows: dict[int, dict[bytes, bytes | TriggerState]] = defaultdict(dict)
        self.totals: dict[int, PartitionTotals] = defaultdict(PartitionTotals)
        self.trigger_totals: dict[int, PartitionTotals] = defaultdict(PartitionTotals)

    def record(self, kind: str, partition: int, timestamp_ms: int, key: bytes | None, value: bytes | None) -> LogRecord:
        """Number a message with the next offset of its topic and partition."""
        topic = self._names[kind]
        offset = self._next[topic, partition]
        self._next[topic, partition] = offset + 1
        return LogRecord(topic, partition, offset, timestamp_ms, key, value)

    def number(self, event: LoggedEvent) -> LogRecord:
        """Give a logged event the partition and offset that it has in a replay."""
        return self.record(event.kind, self.partition_of(event.key), event.record_ms, event.key, event.value)

    def partition_of(self, key: bytes | None) -> int:
        """Choose the partition of a key among this replay's."""
        return partition_of(key, self._partitions)

    def fold(self, events: Iterable[LoggedEvent]) -> Iterator[Output]:
        """Fold a log's events in order and yield what role features sends: score requests and dead letters."""
        for event in aligned(events):
            record = self.number(event)
            partition = record.partition
            yield from self.features.fold(self.rows[partition], self.totals[partition], [record], event.record_ms).outputs

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
    """Order events of one arrival time by topic, as alignment does; a log's own order decides the rest."""
    for _, together in groupby(events, key=lambda event: event.record_ms):
        yield from sorted(together, key=lambda event: KINDS.index(event.kind))


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
        ttl_ms=round(settings.ttl_days * 86_400_000),
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
