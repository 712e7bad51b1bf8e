"""Replace a row that cannot be decoded by a new state, and keep its bytes under a separate key of the changelog.

The damaged bytes are committed together with the user's new row. Compaction keeps the last damaged row of each user.
Start at state_of_row.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct

from schemas.errors import DamagedRowError
from stream.fold.records import Folded, Output, PartitionTotals, Record

S = TypeVar("S")

BESIDE_ROWS = b"\0"  # prefix of every changelog key that is not a user id
DAMAGED_KEY = BESIDE_ROWS + b"damaged:"
DAMAGED_KIND = "damaged-row"


class DamagedRow(Struct, frozen=True, kw_only=True):
    """Keep a damaged row: its bytes, the decode error, and the record that was being folded."""

    user_id: str
    detail: str
    topic: str
    partition: int
    offset: int
    row: bytes


def damaged_row(key: bytes, row: bytes, record: Record, error: DamagedRowError) -> Output:
    """Render a damaged row as a message to commit together with its replacement."""
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
    """Decode a row, or return a new state if there is no row or the row is damaged; count and keep a damaged one."""
    if row is None:
        return new_state()
    try:
        return decode_state(row)
    except DamagedRowError as error:
        totals.count_output(DAMAGED_KIND)
        folded.with_rows.append(damaged_row(key, row, record, error))
        return new_state()
