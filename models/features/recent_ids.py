"""The last 256 event ids as one byte string of 8-byte hashes: what makes a duplicate known.

Start at has_id.
"""

import xxhash

from models.features.spec import RECENT_IDS


def id_hash(text: str) -> bytes:
    """Hash an id to 8 bytes, equal in every process."""
    return xxhash.xxh3_64_digest(text.encode())


def has_id(ids: bytes, digest: bytes) -> bool:
    """Tell whether an id's hash is among those remembered."""
    at = ids.find(digest)
    while at > 0 and at % 8:  # a match that straddles two hashes is none
        at = ids.find(digest, at + 1)
    return at >= 0


def add_id(ids: bytes, digest: bytes) -> bytes:
    """Remember one more id's hash and forget the oldest beyond the limit."""
    return (ids + digest)[-8 * RECENT_IDS :]
