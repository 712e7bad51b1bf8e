"""Yield the records of some topics as they arrive, without a consumer group and without commits. Start at follow."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError

from schemas.errors import BrokerError
from stream.kafka.clients import plain_consumer
from stream.kafka.connection_check import broker_error
from stream.process.settings import Settings


@asynccontextmanager
async def groupless_consumer(
    settings: Settings, topics: Sequence[str], *, from_beginning: bool
) -> AsyncIterator[AIOKafkaConsumer]:
    """Build a consumer of every partition of some topics that starts at their beginning or end.

    Raises:
        BrokerError: no broker answers, or a topic does not exist.
    """
    consumer = plain_consumer(settings, auto_offset_reset="earliest" if from_beginning else "latest")
    try:
        await consumer.start()
        existing = await consumer.topics()
        if missing := [topic for topic in topics if topic not in existing]:
            raise BrokerError(f"found no topic {', '.join(missing)}: run `footfall topics apply`")
        consumer.subscribe(topics)
        yield consumer
    except KafkaError as error:
        raise await broker_error(settings, error) from error
    finally:
        await consumer.stop()


async def follow(settings: Settings, topics: Sequence[str], *, from_beginning: bool) -> "AsyncIterator[ConsumerRecord]":
    """Yield records as they arrive; never returns.

    Raises:
        BrokerError: no broker answers, or a topic does not exist.
    """
    async with groupless_consumer(settings, topics, from_beginning=from_beginning) as consumer:
        async for record in consumer:
            yield record
