"""Define what a fold reads and returns: records, messages to send, and counts of records by outcome.

A fold applies the records of one partition to its rows, one row per key. This module knows neither Kafka nor shops. Start
at Record.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from msgspec import Struct, field

from schemas.dead_letter import DeadLetter, Reason, bounded
from schemas.errors import DecodeError
from schemas.fields import MAX_ID_CHARS
from schemas.time_units import MINUTE_MS

EVENT_ID = "x-event-id"  # record header: the id given to an event without one when its dead letter is sent again
FUTURE_MS = 5 * MINUTE_MS  # by which an event may be after the arrival of its record
RESENT = "x-resent"  # record header of a score request or signal whose dead letter was sent again


class Record(Protocol):
    """Name the attributes that a fold reads from a record; `timestamp` is in milliseconds."""

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
    """Hold one message to send to the partition of the record that caused it; `kind` names its topic in the table."""

    kind: str
    partition: int
    timestamp_ms: int
    key: bytes | None
    message: Struct


class Totals(Struct):
    """Count a partition's records by outcome; events_in is the sum of the other counts."""

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
        """Count the records without an outcome yet: one while a record is folded, otherwise none."""
        return self.events_in - self.applied - self.replay_skipped - self.dead_lettered - self.declared_dropped

    @property
    def declared_dropped(self) -> int:
        """Count the records dropped by a rule, not by an error: late events and duplicates."""
        return self.late_dropped + self.duplicate_dropped


class PartitionTotals(Struct):
    """Count events, feedback and outputs of one partition; committed together with its rows."""

    events: Totals = field(default_factory=Totals)
    feedback: Totals = field(default_factory=Totals)
    outputs: dict[str, int] = {}
    lost: int = 0  # records that retention deleted unread, if a setting permits that loss

    def count_output(self, kind: str, count: int = 1) -> None:
        """Add to the count of outputs of one kind."""
        self.outputs[kind] = self.outputs.get(kind, 0) + count


class Misplaced(Struct, frozen=True, gc=False):
    """Name a record whose key belongs to partition `expected`, not to the one it is in."""

    topic: str
    partition: int
    offset: int
    expected: int


class Folded(Struct):
    """Collect the result of a fold: changed rows, messages to send at once, and messages to commit with the rows.

    `misplaced` names the misplaced records that the fold found, accepted or refused.
    """

    dirty: dict[bytes, object] = {}
    outputs: list[Output] = []
    with_rows: list[Output] = []
    misplaced: list[Misplaced] = []


class Fold(Protocol):
    """Fold records of one partition into its rows, as FeaturesFold and TriggersFold do."""

    def fold(  # noqa: D102
        self, rows: Any, totals: PartitionTotals, records: Iterable[Record], folded_ms: int, folded: Folded | None = None
    ) -> Folded: ...

    def kind_and_key(self, record: Record) -> tuple[str, bytes | None]: ...  # noqa: D102


def resent_id(record: Record) -> str | None:
    """Return the event id that a record got from its dead letter's source position, if it was sent again; else None."""
    for name, value in record.headers:
        if name == EVENT_ID and value and len(value) <= MAX_ID_CHARS and value.isascii():
            return value.decode()
    return None


def check_not_future(event_time_ms: int, arrived_ms: int) -> None:
    """Refuse an event from after its own arrival, but for what clocks differ by.

    Raises:
        DecodeError: it is more than FUTURE_MS after it.
    """
    if event_time_ms > arrived_ms + FUTURE_MS:
        raise DecodeError(
            Reason.FROM_FUTURE,
            f"found event time {event_time_ms} ms, expected at most 5 minutes after arrival at {arrived_ms} ms",
        )


def is_resent(record: Record) -> bool:
    """Return whether a score request or signal was sent again from the dead letters: it may come after later ones."""
    return any(name == RESENT for name, _ in record.headers)


def dead_letter(
    kind: str, record: Record, error: DecodeError, folded_ms: int, *, exception: str = "", stacktrace: str = ""
) -> Output:
    """Render a refused record as a message for its topic's dead-letter topic, with the timestamp `folded_ms`.

    That timestamp starts its retention. `exception` names the exception; by default it is the cause of `error`.
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
