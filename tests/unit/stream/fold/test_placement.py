"""A key in a partition where its partitioner does not put it: found, and refused with the setting to change."""

import pytest

from schemas.dead_letter import Reason
from schemas.errors import DecodeError
from stream.fold.partitioner import Partitioner
from stream.fold.placement import Placement
from stream.fold.records import Folded, Misplaced
from stream.offline.replay_log import LogRecord
from tests.builders import NOW_MS

KEY, BY_MURMUR2, BY_CRC32, BY_NEITHER = b"crc-1", 2, 3, 1  # of four partitions


def record(partition: int) -> LogRecord:
    return LogRecord("clicks", partition, 7, NOW_MS, KEY, b"{}")


@pytest.mark.parametrize(("partitioner", "partition"), [("murmur2", BY_MURMUR2), ("crc32", BY_CRC32)])
def test_a_key_where_it_belongs_is_not_misplaced(partitioner: Partitioner, partition: int) -> None:
    folded = Folded()

    Placement(partitioner, 4).check(record(partition), folded)

    assert folded.misplaced == []


@pytest.mark.parametrize(
    ("partitioner", "partition", "text"),
    [
        ("murmur2", BY_CRC32, r"partition 3, expected 2 of 4 by murmur2 \(crc32 gives .*\): set partitioner=murmur2_random in"),
        ("murmur2", BY_NEITHER, r"partition 1, expected 2 of 4 by murmur2: set partitioner=murmur2_random in"),
        (
            "crc32",
            BY_MURMUR2,
            r"partition 2, expected 3 of 4 by crc32 \(murmur2 .*\): set partitioner=consistent_random in",
        ),
    ],
)
def test_a_misplaced_key_is_refused_with_the_producers_setting(partitioner: Partitioner, partition: int, text: str) -> None:
    folded = Folded()

    with pytest.raises(DecodeError, match=text) as refused:
        Placement(partitioner, 4).check(record(partition), folded)

    assert refused.value.reason is Reason.MISPLACED_KEY
    [found] = folded.misplaced
    assert (found.topic, found.partition, found.offset) == ("clicks", partition, 7)


def test_a_misplaced_key_that_may_be_anywhere_is_found_and_accepted() -> None:
    folded = Folded()

    Placement("murmur2", 4, accepts_misplaced=True).check(record(BY_CRC32), folded)

    assert folded.misplaced == [Misplaced("clicks", BY_CRC32, 7, BY_MURMUR2)]
