"""Make Faust's consumer deliver chunks: groups of records, each delivered and acknowledged as one message, in order.

docs/explanation/library-patches.md lists every use of Faust's internals, with reasons and measurements.
tests/unit/stream/kafka/test_transport.py fails if a new Faust changes an overridden method. Start at install.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import faust
from aiokafka.errors import InvalidSessionTimeoutError, KafkaError
from faust.transport import drivers
from faust.transport.drivers import aiokafka as driver
from faust.types.transports import SchedulingStrategyT
from mode.services import Service
from mode.utils.futures import notify

from stream.kafka.alignment import Alignment, Chunk, TopicPartition
from stream.kafka.fetch_thread import ConsumerThread
from stream.kafka.library_patches import patch_libraries
from stream.kafka.static_member import install_static_members
from stream.process.exit_codes import EXIT_CONFIG, end_crashed, end_process

IDLE_SECONDS = 0.02
JOIN_SECONDS = 1.0  # between two checks for a join error


class ChunkRecord:
    """Wrap a chunk as one aiokafka record: its value is the Chunk, its position that of the chunk's last record."""

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
    """Plug into Faust between fetch and agent: pass source records on as chunks, changelog records one by one."""

    def __init__(self) -> None:
        self.consumer: Any = None

    def iterate(self, records: Mapping[Any, list[Any]]) -> Iterator[tuple[Any, Any]]:
        """Align fetched records and yield the chunks that are released; runs at least once a second, even without records."""
        alignment: Alignment = self.consumer.app.alignment
        sources = alignment.topics()
        for tp, batch in records.items():
            if tp.topic in sources:
                alignment.add(TopicPartition(*tp), batch)
            else:
                yield from ((tp, record) for record in batch)
        assigned = [TopicPartition(*tp) for tp in self.consumer.assignment() if tp.topic in sources]
        for chunk in alignment.release(assigned, self.consumer.read_to_end, unaligned_chunks=self.consumer.free_chunks()):
            self.consumer.delivered.clear()
            record = ChunkRecord(chunk)
            yield driver.TP(record.topic, record.partition), record


class Consumer(driver.Consumer):  # type: ignore[misc]  # Faust has no types
    """Acknowledge chunks in order, so that the commit position of a partition is one number: the next offset.

    With transactions, the barrier commits the offsets of source topics, and Faust commits none of them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scheduler.consumer = self
        self.next_offset: dict[Any, int] = {}
        self.delivered: dict[Any, int | None] = {}  # positions below which nothing is in flight from the fetch thread
        self._seeks, self._one_seek = 0, asyncio.Lock()  # in progress or waiting; Faust's fetcher and recovery both seek

    def _new_consumer_thread(self) -> Any:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def position_and_end(self, tp: Any) -> tuple[int, int] | None:
        """Return the next offset to fetch and the last stable or end offset; None before the first fetch."""
        assignment = self._assigned()
        if assignment is None or tuple(tp) not in assignment.tps:
            return None
        state = assignment.state_value(driver.TopicPartition(*tp))
        end = state.lso if self.app.transactions else state.highwater
        if not state.has_valid_position or end is None:
            return None
        return state.position, end

    def in_flight(self, tp: Any) -> bool:
        """Return whether records below the position may be between the fetch thread and the alignment or agent.

        aiokafka advances the position in its own thread, at least one event loop iteration before Faust gets the records.
        """
        found = self.position_and_end(tp)
        return found is not None and self.delivered.get(tuple(tp)) != found[0]

    def silent_seconds(self) -> float:
        """Return the seconds since the broker last answered a join or a heartbeat, 0 before the first answer."""
        consumer = self._thread._consumer
        at = None if consumer is None else getattr(consumer._coordinator, "answered_at", None)
        return 0.0 if at is None else time.monotonic() - at

    def free_chunks(self) -> int | None:
        """Return how many more chunks may be in flight, or None without a limit; waiting records make larger batches."""
        limit: int | None = self.app.chunks_in_work
        return None if limit is None else max(0, limit - len(self._unacked_messages))

    def read_to_end(self, tp: Any) -> bool:
        """Return whether all visible records of a partition are fetched."""
        found = self.position_and_end(tp)
        return found is not None and found[0] >= found[1]

    def ack(self, message: Any) -> bool:
        """Acknowledge a chunk; ignore acknowledgements of an older generation."""
        if not isinstance(message.value, Chunk):
            return bool(super().ack(message))
        return self.ack_partly(message, message.value.ends)

    def ack_partly(self, message: Any, ends: Mapping[TopicPartition, int]) -> bool:
        """Acknowledge a chunk up to these offsets: the rest is held by the role, and ack_up_to acknowledges it later."""
        if message.acked or message.generation_id != self.app.consumer_generation_id:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        for tp, offset in ends.items():
            self.next_offset[tp] = offset
            self._acked[driver.TP(*tp)] = [offset - 1]  # Faust only checks that it exists: see _new_offset
        self._n_acked += 1
        notify(self._waiting_for_ack)
        return True

    def ack_up_to(self, ends: Mapping[TopicPartition, int], generation_id: int) -> None:
        """Acknowledge records that the role held when their chunk was acknowledged, up to these offsets."""
        if generation_id != self.app.consumer_generation_id:
            return
        for tp, offset in ends.items():
            self.next_offset[tp] = offset
            self._acked[driver.TP(*tp)] = [offset - 1]
        self._n_acked += 1

    def _new_offset(self, tp: Any) -> int | None:
        if tp.topic not in self.app.alignment.topics():
            found: int | None = super()._new_offset(tp)
            return found
        return None if self.app.barrier_commits else self.next_offset.get(tp)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        if tp.topic not in self.app.alignment.topics():
            await super()._add_gap(tp, offset_from, offset_to)

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Disable Faust's livelock detector: it reads bookkeeping that chunks do not keep; /readyz replaces it."""

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Abandon a restore in progress, and make everything folded durable before partitions are revoked."""
        self.app.alignment.clear()
        await self.app.tables.recovery.abandon()
        if self.app.store is not None:
            self.app.store.taken_over = False
        await self._thread.permit_reset()
        await self.app.drained()
        await self._commit_acknowledged()
        if self.app.should_stop:  # Faust then joins at once, and chunks in flight could not be committed any more
            await self.wait_empty()
        await super().on_partitions_revoked(revoked)
        await self.app.drained()  # the chunk that was being folded when the flow stopped
        for tp in revoked:
            self.next_offset.pop(tp, None)

    async def wait_empty(self) -> None:
        """Wait for chunks in flight; a paused role only makes folded chunks durable and leaves the others unacknowledged."""
        if self.app.limit.paused:
            await self.app.drained()
        else:
            await super().wait_empty()
        await self._commit_acknowledged()

    async def _commit_acknowledged(self) -> None:
        """Commit what is acknowledged by now; Faust's commit only waits if another one is in progress, which may be older."""
        await self.commit()
        await self.commit()

    @property
    def seeking(self) -> bool:
        """Return whether a seek is in progress; nothing is fetched meanwhile."""
        return self._seeks > 0

    async def perform_seek(self) -> None:
        """Seek to where each partition resumes; drop buffered records and those of a fetch in flight: all are fetched again."""
        self._seeks += 1
        try:
            async with self._one_seek:
                self.app.alignment.clear()
                await self._thread.stop_fetch()
                await super().perform_seek()
        finally:
            self._seeks -= 1

    async def seek_to_committed(self) -> dict[Any, int | None]:
        """Seek to the offsets committed with the rows; partitions without rows use the group's offsets."""
        if not self.app.transactions:
            found: dict[Any, int | None] = await super().seek_to_committed()
            return found
        epoch = self.app.alignment.epoch
        committed, known = await self.app.positions(self._thread.committed)
        positions: dict[Any, int | None] = {**committed, **known}
        await self._thread.seek_all(positions, reset=not known, epoch=epoch)
        return positions

    async def _wait_next_records(self, timeout: float) -> Any:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        if not self._get_active_partitions():
            self.app.alignment.fetching(())
            await asyncio.sleep(IDLE_SECONDS)  # Faust sleeps a second here, after every rebalance
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
        """End the process on a join error that no retry can fix; aiokafka retries the others."""
        while not self.should_stop:
            await self.sleep(JOIN_SECONDS)
            self._end_on_fatal_join_error(await self._thread.group_error())

    def _end_on_fatal_join_error(self, error: KafkaError | None) -> None:
        if isinstance(error, InvalidSessionTimeoutError):
            found = self.app.settings.session_timeout_seconds
            end_process(
                f"setting session_timeout_seconds: found {found:g}, expected a value that the broker allows "
                "(group.min.session.timeout.ms to group.max.session.timeout.ms)",
                code=EXIT_CONFIG,
            )
        if error is not None and not error.retriable:
            end_crashed(f"consumer group {self.app.conf.id}: expected to join", error)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        self.delivered = self._positions()  # Faust calls this after it delivered all records of the last fetch
        if self.app.rebalancing or self.seeking:  # until Faust's seek is done, although flow is active earlier
            await asyncio.sleep(IDLE_SECONDS)
            return {}
        epoch = self.app.alignment.resume_at(self.delivered)
        if self.app.alignment.waiting():  # records may be released by time alone: wake up for them
            timeout = IDLE_SECONDS
        wanted = active_partitions - self.app.alignment.full()
        self.app.alignment.fetching(wanted)
        if not wanted:  # aiokafka reads an empty set as all partitions
            await asyncio.sleep(IDLE_SECONDS)
            return {}
        records = await super()._getmany(wanted, timeout)
        # A rebalance or seek that began meanwhile cleared the buffers, and these records are fetched again.
        return {} if self.app.rebalancing or self.app.alignment.epoch != epoch else records


class Transport(driver.Transport):  # type: ignore[misc]  # Faust has no types
    """Use our consumer in Faust's aiokafka transport."""

    Consumer = Consumer


class ChunkSchema(faust.Schema):  # type: ignore[misc]  # Faust has no types
    """Pass the chunk through unchanged: the agent decodes each record and catches its errors."""

    def loads_key(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> None:
        """Return nothing; keys belong to records, not to chunks."""

    def loads_value(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        """Return the chunk."""
        return message.value


def install() -> None:
    """Register the transport as `chunks://` and patch the libraries; safe to call twice."""
    drivers.TRANSPORTS.aliases["chunks"] = f"{__name__}:Transport"
    patch_libraries()
    install_static_members()
