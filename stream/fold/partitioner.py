"""Map a record's key to its partition, as the default partitioner of Kafka's Java client does.

It is implemented here so that a replay needs no Kafka client. Start at partition_of.
"""

from functools import lru_cache

SEED, MULTIPLIER, SHIFT, MASK = 0x9747B28C, 0x5BD1E995, 24, 0xFFFFFFFF  # constants of the Java client's Utils.murmur2


@lru_cache(maxsize=1 << 20)
def partition_of(key: bytes | None, partitions: int) -> int:
    """Return the partition of a key; a record without a key goes to partition 0."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions if key else 0


def murmur2(data: bytes) -> int:
    """Hash bytes to 32 bits by MurmurHash2 (Austin Appleby, 2008) with Kafka's seed."""
    size = len(data)
    whole = size & ~3
    hashed = SEED ^ size
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * MULTIPLIER & MASK
        word = (word ^ word >> SHIFT) * MULTIPLIER & MASK
        hashed = hashed * MULTIPLIER & MASK ^ word
    if whole < size:
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * MULTIPLIER & MASK
    hashed = (hashed ^ hashed >> 13) * MULTIPLIER & MASK
    return hashed ^ hashed >> 15
