"""Find records whose key belongs to another partition: their users would be split over several rows.

A fold checks a record where a user's part of a topic begins, and not at every event. Knows neither Kafka nor shops.
Start at Placement.check.
"""

from collections.abc import Mapping
from typing import get_args

from msgspec import Struct

from schemas.dead_letter import Reason
from schemas.errors import DecodeError
from stream.fold.partitioner import Partitioner, compute_partition
from stream.fold.records import Folded, Misplaced, Record

REMEDIES: Mapping[Partitioner, str] = {
    "murmur2": "set partitioner=murmur2_random in producers that use librdkafka (confluent-kafka), or set partitioner=crc32 "
    "here if all producers use CRC32",
    "crc32": "set partitioner=consistent_random in producers that use librdkafka, give Java producers a CRC32 partitioner, or "
    "set partitioner=murmur2 here if all producers use murmur2",
}


class Placement(Struct, frozen=True):
    """Know where keys belong: the producers' partitioner, and the partition count of the topics."""

    partitioner: Partitioner
    partitions: int
    accepts_misplaced: bool = False

    def check(self, record: Record, folded: Folded) -> None:
        """Add a record to `folded.misplaced` if its key belongs to another partition.

        Raises:
            DecodeError: the record is misplaced, and misplaced records are not accepted.
        """
        expected = compute_partition(record.key, self.partitions, self.partitioner)
        if expected == record.partition:
            return
        folded.misplaced.append(Misplaced(record.topic, record.partition, record.offset, expected))
        if self.accepts_misplaced:
            return
        others = [other for other in get_args(Partitioner) if other != self.partitioner]
        fits = [other for other in others if compute_partition(record.key, self.partitions, other) == record.partition]
        raise DecodeError(
            Reason.MISPLACED_KEY,
            f"found the key in partition {record.partition}, expected {expected} of {self.partitions} by {self.partitioner}"
            f"{''.join(f' ({other} gives the one found)' for other in fits)}: {REMEDIES[self.partitioner]}",
        )
