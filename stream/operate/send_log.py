"""Send logged events as Kafka records, in order of arrival, at a chosen pace.

Each record keeps its bytes, headers, timestamp and its order within a partition. The setting `partitioner` chooses the
partition. Header `sent-at-ms` is set to the time of the actual send, in epoch ms. Start at send_events.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from msgspec import Struct, field

from schemas.errors import BrokerError
from schemas.time_units import DAY_MS, HOUR_MS
from schemas.topics import SOURCES
from stream.fold.partitioner import partition_of
from stream.kafka.clients import admin_client, output_producer
from stream.kafka.connection_check import broker_error
from stream.kafka.topic_admin import existing_partitions, topic_configs
from stream.logs.event_log import LoggedEvent
from stream.offline.log_order import in_fold_order
from stream.process.settings import Settings
from stream.roles.features_fold import SENT_AT

TICK_SECONDS = 0.005
MAX_IN_FLIGHT = 64  # batches without an acknowledgement, before the sender waits
CHECK_EVERY = 512  # without a pace, read the clock once per this many events
BATCH_SECONDS = 0.05  # without a pace, send a batch after this long even if it is not full

Pace = Callable[[int, LoggedEvent], float]  # the n-th event → seconds after the start at which it is due


class Sent(Struct):
    """The events that the broker has acknowledged, by kind, and the time it took."""

    events: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """Count the events of all kinds."""
        return self.events.total()


def at_once(number: int, event: LoggedEvent) -> float:
    """Pace: as fast as the broker accepts events."""
    return 0.0


def at_rate(events_per_second: float) -> Pace:
    """Pace: a fixed number of events per second, whatever their timestamps."""
    return lambda number, event: number / events_per_second


def at_speed(speed: float, first_ms: int) -> Pace:
    """Pace: `speed` times as fast as the events happened."""
    return lambda number, event: (event.record_ms - first_ms) / 1000 / speed


async def check_sendable(settings: Settings, kinds: Sequence[str], first_ms: int, last_ms: int, now_ms: int) -> int:
    """Check that the broker will accept and keep records of this time span; return the partition count of the topics.

    Raises:
        BrokerError: a topic is missing, counts differ, retention is too short, or records have future timestamps.
    """
    if last_ms > now_ms + HOUR_MS:
        raise BrokerError(
            f"the last event is {(last_ms - now_ms) / HOUR_MS:.0f} h in the future, expected at most 1 h, since Kafka "
            "refuses later timestamps: make the log end earlier"
        )
    names = [settings.topics()[kind].name for kind in kinds]
    client = admin_client(settings)
    try:
        await client.start()
        counts = await existing_partitions(client)
        if missing := [name for name in names if name not in counts]:
            raise BrokerError(f"found no topic {', '.join(missing)}: run `footfall topics apply`")
        configs = await topic_configs(client, names)
    except (KafkaError, TimeoutError, OSError) as error:
        raise await broker_error(settings, error) from error
    finally:
        await client.close()
    found = {name: counts[name] for name in names}
    if len(set(found.values())) > 1 or (settings.partitions is not None and set(found.values()) != {settings.partitions}):
        listed = ", ".join(f"{name} has {count}" for name, count in found.items())
        wanted = "equal counts" if settings.partitions is None else str(settings.partitions)
        raise BrokerError(f"found partition counts {listed}; expected {wanted}: run `footfall topics plan`")
    for name, config in (configs or {}).items():
        retention_ms = int(config.get("retention.ms", ("-1", False))[0])
        if retention_ms != -1 and first_ms < now_ms - retention_ms:
            raise BrokerError(
                f"topic {name} keeps records for {retention_ms / DAY_MS:g} days, the first event is "
                f"{(now_ms - first_ms) / DAY_MS:.0f} days old and would be deleted: run `footfall topics apply "
                "--retention-ms -1`"
            )
        if config.get("message.timestamp.type", ("CreateTime", False))[0] != "CreateTime":
            raise BrokerError(f"topic {name} has message.timestamp.type LogAppendTime, expected CreateTime: set CreateTime")
    return next(iter(found.values()))


async def send_events(
    events: Iterable[LoggedEvent],
    settings: Settings,
    *,
    partitions: int,
    pace: Pace = at_once,
    sent: Sent | None = None,
) -> Sent:
    """Send events in order, each when it is due; return when the broker has acknowledged all in-flight batches.

    `sent` is updated while sending, to show progress; cancelling stops between two events and flushes. A record with an
    uncertain acknowledgement may be sent twice without transactions (the embedded broker), never with them.

    Raises:
        BrokerError: the broker refused a record.
    """
    sent = Sent() if sent is None else sent
    async with _producer(settings) as producer:
        batches = _Batches(producer, settings, partitions, sent)
        started = time.monotonic()
        try:
            for number, event in enumerate(in_fold_order(events)):
                due = pace(number, event)
                if due and (wait := started + due - time.monotonic()) > 0:
                    await batches.send_all()
                    await asyncio.sleep(max(wait, TICK_SECONDS))
                elif number % CHECK_EVERY == 0:
                    await batches.send_old(time.monotonic() - BATCH_SECONDS)
                await batches.add(event)
        finally:
            await batches.flush()
            sent.seconds += time.monotonic() - started
    return sent


@asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    producer = output_producer(settings)
    try:
        await producer.start()
        yield producer
    except KafkaError as error:
        raise await broker_error(settings, error, "; not all events were sent") from error
    finally:
        await producer.stop()


class _Batches:
    """One open batch per topic and partition, and the batches in flight."""

    def __init__(self, producer: AIOKafkaProducer, settings: Settings, partitions: int, sent: Sent) -> None:
        self._producer, self._partitions, self._partitioner, self._sent = producer, partitions, settings.partitioner, sent
        self._names = {kind: settings.topics()[kind].name for kind in SOURCES}
        self._open: dict[tuple[str, int], tuple[Any, float]] = {}  # builder, and when it was created
        self._in_flight: list[tuple[str, int, asyncio.Future[Any]]] = []

    async def add(self, event: LoggedEvent) -> None:
        """Append an event to its batch; send a full batch first."""
        key = event.key
        partition = partition_of(key, self._partitions, self._partitioner)
        now = time.time()
        headers = [*(header for header in event.headers if header[0] != SENT_AT), (SENT_AT, b"%d" % (now * 1000))]
        where = (event.kind, partition)
        for _ in range(2):
            if where not in self._open:
                self._open[where] = (self._producer.create_batch(), time.monotonic())
            builder = self._open[where][0]
            if builder.append(key=key, value=event.value, timestamp=event.record_ms, headers=headers) is not None:
                return
            await self._send(where)
        raise BrokerError(
            f"found a {event.kind} of {len(event.value or b'')} bytes, expected one within the producer's max_batch_size: "
            "remove the event from the log"
        )

    async def send_all(self) -> None:
        """Send every open batch."""
        for where in list(self._open):
            await self._send(where)

    async def send_old(self, created_before: float) -> None:
        """Send the open batches that were created before a time."""
        for where in [where for where, (_, created) in self._open.items() if created < created_before]:
            await self._send(where)

    async def flush(self) -> None:
        """Send every open batch and wait for every acknowledgement."""
        await self.send_all()
        await self._await_in_flight(0)

    async def _send(self, where: tuple[str, int]) -> None:
        kind, partition = where
        builder, _ = self._open.pop(where)
        count = builder.record_count()
        builder.close()
        future = await self._producer.send_batch(builder, self._names[kind], partition=partition)
        self._in_flight.append((kind, count, future))
        await self._await_in_flight(MAX_IN_FLIGHT)

    async def _await_in_flight(self, at_most: int) -> None:
        """Count acknowledged batches; wait for the oldest while more than `at_most` are in flight."""
        while self._in_flight and (len(self._in_flight) > at_most or self._in_flight[0][2].done()):
            kind, count, future = self._in_flight[0]
            await future
            del self._in_flight[0]
            self._sent.events[kind] += count
