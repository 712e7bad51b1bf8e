"""Record topics: which records a recording holds, whatever arrives while it reads."""

import asyncio
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from stream.kafka.topic_reader import TopicReader
from stream.logs.event_log import LogWriter, read_log
from stream.operate.record_topics import Recorded, _write_until
from tests.fakes import FakeConsumer

CLICKS, VISITS = TopicPartition("shop.clicks.v1", 0), TopicPartition("shop.visits.v1", 0)


def record_of(tp: TopicPartition, offset: int) -> Any:
    return ConsumerRecord(tp.topic, tp.partition, offset, 1_000 + offset, 0, b"u", b"{}", None, 1, 2, ())


async def test_a_finished_partition_stays_finished_while_traffic_continues(tmp_path: Path) -> None:
    consumer: Any = FakeConsumer(
        ({CLICKS: [record_of(CLICKS, 0)], VISITS: [record_of(VISITS, 0)]}, {CLICKS: 1, VISITS: 2}),
        ({CLICKS: [record_of(CLICKS, 1)], VISITS: [record_of(VISITS, 1)]}, {CLICKS: 2, VISITS: 2}),
        ({CLICKS: [record_of(CLICKS, 1)]}, {CLICKS: 3}),
    )
    reader = TopicReader(consumer, {CLICKS: 0, VISITS: 0}, {CLICKS: 1, VISITS: 1})  # the embedded broker counts batches
    names = {CLICKS.topic: "click", VISITS.topic: "visit"}

    with LogWriter(tmp_path) as writer:
        await _write_until(asyncio.Event(), reader, consumer, writer, names, Recorded(), None, embedded=True)
        writer.finish(source="test")

    assert [(event.kind, event.offset) for event in read_log(tmp_path, names.values())] == [
        ("click", 0),
        ("visit", 0),
        ("visit", 1),
    ]
