"""Create a benchmark's topics, publish its load, read committed offsets and score requests, and delete the topics.

Every published load has a random prefix for its topics. Each run on it has its own group, changelog and score-request topic.
All these names contain the prefix, so that one call deletes the topics. Start at published.
"""

import asyncio
import contextlib
import secrets
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import TopicPartition
from msgspec import Struct

from models.features.spec import KINDS
from schemas.scoring import SourcePosition
from stream.bench.load import Load
from stream.fold.partitioner import partition_of
from stream.kafka.barrier import Message, send_batches
from stream.kafka.clients import admin_client, output_producer, plain_consumer
from stream.kafka.topic_admin import apply
from stream.kafka.topic_reader import open_reader
from stream.logs.event_log import LoggedEvent
from stream.offline.replay_log import Replay
from stream.process.settings import Settings, load_settings

SLICE = 50_000  # events in flight at a time


class Published(Struct, frozen=True):
    """A published load: its topics' settings, the events sent, and `due`, the score requests that an offline fold makes.

    `times_ms` holds the record timestamps of each topic and partition; index i is offset i.
    """

    settings: Settings
    count: int
    event_bytes: float
    due: int
    times_ms: dict[tuple[str, int], list[int]]

    def folded_beyond(self, committed: Mapping[tuple[str, int], int], requests: "Requests") -> int:
        """Count events that were folded but not committed, as far as score requests show how far the fold got.

        The worker folds the topics of a partition number in time order, so every event up to its newest request was folded.
        """
        newest: dict[int, int] = {}
        for request in requests.found:
            source = request.source
            newest[source.partition] = max(newest.get(source.partition, 0), source.timestamp_ms)
        return sum(
            max(0, bisect_right(times, newest.get(at[1], -1)) - committed.get(at, 0)) for at, times in self.times_ms.items()
        )


class Request(Struct):
    """The fields of a score request that a benchmark reads."""

    request_id: str
    event_id: str
    source: SourcePosition


class Requests(Struct, frozen=True):
    """All score requests of one topic, and the total bytes of their values."""

    found: list[Request]
    size_bytes: int

    @property
    def distinct(self) -> int:
        """Number of distinct request ids."""
        return len({request.request_id for request in self.found})


decode_request = msgspec.json.Decoder(Request).decode


def bench_settings(bootstrap: str, *, partitions: int = 4) -> Settings:
    """Return settings for a benchmark on a broker: fresh names, one replica, unlimited retention."""
    name = f"fb{secrets.token_hex(4)}"  # short, because Quix Streams joins the names of all topics into its changelog's name
    return load_settings(
        kafka_bootstrap_servers=bootstrap,
        partitions=partitions,
        replication_factor=1,
        retention_ms=-1,
        topic_prefix=f"{name}.",
        app_id=name,
    )


def run_settings(settings: Settings, **changes: object) -> Settings:
    """Return settings of one run on published topics, with its own group, changelog and score-request topic."""
    run = f"{settings.app_id}-{secrets.token_hex(2)}"
    return settings.model_copy(
        update={"app_id": run, "topic_names": {"score-request": f"{settings.topic_prefix}{run}.requests"}, **changes}
    )


@contextlib.asynccontextmanager
async def published(settings: Settings, load: Load) -> AsyncIterator[Published]:
    """Create topics and publish a load to them; delete the topics of all its runs at the end."""
    await apply(settings)
    try:
        events = list(load.events())
        size = await publish(settings, events)
        folded = Replay(settings, partitions=settings.partitions or 1).fold(events)
        due = sum(output.kind == "score-request" for output in folded)
        times: dict[tuple[str, int], list[int]] = defaultdict(list)
        names = {kind: topic.name for kind, topic in settings.topics().items()}
        for event in events:
            number = partition_of(event.key, settings.partitions or 1, settings.partitioner)
            times[names[event.kind], number].append(event.record_ms)
        yield Published(settings, load.count, size / load.count, due, dict(times))
    finally:
        await delete_topics(settings)


async def publish(settings: Settings, events: Iterable[LoggedEvent]) -> int:
    """Publish events in order, as fast as the broker accepts them, and return the total bytes of their values."""
    partitions = settings.partitions or 1
    names = {kind: topic.name for kind, topic in settings.topics().items()}
    waiting: dict[tuple[str, int], list[Message]] = defaultdict(list)
    producer, size, count = output_producer(settings), 0, 0
    await producer.start()

    async def send() -> None:
        sends = [
            sent
            for (topic, number), messages in waiting.items()
            for sent in await send_batches(producer, topic, number, messages)
        ]
        await asyncio.gather(*sends)
        waiting.clear()

    try:
        for event in events:
            size += len(event.value or b"")
            count += 1
            topic = names[event.kind]
            number = partition_of(event.key, partitions, settings.partitioner)
            waiting[topic, number].append((topic, event.key, event.value, event.record_ms, []))
            if count % SLICE == 0:
                await send()
        await send()
    finally:
        await producer.stop()
    return size


def source_partitions(settings: Settings) -> list[TopicPartition]:
    """List the partitions of all source topics."""
    return [
        TopicPartition(settings.topics()[kind].name, number) for kind in KINDS for number in range(settings.partitions or 1)
    ]


class GroupOffsets:
    """Reads a group's committed offsets of the source topics in one request to the broker."""

    def __init__(self, settings: Settings, group: str) -> None:
        """Read the offsets of `group`."""
        self._client: AIOKafkaAdminClient = admin_client(settings)
        self._group, self._partitions = group, source_partitions(settings)
        self._coordinator: int | None = None

    async def start(self) -> None:
        """Connect."""
        await self._client.start()

    async def offsets(self) -> dict[TopicPartition, int]:
        """Return the next offset of each source partition; 0 where nothing is committed."""
        if self._coordinator is None:
            try:
                self._coordinator = await self._client.find_coordinator(self._group)
            except GroupCoordinatorNotAvailableError:  # a new broker creates its offsets topic for the first group
                return dict.fromkeys(self._partitions, 0)
        found = await self._client.list_consumer_group_offsets(
            self._group, group_coordinator_id=self._coordinator, partitions=self._partitions
        )
        return {tp: max(0, found[tp].offset) if tp in found else 0 for tp in self._partitions}

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()


async def read_requests(settings: Settings) -> Requests:
    """Read all score requests of a run, without those of an open or aborted transaction."""
    found, size = [], 0
    topic = settings.topics()["score-request"].name
    consumer = plain_consumer(settings)
    await consumer.start()
    try:
        tps = [TopicPartition(topic, number) for number in range(settings.partitions or 1)]
        reader = await open_reader(consumer, tps)
        async for record in reader.records():
            size += len(record.value)
            found.append(decode_request(record.value))
    finally:
        await consumer.stop()
    return Requests(found, size)


async def delete_topics(settings: Settings) -> None:
    """Delete every topic of a benchmark's runs, including changelogs of other engines: all carry its prefix."""
    client, mark = admin_client(settings), settings.topic_prefix.rstrip(".")
    await client.start()
    try:
        names = [name for name in await client.list_topics() if f"{mark}." in name or f"{mark}-" in name]
        if names:
            await client.delete_topics(names)
    finally:
        await client.close()
