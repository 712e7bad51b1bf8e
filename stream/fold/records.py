"""What the pipeline reads and returns: records, messages to send, and the count of what became of each record.

Knows neither Kafka nor shops. Start at Record.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from msgspec import Struct, field

from schemas.dead_letter import DeadLetter, bounded
from schemas.errors import DecodeError
from schemas.fields import MAX_ID_CHARS

EVENT_ID = "x-event-id"  # record header: the id of an event without one that is sent again from a dead letter


class Record(Protocol):
    """What the pipeline reads of a Kafka record; `timestamp` is in milliseconds."""

    @property
    def topic(self) -> str: ...  # noqa: D102, the protocol names attributes only
    @property
    def partition(self) -> int: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...  # noqa: D102


class Output(Struct, frozen=True, gc=False):
    """One message to send, on the partition of the record that caused it; `kind` names its topic in the table."""

    kind: str
    partition: int
    timestamp_ms: int
    key: bytes | None
    message: Struct


class Totals(Struct):
    """What became of a partition's records: events_in is the sum of the others."""

    events_in: int = 0
    applied: int = 0
    replay_skipped: int = 0
    dead_lettered: int = 0
    late_dropped: int = 0
    duplicate_dropped: int = 0

    def add(self, other: "Totals") -> None:
        """Add another partition's totals to these."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def unaccounted(self) -> int:
        """Count the records of which it is not yet said what became of them: none between two records."""
        return self.events_in - self.applied - self.replay_skipped - self.dead_lettered - self.declared_dropped

    @property
    def declared_dropped(self) -> int:
        """Count the records that were refused by rule, not by fault: late ones and duplicates."""
        return self.late_dropped + self.duplicate_dropped


class PartitionTotals(Struct):
    """The running totals of one partition, committed with its rows: of source topics, of feedback, and of outputs."""

    events: Totals = field(default_factory=Totals)
    feedback: Totals = field(default_factory=Totals)
    outputs: dict[str, int] = {}
    lost: int = 0  # records that retention deleted before they were read, where that was accepted

    def count_output(self, kind: str, count: int = 1) -> None:
        """Count outputs by kind."""
        self.outputs[kind] = self.outputs.get(kind, 0) + count


class Folded(Struct):
    """What folding some records of one partition left: changed rows, messages to send at once or with the rows."""

    dirty: dict[bytes, object] = {}
    outputs: list[Output] = []
    with_rows: list[Output] = []


class Fold(Protocol):
    """What folds records of one partition into its rows; FeaturesFold and TriggersFold do."""

    def fold(  # noqa: D102
        self, rows: Any, totals: PartitionTotals, records: Iterable[Record], folded_ms: int, folded: Folded | None = None
    ) -> Folded: ...

    def place(self, record: Record) -> tuple[str, bytes | None]: ...  # noqa: D102


def resent_id(record: Record) -> str | None:
    """Return the id that a dead letter's first position gave its event, where the record was sent again from there."""
    for name, value in record.headers:
        if name == EVENT_ID and value and len(value) <= MAX_ID_CHARS and value.isascii():
            return value.decode()
    return None


def dead_letter(
    kind: str, record: Record, error: DecodeError, folded_ms: int, *, exception: str = "", stacktrace: str = ""
) -> Output:
    """Turn a refused record into a message for its topic's dead-letter topic, whose retention begins at `folded_ms`.

    `exception` names what was raised, by default what the error was raised from.
    """
    letter = bounded(
        DeadLetter(
            reason=error.reason,
            detail=str(error),
            exception=exception or type(error.__cause__ or error).__name__,
            stacktrace=stacktrace,
            headers=tuple(record.headers),
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp,
            key=record.key,
            value=record.value,
        )
    )
    return Output(f"{kind}.dlq", record.partition, folded_ms, record.key, letter)
