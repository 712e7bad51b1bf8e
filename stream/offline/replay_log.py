"""Replay an event log, without a broker, into the same rows, score requests, signals and decisions as the live roles.

Recorded events keep their partition and offset. Other events get those that `footfall send` would give them in empty topics.
Events are folded as aligned topics are: by record timestamp, then topic, then offset. All times come from the events; no
clock is read. Start at Replay.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from models.features.row_codec import encode_row
from models.features.user_state import UserState
from schemas.codec import encode
from schemas.scoring import ScoreRequest
from schemas.time_units import DAY_MS
from stream.fold.partitioner import partition_of
from stream.fold.records import Output, PartitionTotals, Totals
from stream.logs.event_log import LoggedEvent, LogManifest, read_log, read_manifest
from stream.offline.log_order import in_fold_order
from stream.process.settings import Settings
from stream.roles.build import features_fold, triggers_fold
from stream.roles.scorer_fold import render_signals
from stream.roles.trigger_row import TriggerState

if TYPE_CHECKING:  # a replay without a model never loads torch
    from models.serving.scorer import Scorer

DECODED_ROWS = 20_000  # users whose rows are held decoded, 12 to 35 kB each, before all are encoded again


class LogRecord(Struct, frozen=True, gc=False):
    """A logged event, or an output of a role, as the Kafka record it was or will be."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Replay:
    """The state of a replay: rows and totals by partition number, next offsets by topic and partition."""

    def __init__(self, settings: Settings, *, partitions: int, topic_ids: Mapping[str, str] | None = None) -> None:
        """Replay with the policies of `settings` into `partitions` partitions per topic.

        `topic_ids` (kind → id) are those of a recording: requests then name their source topics as the live ones did.
        """
        topics = settings.topics()
        self._names = {kind: topic.name for kind, topic in topics.items()}
        self._partitions, self._partitioner = partitions, settings.partitioner
        self.ttl_ms = round(settings.ttl_days * DAY_MS)
        self._next: dict[tuple[str, int], int] = defaultdict(int)
        ids = {self._names[kind]: topic_id for kind, topic_id in (topic_ids or {}).items()}
        self.features, self.triggers = features_fold(settings, partitions, ids), triggers_fold(settings, partitions)
        self.rows: dict[int, dict[bytes, bytes | UserState]] = defaultdict(dict)
        self.trigger_rows: dict[int, dict[bytes, bytes | TriggerState]] = defaultdict(dict)
        self.totals: dict[int, PartitionTotals] = defaultdict(PartitionTotals)
        self.trigger_totals: dict[int, PartitionTotals] = defaultdict(PartitionTotals)

    def number(self, event: LoggedEvent) -> LogRecord:
        """Return an event as the Kafka record it was, or will be."""
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
        """Return the partition of a key."""
        return partition_of(key, self._partitions, self._partitioner)

    def fold(self, events: Iterable[LoggedEvent]) -> Iterator[Output]:
        """Fold events in the order of log_order.in_fold_order; yield role features' score requests and dead letters."""
        touched, fold = set[bytes | None](), self.features.fold
        for event in in_fold_order(events):
            record = self.number(event)
            partition = record.partition
            yield from fold(self.rows[partition], self.totals[partition], [record], event.record_ms).outputs
            touched.add(event.key)
            if len(touched) > DECODED_ROWS:
                self.pack()
                touched.clear()

    def pack(self) -> None:
        """Encode the decoded rows of role features again, to save memory; no output depends on when."""
        for rows in self.rows.values():
            for key, row in rows.items():
                if isinstance(row, UserState):
                    rows[key] = encode_row(row)

    def signals(self, events: Iterable[LoggedEvent], scorer: "Scorer", *, batch: int = 64) -> Iterator[Output]:
        """Yield every output of all roles: requests, signals, decisions and dead letters, signals in micro-batches.

        Sentiment is folded into its user's row when its micro-batch is scored: soon, but not at once, as in a live run.
        """
        unscored: list[ScoreRequest] = []
        for output in self.fold(events):
            yield output
            if isinstance(output.message, ScoreRequest):
                unscored.append(output.message)
                if len(unscored) >= batch:
                    yield from self._score(unscored, scorer)
                    unscored = []
        yield from self._score(unscored, scorer)

    def _score(self, requests: list[ScoreRequest], scorer: "Scorer") -> Iterator[Output]:
        for request, scores in zip(requests, scorer.score(requests), strict=True):
            at = request.source.timestamp_ms
            rendered = render_signals(
                request,
                scores,
                scorer=scorer,
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
        """Sum the totals of the log's events over all partitions."""
        total = Totals()
        for partition in self.totals.values():
            total.add(partition.events)
        return total


def settings_of_log(settings: Settings, manifest: LogManifest) -> Settings:
    """Return the settings with the partition count of a recorded log, so that a replay places keys as the live roles did."""
    return settings.model_copy(update={"partitions": manifest.partitions}) if manifest.partitions else settings


def score_requests(log: Path, settings: Settings) -> Iterator[ScoreRequest]:
    """Yield every score request that a log causes, in order; nothing is scored."""
    manifest = read_manifest(log)
    settings = settings_of_log(settings, manifest)
    for output in Replay(settings, partitions=settings.partition_count, topic_ids=manifest.topic_ids).fold(read_log(log)):
        if isinstance(output.message, ScoreRequest):
            yield output.message
