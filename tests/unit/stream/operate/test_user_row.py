"""In which partition a user's row is looked for, where producers may disagree on it."""

import pytest

from schemas.errors import BrokerError
from stream.kafka.changelog import PartitionRows
from stream.operate.user_row import place_of
from stream.process.settings import load_settings

KEY = b"crc-1"  # of four partitions, 2 by murmur2 and 3 by crc32


def state(*having: int, partitioner: str = "murmur2") -> dict[int, PartitionRows]:
    return {
        number: PartitionRows({KEY: b"row"} if number in having else {}, has_meta=True, partitioner=partitioner)
        for number in range(4)
    }


@pytest.mark.parametrize(
    ("having", "place"),
    [((2,), (2, [])), ((3, 2), (2, [3])), ((0, 3), (0, [3])), ((), (2, []))],
)
def test_a_split_user_shows_the_row_where_the_key_belongs_and_names_the_others(
    having: tuple[int, ...], place: tuple[int, list[int]]
) -> None:
    assert place_of(KEY, state(*having), load_settings(misplaced_keys="accept")) == place


def test_a_single_partition_that_was_read_is_the_place() -> None:
    assert place_of(KEY, {3: PartitionRows()}, load_settings(partitioner="crc32")) == (3, [])


def test_rows_folded_with_another_partitioner_are_refused_instead_of_missing_the_user() -> None:
    with pytest.raises(BrokerError, match="folded with partitioner=crc32, expected murmur2, as set: set partitioner=crc32"):
        place_of(KEY, {2: PartitionRows(partitioner="crc32")}, load_settings())
