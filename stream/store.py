"""A role's rows in memory, owned partition by partition: fence the old owner, restore in bulk, let Faust go on.

A Faust table with a store of our own. Faust owns assignment and lifecycle; on a take-over the store first takes the
partition's transactional id, so that the broker refuses whatever an older owner still sends, and only then reads the
changelog. The numbers P4 and P5 are the steps of the protocol in DECISIONS.md. Start at RowStore.on_rebalance.
"""

import asyncio
import gc
import time
from typing import Any

import aiokafka
import faust
import msgspec
import structlog
from faust.stores import memory
from faust.types import TP
from msgspec import Struct

from stream.clients import plain_consumer, rows_producer
from stream.faults import reach
from stream.records import PartitionTotals
from stream.settings import Settings

META_KEY = b"\0meta"
END_KEY = b"\0end"  # one-record batch that ends a flush on the embedded broker
RESTORE_RECORDS = 50_000

log = structlog.get_logger()


class MetaRow(Struct, array_like=True):
    """What a partition's transaction commits beside its rows: totals, and the next offset of each source topic."""

    version: int
    totals: PartitionTotals
    offsets: dict[str, int]


class Partition(Struct):
    """One owned partition: rows (bytes until first touched), totals and next offsets by topic as folded, and its producer."""

    number: int
    producer: aiokafka.AIOKafkaProducer
    rows: dict[bytes, Any] = {}
    totals: PartitionTotals = msgspec.field(default_factory=PartitionTotals)
    offsets: dict[str, int] = {}
    meta: bytes = b""  # the meta row of the last commit

    def committed(self) -> PartitionTotals:
        """Return the totals of the last commit."""
        return msgspec.msgpack.decode(self.meta, type=MetaRow).totals if self.meta else PartitionTotals()


class RowStore(memory.Store):  # type: ignore[misc]  # Faust has no types
    """The rows of the partitions this worker owns; `owned` maps partition number → Partition."""

    settings: Settings

    def __post_init__(self) -> None:
        """Start without partitions."""
        super().__post_init__()
        self.owned: dict[int, Partition] = {}
        self.ends: dict[TP, int | None] = {}
        self.generation = -1
        self.restoring = False
        self.restored_rows, self.restore_seconds = 0, 0.0

    def persisted_offset(self, tp: TP) -> int | None:
        """Tell Faust's recovery that nothing is left to read."""
        return self.ends.get(tp)

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0) -> None:
        """Give up, fence and restore partitions so that `owned` is exactly what the group assigned.

        A partition counts as kept only if this worker took part in the generation before: a worker that was away may
        hold stale rows of a partition that others owned in between.
        """
        topic = self.table.changelog_topic.get_topic_name()
        owned = [aiokafka.TopicPartition(*tp) for tp in assigned if tp.topic == topic]
        kept = {tp.partition for tp in owned} if generation_id == self.generation + 1 else set()
        self.generation = generation_id
        for number in [number for number in self.owned if number not in kept]:
            await self.owned.pop(number).producer.stop()
        new = [tp for tp in owned if tp.partition not in self.owned]
        self.restoring = True
        try:
            self.owned.update({p.number: p for p in await asyncio.gather(*(self._fence(tp.partition) for tp in new))})  # P4
            reach("P4.fenced")
            await self._restore(owned, new)  # P5
            reach("P5.restored")
        finally:
            self.restoring = False

    async def _fence(self, number: int) -> Partition:
        """Take the partition's transactional id: the broker aborts and refuses what an older owner still sends."""
        transactional_id = f"{self.app.conf.id}-{number}" if self.settings.transactions else None
        producer = rows_producer(self.settings, transactional_id)
        await producer.start()
        if transactional_id is not None:
            await producer._txn_manager.wait_for_pid()
        return Partition(number, producer)

    async def _restore(self, owned: list[aiokafka.TopicPartition], new: list[aiokafka.TopicPartition]) -> None:
        """Read the committed rows of new partitions, and where every owned changelog ends."""
        if not owned:
            self.ends = {}
            return
        started, count = time.monotonic(), 0
        consumer = plain_consumer(self.settings)
        await consumer.start()
        try:
            end = await consumer.end_offsets(owned)
            consumer.assign(new)
            # seek_to_beginning() after assign() loses a race against the reset that assign() started: it reads nothing
            for tp, first in (await consumer.beginning_offsets(new)).items() if new else ():
                consumer.seek(tp, first)
            pending = {tp for tp in new if end[tp] > 0}
            while pending:
                batches = await consumer.getmany(*pending, timeout_ms=500, max_records=RESTORE_RECORDS)
                for tp, batch in batches.items():
                    count += len(batch)
                    rows = self.owned[tp.partition].rows
                    rows.update((record.key, record.value) for record in batch)
                pending = {tp for tp in pending if await consumer.position(tp) < end[tp]}
        finally:
            await consumer.stop()
        for tp in new:
            self._settle(self.owned[tp.partition])
        self.ends = {TP(*tp): end[tp] - 1 if end[tp] else None for tp in owned}
        self.restored_rows, self.restore_seconds = count, time.monotonic() - started
        gc.collect()
        gc.freeze()  # what was restored lives until its partition leaves
        if new:
            log.info(
                "restored", partitions=sorted(tp.partition for tp in new), rows=count, seconds=round(self.restore_seconds, 2)
            )

    def _settle(self, partition: Partition) -> None:
        """Take the meta row out of the restored rows and drop what tombstones deleted."""
        rows = partition.rows
        rows.pop(END_KEY, None)
        meta = rows.pop(META_KEY, None)
        if meta is not None:
            found = msgspec.msgpack.decode(meta, type=MetaRow)
            partition.totals, partition.offsets, partition.meta = found.totals, found.offsets, meta
        for key in [key for key, value in rows.items() if value is None]:
            del rows[key]

    async def close(self) -> None:
        """Stop the producers of all partitions."""
        for number in list(self.owned):
            await self.owned.pop(number).producer.stop()


class RowTable(faust.Table):  # type: ignore[misc]  # Faust has no types
    """A table whose rows live in a RowStore and are written by the barrier, never through the table."""

    def _new_store(self) -> RowStore:
        store = RowStore(
            "memory://", self.app, self, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )
        store.settings = self.app.settings
        return store
