"""Keep a role's rows in memory; on assignment, fence the previous owner of a partition and restore its rows.

RowStore is the store of a Faust table, so Faust calls it at every rebalance. It takes a partition's transactional id before
it reads the changelog. From then on, the broker rejects all writes of the previous owner. P4 and P5 are steps in
docs/explanation/guarantees.md. Start at RowStore.take_over.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable

import aiokafka
import faust
import msgspec
import structlog
from faust.stores import memory
from faust.types import TP
from msgspec import Struct

from schemas.errors import BrokerError, RowVersionError, StartRefused
from stream.fold.damaged_row import BESIDE_ROWS
from stream.fold.records import PartitionTotals
from stream.fold.rows import RowRules, Rows
from stream.fold.undo import Undo
from stream.kafka.clients import plain_consumer, rows_producer
from stream.kafka.restore_progress import RestoreProgress
from stream.kafka.standby import Standbys
from stream.kafka.topic_reader import STALL_SECONDS, TopicReader, open_reader
from stream.process.exit_codes import crash_only
from stream.process.fault_points import reach
from stream.process.settings import Settings

META_VERSION = 1
META_KEY = b"\0meta"
END_KEY = b"\0end"  # key of the one-record batch that ends a flush on the embedded broker
RESTORE_RECORDS = 50_000
EXPIRED_KIND = "expired-row"

log = structlog.get_logger()


class MetaRow(Struct, array_like=True):
    """Describe the state of a partition's rows; committed in the same transaction, read by the next owner.

    Holds totals, next offset and timestamp of the last record by source topic, the partition count of the topics, the
    partitioner of their keys (murmur2 in rows written before it was a setting), and the ids of the topics (empty in rows
    written before ids were kept).
    """

    version: int
    totals: PartitionTotals
    offsets: dict[str, int]
    times: dict[str, int] = {}
    partitions: int = 0
    partitioner: str = "murmur2"
    topic_ids: dict[str, str] = {}


class _MetaVersion(Struct, array_like=True):
    version: int


def decode_meta(row: bytes) -> MetaRow:
    """Decode a meta row.

    Raises:
        RowVersionError: a version of Footfall wrote it whose meta rows this one does not know.
    """
    version = msgspec.msgpack.decode(row, type=_MetaVersion).version
    if version != META_VERSION:
        raise RowVersionError(
            f"found a meta row of version {version}, expected {META_VERSION}: run the Footfall version that wrote it"
        )
    return msgspec.msgpack.decode(row, type=MetaRow)


class Partition(Struct):
    """Hold an owned partition: producer, rows (bytes until first used), totals, next offsets and last times by topic."""

    number: int
    producer: aiokafka.AIOKafkaProducer
    rows: Rows = msgspec.field(default_factory=Rows)
    totals: PartitionTotals = msgspec.field(default_factory=PartitionTotals)
    offsets: dict[str, int] = {}
    times: dict[str, int] = {}
    partitions: int = 0  # partition count of the topics when the rows were folded
    topic_ids: dict[str, str] = {}  # ids of the source topics, empty where the broker has none
    meta: bytes = b""  # the meta row of the last commit
    skipped: dict[str, int] = {}  # by topic, lost records that `offsets` skipped since the last commit
    undo: Undo = msgspec.field(default_factory=Undo)
    restored: bool = False  # the changelog was read to its end

    def meta_row(self, partitions: int, partitioner: str) -> bytes:
        """Encode the meta row of the current rows, for topics of `partitions` partitions with keys placed by `partitioner`."""
        meta = MetaRow(META_VERSION, self.totals, self.offsets, self.times, partitions, partitioner, self.topic_ids)
        return msgspec.msgpack.encode(meta)

    def evict(self, written: list[tuple[bytes, bytes]]) -> list[tuple[bytes, None]]:
        """Free memory at a barrier that encoded `written`; return tombstones of expired rows to write with it."""
        tombstones = self.rows.evict(written, int(time.time() * 1000))
        if tombstones:
            self.totals.count_output(EXPIRED_KIND, len(tombstones))
        return tombstones

    def committed(self) -> PartitionTotals:
        """Return the totals of the last commit."""
        return msgspec.msgpack.decode(self.meta, type=MetaRow).totals if self.meta else PartitionTotals()


def check_partitioner(number: int, meta: MetaRow, partitioner: str) -> None:
    """Refuse rows that were folded from keys placed by another partitioner: most users belong to another partition now.

    Raises:
        StartRefused: the partitioners differ.
    """
    if meta.partitioner != partitioner:
        raise StartRefused(
            f"found rows of partition {number} folded with partitioner={meta.partitioner}, expected {partitioner}, as set: set "
            f"partitioner={meta.partitioner}, or run `footfall state reset` or `footfall state rebuild` under the new one"
        )


def collect_and_freeze() -> None:
    """Collect garbage, then exclude all that lives from collections: restored rows live until their partition is revoked.

    What an earlier call froze is examined again. Producers are cycles, so those of revoked partitions would stay for ever.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


Check = Callable[[list[Partition], bool], Awaitable[None]]  # (owned, the first ones) raises if a worker must not resume


class RowStore(memory.Store):  # type: ignore[misc]  # Faust has no types
    """Hold the rows of the partitions this worker owns; `owned` maps partition number → Partition."""

    settings: Settings
    partitions: int
    check: Check

    def __post_init__(self) -> None:
        """Start without owned partitions."""
        super().__post_init__()
        self.owned: dict[int, Partition] = {}
        self.assigned: list[aiokafka.TopicPartition] = []  # changelog partitions
        self.ends: dict[TP, int | None] = {}
        self.generation = -1
        self.restoring = False
        self.checked = False  # the first restored rows were compared with the last records of the topics
        self.taken_over = False  # `owned` equals the current assignment, restored and checked
        self.rules, self.progress = RowRules(), RestoreProgress()
        self.standbys: Standbys | None = None  # created at the first assignment
        self._followed: set[int] = set()

    def persisted_offset(self, tp: TP) -> int | None:
        """Return the end of a restored changelog, so that Faust's recovery reads nothing again."""
        return self.ends.get(tp)

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0) -> None:
        """Release the partitions that this worker does not keep; take_over() restores those that are missing.

        Keeps rows only if they were restored to the end, and if this worker was a member of the previous generation.
        Otherwise another worker may have owned the partition in between, and the rows are stale.
        """
        topic = self.table.changelog_topic.get_topic_name()
        assignor = self.app.assignor
        # Faust also assigns the changelogs of standbys: only a partition whose sources are assigned is owned and fenced.
        actives = assignor.assigned_actives()
        self.assigned = [aiokafka.TopicPartition(*tp) for tp in assigned if tp.topic == topic and tp in actives]
        self._followed = {tp.partition for tp in assignor.followed() if tp.topic == topic}
        kept = {tp.partition for tp in self.assigned} if generation_id == self.generation + 1 else set()
        self.generation, self.taken_over = generation_id, False
        await self._release({number for number, found in self.owned.items() if number not in kept or not found.restored})
        if self.standbys is None:
            self.standbys = Standbys(self.settings, topic)
        await self.standbys.keep(self._followed | {tp.partition for tp in self.assigned if tp.partition not in self.owned})
        self.rules.partitions = max(1, len(self.assigned))

    async def take_over(self) -> None:
        """Fence and restore the assigned partitions that are missing, so that `owned` equals the assignment.

        Blocks as long as the changelog takes to read. If it is cancelled or fails, incomplete partitions are released.

        Raises:
            BrokerError: the changelog delivers nothing although it is not read to its end.
            RowVersionError: a row's version is unknown; nothing was written to this partition.
        """
        new = [tp for tp in self.assigned if tp.partition not in self.owned]
        self.restoring = True
        try:
            await asyncio.gather(*(self._fence(tp.partition) for tp in new))  # P4
            reach("P4.fenced")
            await self._restore(self.assigned, new)  # P5
            reach("P5.restored")
            owned = [self.owned[tp.partition] for tp in self.assigned]
            await crash_only("restore check", self.check(owned, not self.checked))
            self.checked = True
            self.taken_over = True
            if self.standbys is not None:
                self.standbys.follow(self._followed)
        finally:
            self.restoring = False
            await self._release({number for number, partition in self.owned.items() if not partition.restored})

    async def _release(self, numbers: set[int]) -> None:
        producers = [self.owned.pop(number).producer for number in numbers]
        await asyncio.gather(*(producer.stop() for producer in producers), return_exceptions=True)  # nothing is in flight

    async def _fence(self, number: int) -> None:
        """Take the partition's transactional id: the broker aborts the previous owner's transaction and rejects its writes.

        Raises:
            BrokerError: the broker did not grant it within STALL_SECONDS.
        """
        transactional_id = f"{self.app.conf.id}-{number}" if self.settings.transactions else None
        producer = rows_producer(self.settings, transactional_id)
        self.owned[number] = Partition(number, producer, Rows(self.rules))
        try:
            async with asyncio.timeout(STALL_SECONDS):  # aiokafka retries for ever
                await producer.start()
                if transactional_id is not None:
                    await producer._txn_manager.wait_for_pid()
        except TimeoutError:
            raise BrokerError(
                f"partition {number}: found no transactional id {transactional_id} within {STALL_SECONDS:g} s, expected the "
                "coordinator to grant it: check the brokers that hold __transaction_state"
            ) from None

    async def _restore(self, owned: list[aiokafka.TopicPartition], new: list[aiokafka.TopicPartition]) -> None:
        """Read the committed rows of new partitions and the end offsets of all owned changelog partitions."""
        if not owned:
            self.ends = {}
            return
        consumer = plain_consumer(self.settings)
        await consumer.start()
        try:
            end = await consumer.end_offsets(owned)
            reader = await open_reader(consumer, new, end)
            standby = self._start_from_standbys(reader)
            self.progress = RestoreProgress(reader.expected, time.monotonic())
            reading = set(new)
            async for batches in reader.batches(RESTORE_RECORDS):
                for tp, batch in batches.items():
                    self.owned[tp.partition].rows.load((record.key, record.value) for record in batch)
                self.progress.advance(reader.passed, sum(map(len, batches.values())), time.monotonic())
                for tp in reading.difference(reader.pending()):
                    self._complete(self.owned[tp.partition])
                reading.intersection_update(reader.pending())
        finally:
            await consumer.stop()
        for tp in reading:  # nothing to read
            self._complete(self.owned[tp.partition])
        self.ends = {TP(*tp): end[tp] - 1 if end[tp] else None for tp in owned}
        self.progress.end(time.monotonic())
        collect_and_freeze()
        if new:
            partitions = sorted(tp.partition for tp in new)
            action = "all rows are restored; the worker reads the source topics next"
            log.info("restored", partitions=partitions, from_standby=standby, **self.progress.facts(), action=action)

    def _start_from_standbys(self, reader: TopicReader) -> list[int]:
        """Take the rows of partitions that this worker followed, and read only the rest of their changelogs."""
        taken = []
        for tp, begin in list(reader.begin.items()):
            standby = None if self.standbys is None else self.standbys.take(tp.partition)
            if standby is not None and standby.position >= begin:
                standby.rows.adopt(self.rules)
                self.owned[tp.partition].rows = standby.rows
                reader.begin[tp] = reader.position[tp] = standby.position
                taken.append(tp.partition)
        return sorted(taken)

    def _complete(self, partition: Partition) -> None:
        """Load the meta row of a partition whose changelog is read to its end, and count it as restored."""
        self._load_meta(partition)
        partition.restored = True

    def _load_meta(self, partition: Partition) -> None:
        """Load the meta row, delete tombstones and keys that are not users, and check the version of every row.

        Raises:
            RowVersionError: the version of a row or of the meta row is unknown; nothing was written to this partition.
            StartRefused: the rows were folded with another partitioner; nothing was written to this partition.
        """
        rows = partition.rows
        meta = rows.get(META_KEY)
        if meta is not None:
            found = decode_meta(meta)
            check_partitioner(partition.number, found, self.settings.partitioner)
            partition.totals, partition.offsets, partition.times = found.totals, found.offsets, found.times
            partition.partitions, partition.topic_ids, partition.meta = found.partitions, found.topic_ids, meta
        for key in [key for key, value in rows.items() if value is None or key.startswith(BESIDE_ROWS)]:
            del rows[key]
        for row in rows.values():
            self.rules.check_version(row)

    async def close(self) -> None:
        """Stop the producers of all partitions, and following others."""
        if self.standbys is not None:
            await self.standbys.stop()
        await self._release(set(self.owned))


class RowTable(faust.Table):  # type: ignore[misc]  # Faust has no types
    """Connect a RowStore to Faust's table lifecycle; the barrier writes the rows, never the table."""

    def _new_store(self) -> RowStore:
        store = RowStore(
            "memory://", self.app, self, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )
        store.settings, store.partitions, store.check = self.app.settings, self.partitions, self.app.check_restored
        return store
