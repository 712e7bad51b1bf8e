"""Hold the rows of one partition, with a memory limit for decoded rows and an age limit for all rows.

A fold replaces the bytes of a row by the decoded row. At each barrier (commit), decoded rows beyond the memory limit become
bytes again, those written least recently first. The barrier also removes rows that are too old. A read costs the same as in
a plain dictionary. This module knows neither Kafka nor shops. Start at Rows.evict.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct

DECODED_BASE_BYTES, DECODED_PER_BYTE = 6_000, 13  # memory of a decoded row, as a function of its encoded length (measured)
EXAMINED_PER_BARRIER = 100
AHEAD_MS = 300_000  # how far an event time may be ahead of the wall clock


class RowRules(Struct):
    """Limit memory and age of rows, for all partitions of a worker; by default, rows stay decoded and never expire.

    `newest_ms` returns the newest event time of a row, decoded or not, or 0 if unknown. A row expires once that time is
    more than `expire_after_ms` before the newest event of its partition.
    """

    decoded_bytes: int = 1 << 50
    expire_after_ms: int = 1 << 50
    newest_ms: Callable[[Any], int] = lambda row: 0
    check_version: Callable[[bytes], None] = lambda row: None
    partitions: int = 1  # number of partitions that share decoded_bytes


class Rows(OrderedDict[bytes, Any]):
    """Map keys to rows, least recently written first; a read costs the same as in a plain dictionary."""

    def __init__(self, rules: RowRules | None = None) -> None:
        """Start without rows."""
        super().__init__()
        self._rules = rules or RowRules()
        self._packed: OrderedDict[bytes, bytes] = OrderedDict()  # bytes of each decoded row, least recently used first
        self._decoded_bytes = 0
        self._newest_ms = 0

    def adopt(self, rules: RowRules) -> None:
        """Limit memory and age by `rules` from now on."""
        self._rules = rules

    @property
    def decoded(self) -> int:
        """Count the rows that are decoded."""
        return len(self._packed)

    def load(self, written: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Add rows in changelog order; None, a tombstone, is stored like a row."""
        put, to_end = super().__setitem__, self.move_to_end
        for key, row in written:
            put(key, row)
            to_end(key)

    def __setitem__(self, key: bytes, row: Any) -> None:
        """Store a new row, a row as bytes, or a decoded row; keep the bytes that a decoded row replaces."""
        packed = self._packed.pop(key, None)
        if packed is not None:
            self._decoded_bytes -= _decoded_bytes(packed)
        elif type(before := self.get(key)) is bytes:
            packed = before
        super().__setitem__(key, row)
        if type(row) is not bytes:
            self._packed[key] = packed or b""
            self._decoded_bytes += _decoded_bytes(packed or b"")

    def last(self, key: bytes) -> bytes | None:
        """Return the bytes from which a row was decoded or to which it was last encoded; None if there are none."""
        row = self[key]
        return row if type(row) is bytes else self._packed[key] or None

    def __delitem__(self, key: bytes) -> None:
        """Delete a row."""
        packed = self._packed.pop(key, None)
        if packed is not None:
            self._decoded_bytes -= _decoded_bytes(packed)
        super().__delitem__(key)

    def evict(self, written: Sequence[tuple[bytes, bytes]], now_ms: int) -> list[tuple[bytes, None]]:
        """Free memory at a barrier and return tombstones of expired rows, to be written with the encoded rows.

        `written` holds every row that changed since the last call, as just encoded. Call this before the fold continues,
        while bytes and decoded rows are equal. `now_ms`, the wall clock, only prevents a record from the future from
        expiring all rows.
        """
        packed, newest_ms = self._packed, self._rules.newest_ms
        for key, row in written:
            before = packed.get(key)
            if before is not None:
                packed[key] = row
                packed.move_to_end(key)
                self.move_to_end(key)
                self._decoded_bytes += _decoded_bytes(row) - _decoded_bytes(before)
                self._newest_ms = max(self._newest_ms, newest_ms(self[key]))
        limit = self._rules.decoded_bytes // self._rules.partitions
        while self._decoded_bytes > limit and packed:
            key, row = packed.popitem(last=False)
            self._decoded_bytes -= _decoded_bytes(row)
            if row:
                super().__setitem__(key, row)
            else:  # created for a record that changed nothing
                super().__delitem__(key)
        return [(key, None) for key in self._expired(max(EXAMINED_PER_BARRIER, 2 * len(written)), now_ms)]

    def _expired(self, count: int, now_ms: int) -> list[bytes]:
        """Remove and return expired rows among `count` checked ones, so that rows expire at least as fast as they arrive."""
        at_ms, expired = min(self._newest_ms, now_ms + AHEAD_MS), list[bytes]()
        for _ in range(min(count, len(self))):
            key = next(iter(self))
            row_ms = self._rules.newest_ms(self[key])
            if 0 < row_ms <= at_ms:
                if row_ms >= at_ms - self._rules.expire_after_ms:
                    break  # all following rows were written later
                del self[key]
                expired.append(key)
            else:  # age unknown, or a time in the future: it must not block the check of the others
                self.move_to_end(key)
        return expired


def _decoded_bytes(packed: bytes) -> int:
    return DECODED_BASE_BYTES + DECODED_PER_BYTE * len(packed)
