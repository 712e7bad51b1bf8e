"""Find out which offsets of a role's source topics the broker still retains, and which folded offsets are lost.

Retained records can be folded into new rows; lost records cannot. Start at survey.
"""

from collections.abc import Iterable, Mapping

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct

from schemas.errors import BrokerError
from stream.kafka.changelog import PartitionRows, partition_counts
from stream.kafka.clients import admin_client, plain_consumer
from stream.kafka.connection_check import broker_error
from stream.process.settings import Settings
from stream.roles.table import ROLE_TOPICS, Role


class TopicRetention(Struct, frozen=True):
    """Offset counts of one source topic, summed over its partitions.

    `retained` counts retained offsets, an upper bound of the records. `lost` counts the offsets that the state has folded
    and the broker no longer retains.
    """

    topic: str
    retained: int
    lost: int


class Survey(Struct, frozen=True):
    """The first retained offset and the end offset of every source partition, and the counts by topic."""

    begin: dict[TopicPartition, int]
    end: dict[TopicPartition, int]
    topics: list[TopicRetention]

    @property
    def retained(self) -> int:
        """Count the offsets to fold again."""
        return sum(topic.retained for topic in self.topics)

    @property
    def lost(self) -> int:
        """Count the folded offsets that cannot be folded again."""
        return sum(topic.lost for topic in self.topics)


async def survey(settings: Settings, role: Role, state: Mapping[int, PartitionRows]) -> Survey:
    """Compare the offsets that the broker retains of a role's sources with those that its state has folded.

    Raises:
        BrokerError: a source topic is missing, or no broker answers.
    """
    names = [settings.topics()[kind].name for kind in ROLE_TOPICS[role].reads]
    counts = await partition_counts(settings)
    if missing := [name for name in names if name not in counts]:
        raise BrokerError(f"found no topic {', '.join(missing)}: run `footfall topics apply`")
    tps = [TopicPartition(name, number) for name in names for number in range(counts[name])]
    consumer = plain_consumer(settings)
    try:
        await consumer.start()
        begin, end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    except KafkaError as error:
        raise await broker_error(settings, error) from error
    finally:
        await consumer.stop()
    return Survey(begin, end, [_topic(name, [tp for tp in tps if tp.topic == name], begin, end, state) for name in names])


def _topic(
    name: str,
    tps: Iterable[TopicPartition],
    begin: Mapping[TopicPartition, int],
    end: Mapping[TopicPartition, int],
    state: Mapping[int, PartitionRows],
) -> TopicRetention:
    retained = lost = 0
    for tp in tps:
        folded = state[tp.partition].offsets.get(name, 0) if tp.partition in state else 0
        retained += end[tp] - begin[tp]
        lost += min(begin[tp], folded)
    return TopicRetention(name, retained, lost)


async def members(settings: Settings, role: Role) -> int:
    """Count the members of a role's consumer group.

    Raises:
        BrokerError: no broker answers.
    """
    client = admin_client(settings)
    try:
        await client.start()
        [answer] = await client.describe_consumer_groups([settings.group(role)])
    except KafkaError as error:
        raise await broker_error(settings, error) from error
    finally:
        await client.close()
    return sum(len(group[5]) for group in answer.groups)
