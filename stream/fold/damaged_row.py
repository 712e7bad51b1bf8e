"""A row that cannot be decoded → a record beside the rows that keeps its bytes; its user starts anew.

The record goes into the changelog, in the transaction that commits the user's new row: compaction keeps it, and no other
topic is needed. Start at state_of_row.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct

from schemas.errors import DamagedRowError
from stream.fold.records import Folded, Output, PartitionTotals, Record

S = TypeVar("S")

BESIDE_ROWS = b"\0"  # begins every key of a changelog that is not a user id
DAMAGED_KEY = BESIDE_ROWS + b"damaged:"
DAMAGED_KIND = "damaged-row"


class DamagedRow(Struct, frozen=True, kw_only=True):
    """What is kept of a damaged row: its bytes, what was wrong, and the record at which it was found."""

    user_id: str
    detail: str
    topic: str
    partition: int
    offset: int
    row: bytes


def damaged_row(key: bytes, row: bytes, record: Record, error: DamagedRowError) -> Output:
    """Render a damaged row as a message to be committed with the row that takes its place."""
    kept = DamagedRow(
        user_id=key.decode(errors="replace"),
        detail=str(error),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        row=row,
    )
    return Output(DAMAGED_KIND, record.partition, record.timestamp, DAMAGED_KEY + key, kept)


def state_of_row(
    decode_state: Callable[[bytes], S],
    new_state: Callable[[], S],
    key: bytes,
    row: Any,
    record: Record,
    totals: PartitionTotals,
    folded: Folded,
) -> S:
    """Return the state that a row holds; a user without a row starts anew, so does one whose row is damaged."""
    if row is None:
        return new_state()
    try:
        return decode_state(row)
    except DamagedRowError as error:
        totals.count_output(DAMAGED_KIND)
        folded.with_rows.append(damaged_row(key, row, record, error))
        return new_state()
