"""The rows of one partition: encoded bytes, but for the decoded ones in use, and none of a user silent for too long.

A row is decoded when it is first touched. At a barrier, right after its rows were encoded, the decoded rows not written
for the longest go back to bytes, and of all rows those not written for the longest are examined for their age. Nothing
is counted per event. Knows neither Kafka nor shops. Start at Rows.settle.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct

DECODED_BASE_BYTES, DECODED_PER_BYTE = 6_000, 13  # what a decoded row takes, by the length of its bytes: measured
EXAMINED_PER_BARRIER = 100
AHEAD_MS = 300_000  # an event may be this much ahead of the clock


class RowRules(Struct):
    """How rows are kept, for all partitions of a worker; without rules they stay decoded and for ever.

    `newest_ms` tells the newest event time of a row, decoded or not, 0 if it is not known. A row that is older than
    `expire_after_ms` before the newest event of its partition is expired.
    """

    decoded_bytes: int = 1 << 50
    expire_after_ms: int = 1 << 50
    newest_ms: Callable[[Any], int] = lambda row: 0
    check_version: Callable[[bytes], None] = lambda row: None
    partitions: int = 1  # that share decoded_bytes


class Rows(OrderedDict[bytes, Any]):
    """A dictionary of rows, least recently written first; reading one costs what it costs in any dictionary."""

    def __init__(self, rules: RowRules | None = None) -> None:
        """Start without rows."""
        super().__init__()
        self._rules = rules or RowRules()
        self._packed: OrderedDict[bytes, bytes] = OrderedDict()  # of each decoded row its bytes, least recently used first
        self._decoded_bytes = 0
        self._newest_ms = 0

    @property
    def decoded(self) -> int:
        """Count the rows that are decoded."""
        return len(self._packed)

    def load(self, written: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Take rows as a changelog holds them, in its order; None, a tombstone, is taken like a row."""
        put, to_end = super().__setitem__, self.move_to_end
        for key, row in written:
            put(key, row)
            to_end(key)

    def __setitem__(self, key: bytes, row: Any) -> None:
        """Take a decoded row in place of its bytes, which are kept, or a new row, or bytes."""
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
        """Return the bytes that a row was last read from or written as; None where there were none."""
        row = self[key]
        return row if type(row) is bytes else self._packed[key] or None

    def __delitem__(self, key: bytes) -> None:
        """Forget a row."""
        packed = self._packed.pop(key, None)
        if packed is not None:
            self._decoded_bytes -= _decoded_bytes(packed)
        super().__delitem__(key)

    def settle(self, written: Sequence[tuple[bytes, bytes]], now_ms: int) -> list[tuple[bytes, None]]:
        """Give memory back at a barrier: return tombstones of expired rows, to be written with what was encoded.

        `written` holds every row that changed since the last call, as it was encoded just now: call it before the fold
        goes on, while bytes and decoded rows are equal. `now_ms`, the wall clock, only keeps a record from the future
        from expiring everybody.
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
            else:  # made for a record that then changed nothing
                super().__delitem__(key)
        return [(key, None) for key in self._expired(max(EXAMINED_PER_BARRIER, 2 * len(written)), now_ms)]

    def _expired(self, count: int, now_ms: int) -> list[bytes]:
        """Remove and return at most `count` expired rows; rows cannot come faster than they may go."""
        at_ms, expired = min(self._newest_ms, now_ms + AHEAD_MS), list[bytes]()
        for _ in range(min(count, len(self))):
            key = next(iter(self))
            row_ms = self._rules.newest_ms(self[key])
            if 0 < row_ms <= at_ms:
                if row_ms >= at_ms - self._rules.expire_after_ms:
                    break  # whoever comes behind was written later
                del self[key]
                expired.append(key)
            else:  # its age is not known, or its time is yet to come: it must not hide the others
                self.move_to_end(key)
        return expired


def _decoded_bytes(packed: bytes) -> int:
    return DECODED_BASE_BYTES + DECODED_PER_BYTE * len(packed)
