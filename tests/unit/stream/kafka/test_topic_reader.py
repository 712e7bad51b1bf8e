"""A reader ends at the ends it was given, and names the partition that delivers nothing."""

from typing import Any

import pytest
from aiokafka import TopicPartition

from schemas.errors import BrokerError
from stream.kafka.topic_reader import STALL_SECONDS, TopicReader
from tests.fakes import FakeClock, FakeConsumer
from tests.unit.stream.operate.test_record_topics import record_of

CLICKS, VISITS = TopicPartition("shop.clicks.v1", 0), TopicPartition("shop.visits.v1", 0)
NOTHING: tuple[dict[TopicPartition, list[Any]], dict[TopicPartition, int]] = ({}, {})


async def read(reader: TopicReader, clock: FakeClock, *, seconds: float) -> int:
    """Read to the end while every fetch takes `seconds`; return the number of records."""
    found = 0
    async for batches in reader.batches():
        found += sum(map(len, batches.values()))
        clock.now += seconds
    return found


async def test_a_partition_that_delivers_nothing_is_named_after_the_stall_limit() -> None:
    clock = FakeClock()
    arrived = {CLICKS: [record_of(CLICKS, 0)]}
    consumer: Any = FakeConsumer((arrived, {}), *[NOTHING] * 9)
    reader = TopicReader(consumer, {CLICKS: 0, VISITS: 4}, {CLICKS: 1, VISITS: 9}, monotonic=clock)

    with pytest.raises(
        BrokerError, match=rf"read no record for {STALL_SECONDS:g} s.*visits.v1/0 \(offset 4, end 9\)"
    ) as stalled:
        await read(reader, clock, seconds=STALL_SECONDS / 4)

    assert "clicks" not in str(stalled.value), "a partition at its end is not stuck"


async def test_slow_work_on_a_batch_is_no_stall() -> None:
    clock = FakeClock()
    fetches = [({CLICKS: [record_of(CLICKS, offset)]}, dict[TopicPartition, int]()) for offset in range(5)]
    consumer: Any = FakeConsumer(*[fetch for one in fetches for fetch in (one, NOTHING)])
    reader = TopicReader(consumer, {CLICKS: 0}, {CLICKS: 5}, monotonic=clock)

    assert await read(reader, clock, seconds=2 * STALL_SECONDS) == 5


async def test_a_reader_that_follows_has_no_stall_limit() -> None:
    clock = FakeClock()
    consumer: Any = FakeConsumer(*[NOTHING] * 9, ({CLICKS: [record_of(CLICKS, 0)]}, {}))
    reader = TopicReader(consumer, {CLICKS: 0}, None, monotonic=clock)

    async for batches in reader.batches():
        clock.now += STALL_SECONDS
        if batches:
            break

    assert reader.position == {CLICKS: 1}
