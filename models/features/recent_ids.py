"""The last 256 event ids as one array of 8-byte hashes: what makes a duplicate known.

Start at has_id.
"""

import xxhash

from models.features.spec import RECENT_IDS

ID_BYTES = 8
LIMIT_BYTES = ID_BYTES * RECENT_IDS


def id_hash(text: str) -> bytes:
    """Hash an id to 8 bytes, equal in every process."""
    return xxhash.xxh3_64_digest(text.encode())


def has_id(ids: bytearray, digest: bytes) -> bool:
    """Tell whether an id's hash is among the last 256."""
    first = len(ids) - LIMIT_BYTES
    at = ids.find(digest, first if first > 0 else 0)
    while at > 0 and at % ID_BYTES:  # a match that straddles two hashes is none
        at = ids.find(digest, at + 1)
    return at >= 0


def add_id(ids: bytearray, digest: bytes) -> None:
    """Remember one more id's hash; the oldest beyond the limit are dropped now and then."""
    ids += digest
    if len(ids) >= 2 * LIMIT_BYTES:
        trim(ids)


def trim(ids: bytearray) -> None:
    """Drop what has_id no longer looks at."""
    if len(ids) > LIMIT_BYTES:
        del ids[:-LIMIT_BYTES]
