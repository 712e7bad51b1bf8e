import pytest
from aiokafka.partitioner import murmur2 as of_the_client
from hypothesis import given
from hypothesis import strategies as st

from stream.fold.partitioner import Partitioner, compute_partition, murmur2, partition_of

# the partitions of four that librdkafka 2.16.0 chose: by default, and with partitioner=murmur2_random
OF_LIBRDKAFKA = {
    "u-1": (0, 3),
    "crc-0": (1, 1),
    "crc-1": (3, 2),
    "crc-19": (0, 3),
    "123456789": (2, 2),
    "user-0001234": (3, 3),
    "ü": (1, 2),
    "客户-7": (0, 3),
    "x" * 64: (2, 1),
}


@given(st.binary(max_size=64))
def test_keys_hash_as_the_kafka_client_hashes_them(key: bytes) -> None:
    assert murmur2(key) & 0x7FFFFFFF == of_the_client(key) & 0x7FFFFFFF


@pytest.mark.parametrize("key", OF_LIBRDKAFKA)
def test_a_key_goes_where_librdkafka_puts_it_by_either_partitioner(key: str) -> None:
    assert (partition_of(key.encode(), 4, "crc32"), partition_of(key.encode(), 4, "murmur2")) == OF_LIBRDKAFKA[key]


@pytest.mark.parametrize("partitioner", ["murmur2", "crc32"])
def test_a_record_without_a_key_goes_to_the_first_partition(partitioner: Partitioner) -> None:
    assert (compute_partition(None, 12, partitioner), compute_partition(b"", 12, partitioner)) == (0, 0)
