"""The meta row of a partition: what the next owner learns of its rows, and which rows it must refuse."""

import gc
import weakref

import msgspec
import pytest

from schemas.errors import RowVersionError, StartRefused
from stream.fold.records import PartitionTotals
from stream.kafka.store import META_VERSION, Partition, check_partitioner, collect_and_freeze, decode_meta


def test_a_meta_row_names_the_partitioner_of_its_keys() -> None:
    partition = Partition(3, None, offsets={"clicks": 7})  # type: ignore[arg-type]

    meta = decode_meta(partition.meta_row(4, "crc32"))

    assert (meta.offsets, meta.partitions, meta.partitioner) == ({"clicks": 7}, 4, "crc32")


def test_a_meta_row_without_a_partitioner_is_of_murmur2() -> None:
    old = msgspec.msgpack.encode([META_VERSION, msgspec.to_builtins(PartitionTotals()), {"clicks": 7}, {"clicks": 5}, 4])

    meta = decode_meta(old)

    assert (meta.offsets, meta.partitions, meta.partitioner) == ({"clicks": 7}, 4, "murmur2")
    check_partitioner(3, meta, "murmur2")


@pytest.mark.parametrize(("folded_with", "setting"), [("murmur2", "crc32"), ("crc32", "murmur2")])
def test_rows_folded_with_another_partitioner_are_refused_with_the_ways_out(folded_with: str, setting: str) -> None:
    meta = decode_meta(Partition(3, None).meta_row(4, folded_with))  # type: ignore[arg-type]

    check_partitioner(3, meta, folded_with)
    with pytest.raises(StartRefused, match=f"folded with partitioner={folded_with}, expected {setting}.*state reset"):
        check_partitioner(3, meta, setting)


def test_a_meta_row_of_an_unknown_version_is_refused_whatever_else_it_holds() -> None:
    newer = msgspec.msgpack.encode([META_VERSION + 1, "another layout"])

    with pytest.raises(RowVersionError, match=f"found a meta row of version {META_VERSION + 1}, expected {META_VERSION}"):
        decode_meta(newer)


class Cycle:
    """An object that only a collection can free, as a producer is."""

    def __init__(self) -> None:
        self.self = self


def test_what_was_frozen_and_is_no_longer_used_is_freed_at_the_next_takeover() -> None:
    try:
        cycle = Cycle()
        revoked = weakref.ref(cycle)
        collect_and_freeze()
        del cycle

        collect_and_freeze()

        assert revoked() is None
    finally:
        gc.unfreeze()
