"""Read the committed rows of a role's changelog, without running a worker or joining a consumer group.

Start at read_changelog.
"""

import msgspec
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct

from schemas.errors import BrokerError
from stream.fold.damaged_row import BESIDE_ROWS, DAMAGED_KEY
from stream.fold.partitioner import partition_of
from stream.fold.records import PartitionTotals
from stream.kafka.clients import admin_client, plain_consumer
from stream.kafka.connection_check import broker_error
from stream.kafka.store import META_KEY, decode_meta
from stream.kafka.topic_admin import existing_partitions
from stream.kafka.topic_reader import open_reader
from stream.process.settings import Settings


class PartitionRows(Struct):
    """Hold one changelog partition: rows by user, records of damaged rows, totals, and next offsets by topic."""

    rows: dict[bytes, bytes] = {}
    damaged: dict[bytes, bytes] = {}
    totals: PartitionTotals = msgspec.field(default_factory=PartitionTotals)
    offsets: dict[str, int] = {}
    has_meta: bool = False
    partitioner: str = ""  # of the keys that the rows were folded from; empty without a meta row
    records: int = 0


async def read_changelog(
    settings: Settings, topic: str, *, of_key: bytes | None = None, wait: bool = False
) -> dict[int, PartitionRows]:
    """Read a changelog to its end and return its content by partition; with `of_key`, read only that key's partition.

    A commit may not be visible yet although its worker got the acknowledgement: the broker writes the markers afterwards.
    `wait` waits for all transactions that are open now.

    Raises:
        BrokerError: the topic does not exist, or no broker answers.
    """
    count = (await partition_counts(settings)).get(topic)
    if count is None:
        raise BrokerError(
            f"found no topic {topic}, expected a changelog: run `footfall topics apply`, or correct app_id or generations"
        )
    numbers = range(count) if of_key is None else [partition_of(of_key, count, settings.partitioner)]
    consumer = plain_consumer(settings)
    try:
        await consumer.start()
        found = {number: PartitionRows() for number in numbers}
        tps = [TopicPartition(topic, number) for number in numbers]
        end = await _end_offsets(settings, tps) if wait else None
        reader = await open_reader(consumer, tps, end)
        async for record in reader.records():
            _add(found[record.partition], record)
        return found
    except KafkaError as error:
        raise await broker_error(settings, error) from error
    finally:
        await consumer.stop()


async def partition_counts(settings: Settings) -> dict[str, int]:
    """Return the partition count of every topic on the broker.

    Raises:
        BrokerError: no broker answers.
    """
    client = admin_client(settings)
    try:
        await client.start()
        return await existing_partitions(client)
    except KafkaError as error:
        raise await broker_error(settings, error) from error
    finally:
        await client.close()


async def _end_offsets(settings: Settings, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
    """Return the end offsets, uncommitted records included."""
    consumer = plain_consumer(settings, isolation_level="read_uncommitted")
    try:
        await consumer.start()
        end: dict[TopicPartition, int] = await consumer.end_offsets(tps)
        return end
    finally:
        await consumer.stop()


def _add(found: PartitionRows, record: ConsumerRecord) -> None:
    found.records += 1
    key, value = record.key, record.value
    if key == META_KEY:
        found.has_meta = value is not None
        meta = decode_meta(value) if value is not None else None
        found.totals, found.offsets = (PartitionTotals(), {}) if meta is None else (meta.totals, meta.offsets)
        found.partitioner = "" if meta is None else meta.partitioner
    elif key is not None:
        rows = found.damaged if key.startswith(DAMAGED_KEY) else found.rows
        key = key.removeprefix(DAMAGED_KEY)
        if value is None:
            rows.pop(key, None)
        elif not key.startswith(BESIDE_ROWS):
            rows[key] = value
