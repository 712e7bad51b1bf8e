"""Faust's consumer, made to deliver chunks: one message per group of records, acknowledged strictly in order.

Everything that leans on Faust's internals is here, in mended.py and in store.py. What it changes, and why, is measured in
DECISIONS.md; tests/unit/stream/kafka/test_transport.py fails when a new Faust no longer has what is changed. Start at install.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import faust
from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.errors import InvalidSessionTimeoutError, KafkaError
from faust.transport import drivers
from faust.transport.drivers import aiokafka as driver
from faust.types.transports import SchedulingStrategyT
from mode.services import Service
from mode.utils.futures import notify

from stream.kafka.alignment import Alignment, Chunk, TopicPartition
from stream.kafka.library_patches import mend
from stream.process.exit_codes import EXIT_CONFIG, end_process

FETCH_WAIT_MS = 50
IDLE_SECONDS = 0.02
JOIN_SECONDS = 1.0  # between two looks at whether the group can be joined
UNKNOWN_OFFSET = -1  # what a broker answers for a partition that a group has committed nothing for


class ChunkRecord:
    """Looks like one aiokafka record to Faust; its value is a Chunk, its offset the last of the chunk's last record."""

    __slots__ = (
        "checksum", "headers", "key", "offset", "partition", "serialized_key_size", "serialized_value_size",
        "timestamp", "timestamp_type", "topic", "value",
    )  # fmt: skip

    def __init__(self, chunk: Chunk) -> None:
        last = chunk.records[-1]
        self.topic, self.partition, self.offset = last.topic, last.partition, last.offset
        self.timestamp, self.timestamp_type = last.timestamp, last.timestamp_type
        self.headers, self.key, self.value, self.checksum = (), None, chunk, None
        self.serialized_key_size, self.serialized_value_size = 0, chunk.size_bytes


class ChunkScheduler(SchedulingStrategyT):  # type: ignore[misc]  # Faust has no types
    """Faust's hook between fetch and agent: source records leave as chunks, changelog records one by one."""

    def __init__(self) -> None:
        self.consumer: Any = None

    def iterate(self, records: Mapping[Any, list[Any]]) -> Iterator[tuple[Any, Any]]:
        """Align what was fetched and yield what may pass; called once a second with no records, too."""
        alignment: Alignment = self.consumer.app.alignment
        sources = alignment.topics()
        for tp, batch in records.items():
            if tp.topic in sources:
                alignment.add(TopicPartition(*tp), batch)
            else:
                yield from ((tp, record) for record in batch)
        assigned = [TopicPartition(*tp) for tp in self.consumer.assignment() if tp.topic in sources]
        for chunk in alignment.release(assigned, self.consumer.read_to_end, unaligned_chunks=self.consumer.room()):
            self.consumer.passed_on.clear()
            record = ChunkRecord(chunk)
            yield driver.TP(record.topic, record.partition), record


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust has no types
    """Faust's fetching thread with a short fetch wait, reading committed records only where there are transactions."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        if self.app.transactions:
            consumer._isolation_level = "read_committed"
        return consumer

    async def committed(self) -> dict[Any, int | None]:
        """Return the group's offset of every assigned source partition, None where it has none, in one request."""
        self._ensure_consumer()
        found: dict[Any, int | None] = await self.call_thread(self._committed_now)
        return found

    async def _committed_now(self) -> dict[Any, int | None]:
        consumer = self._ensure_consumer()
        sources = self.app.alignment.topics()
        assigned = [tp for tp in consumer.assignment() if tp.topic in sources]
        found = await consumer._coordinator.fetch_committed_offsets(assigned)
        offsets = {tp: found[tp].offset if tp in found else UNKNOWN_OFFSET for tp in assigned}
        known: dict[Any, int | None] = {tp: offset if offset >= 0 else None for tp, offset in offsets.items()}
        return known

    async def seek_all(self, positions: Mapping[Any, int | None], *, reset: bool) -> None:
        """Seek every partition, to its beginning where it has no position.

        Without `reset`, a partition whose position retention has passed by is an error from now on.
        """
        await self.call_thread(self._seek_all, positions, reset)

    async def _seek_all(self, positions: Mapping[Any, int | None], reset: bool) -> None:
        consumer = self._ensure_consumer()
        for tp, offset in positions.items():
            if offset is not None:
                consumer.seek(tp, offset)
        unset = [tp for tp, offset in positions.items() if offset is None]
        if unset:
            for tp, first in (await consumer.beginning_offsets(unset)).items():
                consumer.seek(tp, first)
        if not reset:
            consumer._fetcher._default_reset_strategy = OffsetResetStrategy.NONE

    async def group_error(self) -> KafkaError | None:
        """Return why the group could not be joined; aiokafka waits for this question before it tries again."""
        found: KafkaError | None = await self.call_thread(self._group_error)
        return found

    async def _group_error(self) -> KafkaError | None:
        try:
            if self._consumer is not None:
                self._consumer._coordinator.check_errors()
        except KafkaError as error:
            return error
        return None

    async def permit_reset(self) -> None:
        """Let a partition that is assigned next begin where the group has no offset yet."""
        await self.call_thread(self._permit_reset)

    async def _permit_reset(self) -> None:
        self._ensure_consumer()._fetcher._default_reset_strategy = OffsetResetStrategy.EARLIEST


class Consumer(driver.Consumer):  # type: ignore[misc]  # Faust has no types
    """Chunks are acknowledged in order, so the commit position of a partition is one number: the next offset.

    With transactions the barrier commits offsets itself and Faust commits none for source topics.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scheduler.consumer = self
        self.next_offset: dict[Any, int] = {}
        self.passed_on: dict[Any, int | None] = {}  # positions up to which nothing is on its way from the fetching thread

    def _new_consumer_thread(self) -> Any:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def position_and_end(self, tp: Any) -> tuple[int, int] | None:
        """Return the next offset to fetch and the end that a reader can reach, or None before the first fetch."""
        assignment = self._assigned()
        if assignment is None or tuple(tp) not in assignment.tps:
            return None
        state = assignment.state_value(driver.TopicPartition(*tp))
        end = state.lso if self.app.transactions else state.highwater
        if not state.has_valid_position or end is None:
            return None
        return state.position, end

    def on_its_way(self, tp: Any) -> bool:
        """Tell whether records below the position may have left the fetching thread and not reached alignment or agent yet.

        aiokafka moves the position in its thread, a turn of the loop or more before Faust has the records here.
        """
        found = self.position_and_end(tp)
        return found is not None and self.passed_on.get(tuple(tp)) != found[0]

    def silent_seconds(self) -> float:
        """Return for how long the broker has answered neither a join nor a heartbeat, 0 before the first."""
        consumer = self._thread._consumer
        at = None if consumer is None else getattr(consumer._coordinator, "answered_at", None)
        return 0.0 if at is None else time.monotonic() - at

    def room(self) -> int | None:
        """Return how many more chunks the role takes in work, where it limits them: waiting records make larger batches."""
        limit: int | None = self.app.chunks_in_work
        return None if limit is None else max(0, limit - len(self._unacked_messages))

    def read_to_end(self, tp: Any) -> bool:
        """Tell whether everything of a partition that a reader can see was fetched."""
        found = self.position_and_end(tp)
        return found is not None and found[0] >= found[1]

    def ack(self, message: Any) -> bool:
        """Acknowledge a chunk; acknowledgements of an older generation are ignored."""
        if not isinstance(message.value, Chunk):
            return bool(super().ack(message))
        if message.acked or message.generation_id != self.app.consumer_generation_id:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        for tp, offset in message.value.ends.items():
            self.next_offset[tp] = offset
            self._acked[driver.TP(*tp)] = [offset - 1]  # only its presence counts: see _new_offset
        self._n_acked += 1
        notify(self._waiting_for_ack)
        return True

    def _new_offset(self, tp: Any) -> int | None:
        if tp.topic not in self.app.alignment.topics():
            found: int | None = super()._new_offset(tp)
            return found
        return None if self.app.barrier_commits else self.next_offset.get(tp)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        if tp.topic not in self.app.alignment.topics():
            await super()._add_gap(tp, offset_from, offset_to)

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Faust's livelock detector reads its own bookkeeping, which chunks do without: see /readyz instead."""

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Make everything folded durable before partitions may leave."""
        self.app.alignment.clear()
        if self.app.store is not None:
            self.app.store.taken_over = False
        await self._thread.permit_reset()
        await self.app.drained()
        await self.commit()
        await super().on_partitions_revoked(revoked)
        await self.app.drained()  # what was still being folded when the flow stopped
        for tp in revoked:
            self.next_offset.pop(tp, None)

    async def wait_empty(self) -> None:
        """Wait until what is in work is done; of a paused role what was folded is made durable and the rest left."""
        if not self.app.limit.paused:
            await super().wait_empty()
            return
        await self.app.drained()
        await self.commit()

    async def perform_seek(self) -> None:
        """Seek to where each partition goes on; what was fetched before is fetched again."""
        self.app.alignment.clear()
        await super().perform_seek()

    async def seek_to_committed(self) -> dict[Any, int | None]:
        """Seek to where the rows say, of partitions without rows to where the group says."""
        if not self.app.transactions:
            found: dict[Any, int | None] = await super().seek_to_committed()
            return found
        committed, known = await self.app.positions(self._thread.committed)
        positions: dict[Any, int | None] = {**committed, **known}
        await self._thread.seek_all(positions, reset=not known)
        return positions

    async def _wait_next_records(self, timeout: float) -> Any:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        if not self._get_active_partitions():
            self.app.alignment.fetching(())
            await asyncio.sleep(IDLE_SECONDS)  # Faust sleeps a second, after every rebalance
            return {}, set()
        return await super()._wait_next_records(timeout)

    def _assigned(self) -> Any:
        consumer = self._thread._consumer
        return None if consumer is None else consumer._subscription.subscription.assignment

    def _positions(self) -> dict[Any, int | None]:
        assignment = self._assigned()
        return {} if assignment is None else {tp: assignment.state_value(tp)._position for tp in assignment.tps}

    @Service.task  # type: ignore[untyped-decorator]  # mode has no types
    async def _join(self) -> None:
        """End a worker that its group will never take; what may pass is tried again."""
        while not self.should_stop:
            await self.sleep(JOIN_SECONDS)
            self._refuse(await self._thread.group_error())

    def _refuse(self, error: KafkaError | None) -> None:
        if isinstance(error, InvalidSessionTimeoutError):
            found = self.app.settings.session_timeout_seconds
            end_process(
                f"setting session_timeout_seconds: found {found:g}, expected one that the broker allows "
                "(group.min.session.timeout.ms to group.max.session.timeout.ms)",
                code=EXIT_CONFIG,
            )
        if error is not None and not error.retriable:
            end_process(f"group {self.app.conf.id}: {error!r}")

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        self.passed_on = self._positions()  # Faust asks again when it has handed on all of the last answer
        if self.app.rebalancing:  # until Faust's seek is done, although its flow is active before
            await asyncio.sleep(IDLE_SECONDS)
            return {}
        if self.app.alignment.waiting():  # something may pass by time alone: do not sleep through it
            timeout = IDLE_SECONDS
        wanted = active_partitions - self.app.alignment.full()
        self.app.alignment.fetching(wanted)
        if not wanted:  # aiokafka would take an empty set for all partitions
            await asyncio.sleep(IDLE_SECONDS)
            return {}
        return await super()._getmany(wanted, timeout)


class Transport(driver.Transport):  # type: ignore[misc]  # Faust has no types
    """Faust's aiokafka transport with our consumer."""

    Consumer = Consumer


class ChunkSchema(faust.Schema):  # type: ignore[misc]  # Faust has no types
    """Hands the chunk through as it is: the agent decodes each record under its own guard."""

    def loads_key(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> None:
        """Return nothing; keys belong to records, not to chunks."""

    def loads_value(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        """Return the chunk."""
        return message.value


def install() -> None:
    """Register the transport as `chunks://` and mend the libraries beneath; safe to call twice."""
    drivers.TRANSPORTS.aliases["chunks"] = f"{__name__}:Transport"
    mend()
