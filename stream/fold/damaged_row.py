"""A row that cannot be decoded → a record beside the rows that keeps its bytes; its user starts anew.

The record goes into the changelog, in the transaction that commits the user's new row: compaction keeps it, and no other
topic is needed. Start at damaged_row.
"""

from msgspec import Struct

from models.features.row_versions import DamagedRowError
from stream.fold.records import Output, Record

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
