"""Commit rows, totals and source offsets of a partition in one Kafka transaction, then acknowledge the folded chunks.

Totals are counts of records by outcome. The fold continues while a flush is in flight, up to a limit. The barrier encodes
rows by a function that its caller passes in, and never reads their fields. P1 and P2 are steps in
docs/explanation/guarantees.md. Start at Barrier.flush.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiokafka
import structlog
from faust.exceptions import ConsumerNotStarted
from msgspec import Struct

from schemas.codec import encode
from schemas.dead_letter import DeadLetter, headers_of
from schemas.errors import BrokerError
from stream.fold.records import Folded, Output
from stream.kafka.alignment import Alignment
from stream.kafka.clock_skew import ClockSkew
from stream.kafka.store import END_KEY, META_KEY, Partition, RowStore
from stream.process.fault_points import reach

SLICE_ROWS = 200  # encoded in about 10 ms

Message = tuple[str, bytes | None, bytes | None, int, list[tuple[str, bytes]]]  # topic, key, value, timestamp, headers

log = structlog.get_logger()


class Pending(Struct):
    """Collect what was folded into one owned partition since the last flush."""

    partition: Partition
    events: list[Any] = []
    dirty: dict[bytes, Any] = {}
    with_rows: list[Output] = []
    sends: list[asyncio.Task[None]] = []


class Batch(Struct, frozen=True):
    """Hold one partition's flush in encoded form: rows, messages of the transaction, offsets and meta row."""

    partition: Partition
    rows: list[tuple[bytes, bytes | None]]  # None is a tombstone
    messages: list[Message]
    offsets: dict[aiokafka.TopicPartition, int]
    meta: bytes


class Outbox:
    """Send outputs to the partition number of their source, at once by a plain producer; render those of a transaction."""

    def __init__(self, producer: aiokafka.AIOKafkaProducer, names: dict[str, str]) -> None:
        """Send to the topics named by `names` (kind → name)."""
        self._producer, self._names, self._send_lock = producer, names, asyncio.Lock()
        self.skew = ClockSkew()

    def post(self, outputs: Sequence[Output]) -> asyncio.Task[None]:
        """Send outputs in the order posted, without blocking; the task ends when all replicas have them."""
        return asyncio.create_task(self._deliver(outputs))

    async def _deliver(self, outputs: Sequence[Output]) -> None:
        by_partition: dict[tuple[str, int], list[Message]] = {}
        for output in outputs:
            message = self.render(output)
            by_partition.setdefault((message[0], output.partition), []).append(message)
        sends: list[Any] = []
        async with self._send_lock:  # asyncio locks are fair: outputs leave in the order posted
            for (topic, partition), messages in by_partition.items():
                sends += await send_batches(self._producer, topic, partition, messages)
        self.skew.note(await asyncio.gather(*sends), time.time(), time.monotonic())
        reach("outputs.acked")

    def render(self, output: Output) -> Message:
        """Render an output as topic, key, value, timestamp and headers; a dead letter keeps the bytes of its record."""
        message = output.message
        if isinstance(message, DeadLetter):
            value = b"" if message.key is None and message.value is None else message.value  # aiokafka requires one of them
            return self._names[output.kind], message.key, value, output.timestamp_ms, list(headers_of(message))
        return self._names[output.kind], output.key, encode(message), output.timestamp_ms, []


class Barrier:
    """Collect folded chunks and make them durable every `interval_seconds`, or sooner when too much is pending."""

    def __init__(
        self,
        store: RowStore,
        outbox: Outbox,
        *,
        changelog: str,
        encode_row: Callable[[Any], bytes],
        interval_seconds: float,
        timeout_seconds: float = 60.0,
        max_events: int,
        max_bytes: int,
        check_topics: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Write rows to the topic `changelog`; the fold blocks beyond `max_events` or `max_bytes` pending.

        A flush raises BrokerError after `timeout_seconds`. It commits only after `check_topics` returns, which raises if a
        source topic was recreated: what was folded before may come from the new topic.
        """
        self._store, self._outbox, self._changelog, self._encode_row = store, outbox, changelog, encode_row
        self._interval, self._timeout = interval_seconds, timeout_seconds
        self._max_events, self._max_bytes, self._check_topics = max_events, max_bytes, check_topics
        self._pending: dict[int, Pending] = {}
        self._events = self._bytes = 0
        self._due, self._done, self._flushing = asyncio.Event(), asyncio.Event(), asyncio.Lock()
        self._encoded = asyncio.Event()
        self._encoded.set()
        self.flushing_since: float | None = None  # monotonic seconds; None while no flush is in flight
        self.flushes, self.rows_written, self.bytes_written, self.seconds = 0, 0, 0, 0.0

    def add(self, event: Any, partition: Partition, folded: Folded) -> None:
        """Add one folded chunk: the event to acknowledge, the changed rows and the outputs.

        Call it right after the fold, without an await in between. A flush in that gap would commit rows and totals that
        are ahead of the offsets committed with them.
        """
        pending = self._pending.get(partition.number)
        if pending is None or pending.partition is not partition:
            pending = self._pending[partition.number] = Pending(partition)
        chunk = event.value
        pending.events.append(event)
        pending.dirty.update(folded.dirty)
        pending.with_rows += folded.with_rows
        if folded.outputs:
            pending.sends.append(self._outbox.post(folded.outputs))
        partition.offsets.update({tp.topic: offset for tp, offset in chunk.ends.items()})
        partition.times.update({tp.topic: at for tp, at in chunk.times.items()})
        self._events += len(chunk.records)
        self._bytes += chunk.size_bytes

    @property
    def pending(self) -> bool:
        """Return whether something is folded but not durable yet."""
        return bool(self._pending) or self._flushing.locked()

    async def wait_encoded(self) -> None:
        """Wait while a flush encodes rows: what is folded meanwhile would be in some of its rows and not in others."""
        await self._encoded.wait()

    async def wait_for_capacity(self) -> None:
        """Wait while too much is folded but not durable; a waiting fold stops the fetches too (backpressure)."""
        while self._events > self._max_events or self._bytes > self._max_bytes:
            self._due.set()
            self._done.clear()
            await self._done.wait()

    async def run(self) -> None:
        """Flush forever; any error raised here must end the process before another acknowledgement."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._due.wait()
            self._due.clear()
            await self.flush()

    async def drained(self) -> None:
        """Flush until nothing is pending."""
        while self.pending:
            await self.flush()

    async def flush(self) -> None:
        """Make everything folded so far durable, then acknowledge it; one flush runs at a time.

        Raises:
            BrokerError: the broker did not acknowledge rows and outputs in time.
            StartRefused: a source topic was recreated, or gained partitions.
        """
        async with self._flushing:
            taken, self._pending = self._pending, {}
            events, size = self._events, self._bytes
            taken = {n: p for n, p in taken.items() if self._store.owned.get(n) is p.partition}  # the others were revoked
            if not taken:
                self._free(events, size)
                return
            self._encoded.clear()  # the fold would change rows and totals meanwhile
            try:
                batches = [await self._encode(pending) for pending in taken.values()]
            finally:
                self._encoded.set()
            started = self.flushing_since = time.monotonic()
            sends = [send for pending in taken.values() for send in pending.sends]
            try:
                async with asyncio.timeout(self._timeout):  # aiokafka's idempotent producers retry forever
                    checks = [] if self._check_topics is None else [self._check_topics()]
                    await asyncio.gather(*checks, *sends)  # P1 outputs first
                    reach("P1.acked")
                    await asyncio.gather(*(self._commit(batch) for batch in batches))  # P2 rows, offsets: one transaction
            except TimeoutError:
                raise BrokerError(
                    f"found no acknowledgement of rows and outputs within {self._timeout:g} s (barrier_timeout_seconds), "
                    "expected one: check the broker, and that the changelog and all output topics exist"
                ) from None
            for pending in taken.values():
                for event in pending.events:
                    event.ack()
            reach("P2.acked")
            self.flushing_since = None
            self.flushes += 1
            self.seconds += time.monotonic() - started
            self._free(events, size)

    def _free(self, events: int, size: int) -> None:
        self._events -= events
        self._bytes -= size
        self._done.set()

    async def _encode(self, pending: Pending) -> Batch:
        """Encode what changed in one partition, in slices, so that other work of the event loop goes on in between."""
        partition, encode_row = pending.partition, self._encode_row
        encoded: list[tuple[bytes, bytes]] = []
        for key, row in pending.dirty.items():
            encoded.append((key, encode_row(row)))
            if len(encoded) % SLICE_ROWS == 0:
                await asyncio.sleep(0)
        rows: list[tuple[bytes, bytes | None]] = [*encoded, *partition.evict(encoded)]
        partition.undo.flushed()
        meta = partition.meta_row(self._store.partitions, self._store.settings.partitioner)
        rows.append((META_KEY, meta))
        offsets = {aiokafka.TopicPartition(topic, partition.number): offset for topic, offset in partition.offsets.items()}
        return Batch(partition, rows, [self._outbox.render(output) for output in pending.with_rows], offsets, meta)

    async def _commit(self, batch: Batch) -> None:
        producer, number = batch.partition.producer, batch.partition.number
        transactional = self._store.settings.transactions
        if transactional:
            await producer.begin_transaction()
        reach("P2.begun")
        sends = [
            await producer.send(topic, value, key=key, partition=number, timestamp_ms=timestamp_ms, headers=headers)
            for topic, key, value, timestamp_ms, headers in batch.messages
        ]
        sends += await self._send_rows(producer, number, batch.rows)
        reach("P2.sent")
        if transactional:
            await producer.send_offsets_to_transaction(batch.offsets, self._store.app.conf.id)
            reach("P2.offsets")
        # aiokafka would commit the rest of a transaction although rows were rejected
        self._outbox.skew.note(await asyncio.gather(*sends), time.time(), time.monotonic())
        if transactional:
            await producer.commit_transaction()
        else:  # the embedded broker reports a wrong end offset unless the last batch has one record
            await asyncio.gather(*await self._send_rows(producer, number, [(END_KEY, b"")]))
        reach("P2.committed")
        batch.partition.meta = batch.meta
        batch.partition.skipped.clear()

    async def _send_rows(
        self, producer: aiokafka.AIOKafkaProducer, number: int, rows: Sequence[tuple[bytes, bytes | None]]
    ) -> list[asyncio.Future[Any]]:
        now_ms = int(time.time() * 1000)
        self.rows_written += len(rows)
        self.bytes_written += sum([len(key) + len(value or b"") for key, value in rows])
        messages: list[Message] = [(self._changelog, key, value, now_ms, []) for key, value in rows]
        return await send_batches(producer, self._changelog, number, messages)


async def send_batches(
    producer: aiokafka.AIOKafkaProducer, topic: str, partition: int, messages: Sequence[Message]
) -> list[asyncio.Future[Any]]:
    """Pass messages of one topic and partition to a producer in closed batches: a fifth of the time of single sends.

    Raises:
        ValueError: a message is larger than the maximum batch size.
    """
    sends, builder = [], producer.create_batch()
    for _, key, value, timestamp_ms, headers in messages:
        if builder.append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:  # the batch is full
            if builder.record_count():
                builder.close()
                sends.append(await producer.send_batch(builder, topic, partition=partition))
            builder = producer.create_batch()
            if builder.append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:
                raise ValueError(
                    f"found a message of {len(value or b'')} bytes for {topic}, expected at most the producer's max_batch_size"
                )
    builder.close()
    sends.append(await producer.send_batch(builder, topic, partition=partition))
    return sends


def lag_of(consumer: Any, alignment: Alignment) -> dict[tuple[str, int], int]:
    """Return the consumer lag by topic and partition, in records not yet acknowledged, of the assigned partitions.

    The lag is 0 once everything is fetched and delivered and nothing is in flight: only control records are left.
    """
    lag = {}
    unacked, topics = bool(consumer.unacked), alignment.topics()
    try:
        assigned = consumer.assignment()
    except ConsumerNotStarted:  # its thread starts a moment after the app
        return {}
    for tp in assigned:
        if tp.topic in topics and (found := consumer.position_and_end(tp)) is not None:
            position, end = found
            done = consumer.next_offset.get(tp) or consumer._committed_offset.get(tp) or 0
            idle = position >= end and not unacked and not alignment.holds(tp) and not consumer.in_flight(tp)
            lag[tp.topic, tp.partition] = 0 if idle else max(0, end - done)
    return lag
