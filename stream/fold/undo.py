"""What was folded since rows were last written: with the bytes that rows keep, it gives back a row. Start at Undo."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from stream.fold.records import Record


class Undo(Struct):
    """The records of one partition that were folded since its last flush.

    `failed` are topic and offset of those records that met an error; `by_row` indexes the first `indexed` of `records`;
    `told` are the codes of errors that are in the log already.
    """

    records: list[Sequence[Record]] = []
    failed: set[tuple[str, int]] = set()
    by_row: dict[bytes | None, list[Record]] = {}
    indexed: int = 0
    told: set[str] = set()

    def flushed(self) -> None:
        """Forget the records; call it as their rows are encoded."""
        self.records, self.failed, self.by_row, self.indexed = [], set(), {}, 0

    def of_row(self, key: bytes, key_of: Callable[[Record], bytes | None]) -> list[Record]:
        """Return the records since the last flush that were folded into one row, in order."""
        for chunk in self.records[self.indexed :]:
            for record in chunk:
                self.by_row.setdefault(key_of(record), []).append(record)
        self.indexed = len(self.records)
        return self.by_row.get(key, [])
