"""Folded chunks → durable chunks: rows, totals and source offsets of a partition in one Kafka transaction, then acks.

The barrier runs beside the fold: while one flush is on its way the fold goes on, up to a bound. Steps P1 and P2 are
numbered as in DECISIONS.md. Knows rows only as things to encode. Start at Barrier.flush.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
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
from stream.kafka.store import END_KEY, META_KEY, Partition, RowStore
from stream.process.fault_points import reach

Message = tuple[str, bytes | None, bytes | None, int, list[tuple[str, bytes]]]  # topic, key, value, timestamp, headers

log = structlog.get_logger()


class Pending(Struct):
    """What was folded for one owned partition since the last flush."""

    partition: Partition
    events: list[Any] = []
    dirty: dict[bytes, Any] = {}
    with_rows: list[Output] = []
    sends: list[asyncio.Task[None]] = []


class Batch(Struct, frozen=True):
    """One partition's flush, encoded: rows, messages that belong to the transaction, the meta row and its offsets."""

    partition: Partition
    rows: list[tuple[bytes, bytes | None]]  # None is a tombstone
    messages: list[Message]
    offsets: dict[aiokafka.TopicPartition, int]
    meta: bytes


class Outbox:
    """Sends outputs on the partition of their source: at once by a plain producer, or as parts of a transaction."""

    def __init__(self, producer: aiokafka.AIOKafkaProducer, names: dict[str, str]) -> None:
        """Send to the topics named by `names` (kind → name)."""
        self._producer, self._names, self._turn = producer, names, asyncio.Lock()

    def post(self, outputs: Sequence[Output]) -> asyncio.Task[None]:
        """Send outputs in the order posted; the task ends when all replicas have them. Does not wait."""
        return asyncio.create_task(self._deliver(outputs))

    async def _deliver(self, outputs: Sequence[Output]) -> None:
        together: dict[tuple[str, int], list[Message]] = {}
        for output in outputs:
            message = self.render(output)
            together.setdefault((message[0], output.partition), []).append(message)
        sends: list[Any] = []
        async with self._turn:  # waiters get their turn in the order they came
            for (topic, partition), messages in together.items():
                sends += await send_batches(self._producer, topic, partition, messages)
        await asyncio.gather(*sends)
        reach("outputs.acked")

    def render(self, output: Output) -> Message:
        """Render an output as topic, key, value, timestamp and headers; a dead letter keeps its original bytes."""
        message = output.message
        if isinstance(message, DeadLetter):
            value = b"" if message.key is None and message.value is None else message.value  # a record needs one of the two
            return self._names[output.kind], message.key, value, output.timestamp_ms, list(headers_of(message))
        return self._names[output.kind], output.key, encode(message), output.timestamp_ms, []


class Barrier:
    """Collects what was folded and makes it durable every `interval_seconds`, or sooner when much is pending."""

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
    ) -> None:
        """Write rows to the topic `changelog`; the fold waits beyond `max_events` or `max_bytes`.

        A flush raises BrokerError after `timeout_seconds`.
        """
        self._store, self._outbox, self._changelog, self._encode_row = store, outbox, changelog, encode_row
        self._interval, self._timeout = interval_seconds, timeout_seconds
        self._max_events, self._max_bytes = max_events, max_bytes
        self._pending: dict[int, Pending] = {}
        self._events = self._bytes = 0
        self._due, self._done, self._flushing = asyncio.Event(), asyncio.Event(), asyncio.Lock()
        self.flushing_since: float | None = None  # monotonic seconds, while a flush waits for the broker
        self.flushes, self.rows_written, self.bytes_written, self.seconds = 0, 0, 0, 0.0

    def add(self, event: Any, partition: Partition, folded: Folded) -> None:
        """Take one folded chunk: the event to acknowledge, changed rows, outputs.

        Call it right after the fold, without an await between: a flush in that gap would commit rows and totals that
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
        """Tell whether something was folded that is not durable yet."""
        return bool(self._pending) or self._flushing.locked()

    async def room(self) -> None:
        """Wait while too much is folded but not durable; fetching stops by itself when the fold waits."""
        while self._events > self._max_events or self._bytes > self._max_bytes:
            self._due.set()
            self._done.clear()
            await self._done.wait()

    async def run(self) -> None:
        """Flush for ever; whatever this raises must end the process before another acknowledgement."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), self._interval)
            self._due.clear()
            await self.flush()

    async def drained(self) -> None:
        """Flush until nothing is pending."""
        while self.pending:
            await self.flush()

    async def flush(self) -> None:
        """Make everything folded so far durable, then acknowledge it; one flush at a time."""
        async with self._flushing:
            taken, self._pending = self._pending, {}
            events, size = self._events, self._bytes
            taken = {n: p for n, p in taken.items() if self._store.owned.get(n) is p.partition}  # the rest left us
            if not taken:
                self._made_room(events, size)
                return
            batches = [self._encode(pending) for pending in taken.values()]  # before any await: rows go on changing
            started = self.flushing_since = time.monotonic()
            sends = [send for pending in taken.values() for send in pending.sends]
            try:
                async with asyncio.timeout(self._timeout):  # aiokafka's idempotent producers would try for ever
                    await asyncio.gather(*sends)  # P1 outputs first
                    reach("P1.acked")
                    await asyncio.gather(*(self._commit(batch) for batch in batches))  # P2 rows, offsets: one transaction
            except TimeoutError:
                raise BrokerError(
                    f"found no acknowledgement of rows and outputs within {self._timeout:g} s, expected it: look at the "
                    "broker, and whether changelog and dead-letter topics are there"
                ) from None
            for pending in taken.values():
                for event in pending.events:
                    event.ack()
            reach("P2.acked")
            self.flushing_since = None
            self.flushes += 1
            self.seconds += time.monotonic() - started
            self._made_room(events, size)

    def _made_room(self, events: int, size: int) -> None:
        self._events -= events
        self._bytes -= size
        self._done.set()

    def _encode(self, pending: Pending) -> Batch:
        partition, encode_row = pending.partition, self._encode_row
        encoded = [(key, encode_row(row)) for key, row in pending.dirty.items()]
        rows: list[tuple[bytes, bytes | None]] = [*encoded, *partition.settle(encoded)]
        partition.undo.flushed()
        meta = partition.meta_row(self._store.partitions)
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
        await asyncio.gather(*sends)  # aiokafka would commit what is left of a transaction whose rows were refused
        if transactional:
            await producer.commit_transaction()
        else:  # the embedded broker miscounts its end unless a flush ends with a batch of one record
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
    """Hand messages of one topic and partition to a producer in closed batches: a fifth of the time of single sends.

    Raises:
        ValueError: a message is larger than a batch may be.
    """
    sends, builder = [], producer.create_batch()
    for _, key, value, timestamp_ms, headers in messages:
        if builder.append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:  # the batch is full
            if builder.record_count():
                builder.close()
                sends.append(await producer.send_batch(builder, topic, partition=partition))
            builder = producer.create_batch()
            if builder.append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:
                raise ValueError(f"message of {len(value or b'')} bytes for {topic}: expected one that fits a batch")
    builder.close()
    sends.append(await producer.send_batch(builder, topic, partition=partition))
    return sends


def lag_of(consumer: Any, alignment: Alignment) -> dict[tuple[str, int], int]:
    """Return records not yet acknowledged by topic and partition, of the partitions this worker reads.

    Nothing lags where all was fetched and handed on and nothing is in work: what is left to the end are control records.
    """
    lag = {}
    in_work, topics = bool(consumer.unacked), alignment.topics()
    try:
        assigned = consumer.assignment()
    except ConsumerNotStarted:  # its thread begins a moment after the app
        return {}
    for tp in assigned:
        if tp.topic in topics and (found := consumer.position_and_end(tp)) is not None:
            position, end = found
            done = consumer.next_offset.get(tp) or consumer._committed_offset.get(tp) or 0
            idle = position >= end and not in_work and not alignment.holds(tp) and not consumer.on_its_way(tp)
            lag[tp.topic, tp.partition] = 0 if idle else max(0, end - done)
    return lag
