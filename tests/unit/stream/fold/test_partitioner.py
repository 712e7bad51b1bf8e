from aiokafka.partitioner import murmur2 as of_the_client
from hypothesis import given
from hypothesis import strategies as st

from stream.fold.partitioner import murmur2, partition_of


@given(st.binary(max_size=64))
def test_keys_hash_as_the_kafka_client_hashes_them(key: bytes) -> None:
    assert murmur2(key) & 0x7FFFFFFF == of_the_client(key) & 0x7FFFFFFF


def test_a_record_without_a_key_goes_to_the_first_partition() -> None:
    assert (partition_of(None, 12), partition_of(b"", 12)) == (0, 0)
