"""Keep the records folded since the last flush, so that a row can be rebuilt without a bad record. Start at Undo."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from stream.fold.records import Record


class Undo(Struct):
    """Hold the records of one partition folded since its last flush, in chunks.

    `failed` holds topic and offset of records that raised an error. `by_row` indexes the first `indexed` chunks of
    `records`. `logged` holds the codes of errors that are logged already.
    """

    records: list[Sequence[Record]] = []
    failed: set[tuple[str, int]] = set()
    by_row: dict[bytes | None, list[Record]] = {}
    indexed: int = 0
    logged: set[str] = set()

    def flushed(self) -> None:
        """Clear the records; call this when their rows are encoded."""
        self.records, self.failed, self.by_row, self.indexed = [], set(), {}, 0

    def of_row(self, key: bytes, key_of: Callable[[Record], bytes | None]) -> list[Record]:
        """Return the records folded into one row since the last flush, in order."""
        for chunk in self.records[self.indexed :]:
            for record in chunk:
                self.by_row.setdefault(key_of(record), []).append(record)
        self.indexed = len(self.records)
        return self.by_row.get(key, [])
