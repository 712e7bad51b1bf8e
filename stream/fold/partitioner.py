"""Map a record's key to its partition, as the producers of the source topics do.

`murmur2` is the default of Kafka's Java client, `crc32` that of librdkafka (`consistent_random`). Both are implemented here
so that a replay needs no Kafka client. Start at partition_of.
"""

from functools import lru_cache
from struct import unpack_from
from typing import Literal
from zlib import crc32

from schemas.fields import MAX_ID_CHARS

Partitioner = Literal["murmur2", "crc32"]

SEED, MULTIPLIER, SHIFT, MASK = 0x9747B28C, 0x5BD1E995, 24, 0xFFFFFFFF  # constants of the Java client's Utils.murmur2


def compute_partition(key: bytes | None, partitions: int, partitioner: Partitioner) -> int:
    """Return the partition of a key; a record without a key goes to partition 0."""
    if not key:
        return 0
    return (crc32(key) if partitioner == "crc32" else murmur2(key) & 0x7FFFFFFF) % partitions


_cached = lru_cache(maxsize=1 << 20)(compute_partition)


def partition_of(key: bytes | None, partitions: int, partitioner: Partitioner) -> int:
    """Return what compute_partition does, from a cache: senders see the same keys again and again. Long keys stay out of it."""
    find = _cached if key is None or len(key) <= MAX_ID_CHARS else compute_partition
    return find(key, partitions, partitioner)


def murmur2(data: bytes) -> int:
    """Hash bytes to 32 bits by MurmurHash2 (Austin Appleby, 2008) with Kafka's seed."""
    multiplier, mask, size = MULTIPLIER, MASK, len(data)
    whole = size & ~3
    hashed = SEED ^ size
    for word in unpack_from(f"<{whole >> 2}I", data):
        word = word * multiplier & mask
        hashed = (hashed * multiplier ^ (word ^ word >> SHIFT) * multiplier) & mask
    if whole < size:
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    hashed = (hashed ^ hashed >> 13) * multiplier & mask
    return hashed ^ hashed >> 15
