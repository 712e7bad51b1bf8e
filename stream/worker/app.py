"""Hold what one role runs: its Faust app with the alignment, store and barrier, and its checks of topics and positions.

build_app.py creates it. Start at FootfallApp.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import faust
from aiokafka import TopicPartition

from schemas.errors import BrokerError, StartRefused
from stream.fold.records import Fold, PartitionTotals, Totals
from stream.kafka.alignment import Alignment
from stream.kafka.barrier import Barrier, Outbox
from stream.kafka.positions import (
    LastRecord,
    check_last_records,
    check_partition_count,
    check_sources,
    check_topic_ids,
    last_folded,
    resume_positions,
    stable_group_offsets,
)
from stream.kafka.store import Partition, RowStore
from stream.kafka.topic_reader import STALL_SECONDS
from stream.kafka.topic_watch import TopicWatch
from stream.kafka.unread_partitions import UnreadPartitions
from stream.process.exit_codes import EXIT_CONFIG, crash_only, end_process
from stream.process.settings import Settings
from stream.roles.table import Role
from stream.worker.dead_letter_limit import DeadLetterLimit
from stream.worker.misplaced_keys import MisplacedKeys
from stream.worker.score_requests import RequestScorer

if TYPE_CHECKING:  # only role scorer loads torch
    from stream.worker.served_model import ServedModel


class FootfallApp(faust.App):  # type: ignore[misc]  # Faust has no types
    """Hold a role's alignment, store and barrier in a Faust app; create it with build_app."""

    settings: Settings
    role: Role
    last_records: dict[TopicPartition, LastRecord]
    transactions: bool
    barrier_commits: bool
    alignment: Alignment
    watch: TopicWatch
    unread: UnreadPartitions
    chunks_in_work: int | None
    outbox_producer: Any
    outbox: Outbox
    barrier: Barrier | None
    store: RowStore | None
    limit: DeadLetterLimit
    misplaced: MisplacedKeys
    fold: Fold  # only of roles with rows
    scorer_totals: PartitionTotals
    model: "ServedModel | None"  # only of role scorer, as `requests`
    requests: RequestScorer | None

    def _create_directories(self) -> None:
        """Create nothing on disk: rows are in memory and in the changelog."""

    def on_rebalance_end(self) -> None:
        """Begin to read, unless another rebalance revoked partitions meanwhile and their rows are not restored yet."""
        if self.store is None or self.store.taken_over:
            super().on_rebalance_end()

    async def drained(self) -> None:
        """Make all folded chunks durable; an error ends the process, because Kafka's client would only log it."""
        if self.barrier is not None:
            await crash_only("barrier", self.barrier.drained())

    def has_pending_work(self) -> bool:
        """Return whether chunks are in flight that are not durable yet."""
        return bool(self.consumer.unacked) or (self.barrier is not None and self.barrier.pending)

    async def check_restored(self, owned: list[Partition], first: bool) -> None:
        """Check the rows of a new assignment against the topics; without transactions, only the offsets in the rows guard them.

        The last records are compared at the first assignment: later partitions come from workers that read the same topics
        until now, as their ids show. Where the broker has no ids, they are compared at each assignment.

        Raises:
            StartRefused: resuming would silently lose or duplicate events.
            BrokerError: no broker answered within STALL_SECONDS.
        """
        if not self.barrier_commits:
            return
        await self.check_topics()
        sources = self.alignment.topics()
        ids = {topic: topic_id for topic, topic_id in self.watch.ids.items() if topic in sources}
        for partition in owned:
            check_partition_count(partition, self.conf.topic_partitions)
            check_topic_ids(partition, ids, self.role)
        if first or not all(ids.values()):
            await check_sources(self.settings, self.role, owned, sources)

    async def check_topics(self) -> None:
        """Compare ids and partition counts of the topics with those at the start.

        Raises:
            StartRefused: a topic was recreated, or gained partitions.
            BrokerError: no broker answered within STALL_SECONDS.
        """
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await self.watch.check()
        except TimeoutError:
            raise BrokerError(
                f"found no broker that describes the topics within {STALL_SECONDS:g} s, expected one: check the brokers"
            ) from None

    async def compare_last_records(self) -> None:
        """Check that what was folded before the last call is still in the source topics.

        What is folded now may come from a recreated topic already, so the record before the last call is compared.

        Raises:
            StartRefused: a topic has another record there, or ends before it.
        """
        if self.store is None or not self.store.taken_over:
            self.last_records.clear()
            return
        topics = self.alignment.topics() - self.watch.missing
        now = {
            tp: at for partition in self.store.owned.values() for tp, at in last_folded(partition).items() if tp.topic in topics
        }
        await check_last_records(self.settings, self.role, {tp: at for tp, at in self.last_records.items() if tp in now})
        self.last_records = now

    def unread_partitions(self) -> dict[tuple[str, int], float]:
        """Return the assigned partitions that are not being read, with the seconds since the last fetch response."""
        consumer = self.consumer._thread._consumer
        if consumer is None or self.rebalancing or self.limit.paused:
            return {}
        return self.unread.find(consumer, self.alignment.topics() - self.watch.missing, time.monotonic(), time.time())

    async def positions(
        self, committed: Callable[[], Awaitable[Mapping[Any, int | None]]]
    ) -> tuple[Mapping[Any, int | None], Mapping[Any, int | None]]:
        """Return the group's offsets, and the offsets to resume from of partitions with restored rows.

        A refused start ends the process. Faust sometimes seeks during a rebalance, before rows are restored; then the second
        mapping is empty.
        """
        if self.store is None and self.transactions:
            await crash_only("topics", self.check_topics())  # committed offsets are compared with the topics' ids
        if self.store is None or not self.barrier_commits or not self.store.taken_over:
            return await committed(), {}
        found = await stable_group_offsets(committed, self.store.owned)
        if not self.store.taken_over:  # a rebalance started in the meantime
            return found, {}
        try:
            return found, resume_positions(self.settings, self.role, found, self.store.owned)
        except StartRefused as error:
            end_process(f"resume check: {error}", code=EXIT_CONFIG)

    def totals(self) -> PartitionTotals:
        """Sum the committed totals of all owned partitions; role scorer has no rows and counts from process start."""
        if self.store is None:
            return self.scorer_totals
        events, feedback, outputs, lost = Totals(), Totals(), dict[str, int](), 0
        for partition in self.store.owned.values():
            totals = partition.committed()
            events.add(totals.events)
            feedback.add(totals.feedback)
            lost += totals.lost
            for kind, count in totals.outputs.items():
                outputs[kind] = outputs.get(kind, 0) + count
        return PartitionTotals(events, feedback, outputs, lost)
