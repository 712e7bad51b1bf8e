"""Delete a role's rows and reset its offsets, so that the role folds its sources again from the earliest retained record.

Each partition is reset in one transaction. It writes a tombstone for every row, and a meta row with zero totals and the
earliest retained offsets. It commits the same offsets for the group. It uses the transactional id of the partition's worker,
so the broker fences a worker that was only disconnected. Start at plan_reset.
"""

import time

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct, msgpack

from schemas.errors import BrokerError
from stream.fold.damaged_row import DAMAGED_KEY
from stream.fold.records import PartitionTotals
from stream.kafka.barrier import Message, send_batches
from stream.kafka.changelog import PartitionRows, read_changelog
from stream.kafka.clients import rows_producer
from stream.kafka.connection_check import broker_error
from stream.kafka.store import META_KEY, META_VERSION, MetaRow
from stream.operate.retained import Survey, members, survey
from stream.process.settings import Settings
from stream.roles.table import Role


class ResetPlan(Struct, frozen=True):
    """The rows that a reset would delete and the sources that would be folded again."""

    role: Role
    group: str
    changelog: str
    members: int
    state: dict[int, PartitionRows]
    sources: Survey

    @property
    def rows(self) -> int:
        """Count the rows to delete."""
        return sum(len(partition.rows) for partition in self.state.values())


async def plan_reset(settings: Settings, role: Role) -> ResetPlan:
    """Read what a reset of a role would delete and fold again; changes nothing.

    Raises:
        BrokerError: the changelog cannot be read.
        BrokerError: a source topic cannot be read.
    """
    changelog = settings.changelog(role)
    state = await read_changelog(settings, changelog, wait=True)
    return ResetPlan(
        role, settings.group(role), changelog, await members(settings, role), state, await survey(settings, role, state)
    )


async def apply_reset(settings: Settings, plan: ResetPlan) -> None:
    """Delete a role's rows and reset its offsets, partition by partition; run it again after an interruption.

    Raises:
        BrokerError: the role's group has members, the broker has no transactions, or it refused a write.
    """
    if plan.members:
        raise BrokerError(f"group {plan.group} has {plan.members} workers, expected none: stop the role, then reset it again")
    if not settings.transactions:
        raise BrokerError("the embedded broker has no transactions and persists nothing: restart it to reset every role")
    try:
        for number, partition in plan.state.items():
            await _reset(settings, plan, number, partition)
    except KafkaError as error:
        raise await broker_error(settings, error) from error


async def _reset(settings: Settings, plan: ResetPlan, number: int, partition: PartitionRows) -> None:
    producer = rows_producer(settings, f"{plan.group}-{number}")
    now_ms = int(time.time() * 1000)
    keys = [*partition.rows, *(DAMAGED_KEY + key for key in partition.damaged)]
    offsets = {TopicPartition(*tp): first for tp, first in plan.sources.begin.items() if tp.partition == number}
    first = {tp.topic: offset for tp, offset in offsets.items()}
    meta = msgpack.encode(MetaRow(META_VERSION, PartitionTotals(), first, {}, len(plan.state), settings.partitioner))
    rows: list[Message] = [
        *((plan.changelog, key, None, now_ms, []) for key in keys),
        (plan.changelog, META_KEY, meta, now_ms, []),
    ]
    await producer.start()
    try:
        await producer.begin_transaction()
        for send in await send_batches(producer, plan.changelog, number, rows):
            await send
        await producer.send_offsets_to_transaction(offsets, plan.group)
        await producer.commit_transaction()
    finally:
        await producer.stop()
