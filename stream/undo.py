"""Rows as they were: the last bytes of each row, and the records folded since. Start at Undo."""

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from stream.records import Record


class Undo(Struct):
    """What gives back the rows of one partition: their last bytes (None: no row), and the records folded since a flush.

    `failed` are topic and offset of those records that met an error; `by_row` indexes the first `indexed` of `records`;
    `told` are the codes of errors that are in the log already.
    """

    last: dict[bytes, bytes | None] = {}
    records: list[Sequence[Record]] = []
    failed: set[tuple[str, int]] = set()
    by_row: dict[bytes | None, list[Record]] = {}
    indexed: int = 0
    told: set[str] = set()

    def encoded(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Take the bytes of every row that changed since the flush before; call it as they are encoded."""
        self.last.update(rows)
        self.records, self.failed, self.by_row, self.indexed = [], set(), {}, 0

    def of_row(self, key: bytes, key_of: Callable[[Record], bytes | None]) -> list[Record]:
        """Return the records since the last flush that were folded into one row, in order."""
        for chunk in self.records[self.indexed :]:
            for record in chunk:
                self.by_row.setdefault(key_of(record), []).append(record)
        self.indexed = len(self.records)
        return self.by_row.get(key, [])
