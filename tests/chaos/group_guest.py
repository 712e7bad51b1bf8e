"""Join a role's consumer group as a member that reads nothing, and leave it again: a rebalance or two in about a second.

Start at Guest.
"""

from collections.abc import Iterable
from typing import Any

import aiokafka
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata

from tests.harness import Deployment


class _Assignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka has no types
    """Speak the protocol of Faust's assignor; the workers joined earlier, so one of them leads the group."""

    name = "faust"

    @classmethod
    def assign(cls, cluster: Any, members: Any) -> Any:
        raise AssertionError("a guest never leads the group")

    @classmethod
    def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        nothing = ClientMetadata(
            assignment=ClientAssignment(actives={}, standbys={}),
            url="http://guest:6066/",
            changelog_distribution={},
            external_topic_distribution={},
            topic_groups={},
        )
        return ConsumerProtocolMemberMetadata(4, list(topics), nothing.dumps())

    @classmethod
    def on_assignment(cls, assignment: Any) -> None:
        """Read nothing of it."""


class Guest:
    """Make rebalances in the group of role features; `generations` has the group's generation at each visit."""

    def __init__(self, deployment: Deployment, kinds: Iterable[str]) -> None:
        self._deployment = deployment
        self._topics = [*map(deployment.topic, kinds), deployment.settings.changelog("features")]
        self.generations: list[int] = []

    async def visit(self) -> None:
        """Join, which takes partitions from the workers, and leave, which gives them back."""
        consumer = aiokafka.AIOKafkaConsumer(
            *self._topics,
            bootstrap_servers=self._deployment.settings.kafka_bootstrap_servers,
            group_id=self._deployment.settings.group("features"),
            partition_assignment_strategy=(_Assignor,),
            enable_auto_commit=False,
            session_timeout_ms=10_000,
        )
        await consumer.start()
        try:
            self.generations.append(consumer._coordinator.generation)
        finally:
            await consumer.stop()
