"""Detect duplicate events by the 8-byte hashes of the last 256 event ids.

The first byte of each hash is kept in a separate array. A search for one byte there rules out most ids. Start at
RecentIds.has.
"""

import xxhash
from msgspec import Struct, field

from models.features.spec import RECENT_IDS

REST_BYTES = 7


class RecentIds(Struct, array_like=True, gc=False):
    """Hashes of ids, oldest first: the first byte of each in `firsts`, its other bytes in `rests`."""

    firsts: bytearray = field(default_factory=bytearray)
    rests: bytearray = field(default_factory=bytearray)

    def has(self, digest: bytes) -> bool:
        """Return whether an id's hash is among the last 256."""
        firsts, first = self.firsts, digest[0]
        at = firsts.find(first, len(firsts) - RECENT_IDS if len(firsts) > RECENT_IDS else 0)
        while at >= 0:
            if self.rests.startswith(digest[1:], at * REST_BYTES):
                return True
            at = firsts.find(first, at + 1)
        return False

    def add(self, digest: bytes) -> None:
        """Add an id's hash; the oldest beyond the limit are dropped in batches."""
        self.firsts.append(digest[0])
        self.rests += digest[1:]
        if len(self.firsts) >= 2 * RECENT_IDS:
            self.trim()

    def trim(self) -> None:
        """Drop the hashes that `has` no longer searches."""
        if len(self.firsts) > RECENT_IDS:
            del self.firsts[:-RECENT_IDS]
            del self.rests[: -RECENT_IDS * REST_BYTES]


def id_hash(text: str) -> bytes:
    """Hash an id to 8 bytes, equal in every process."""
    return xxhash.xxh3_64_digest(text.encode())


def from_joined(ids: bytes) -> list[bytes]:
    """Convert hashes stored one after another, as in rows of version 1, into the fields of RecentIds."""
    width = 1 + REST_BYTES
    return [ids[::width], b"".join([ids[at + 1 : at + width] for at in range(0, len(ids), width)])]
