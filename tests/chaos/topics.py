"""Change a topic as an operator might by mistake: delete it, recreate it, or limit its record size."""

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from stream.kafka.clients import admin_client
from stream.kafka.topic_admin import existing_partitions
from tests.harness import Deployment, configs_of, until

BROKERS_LIMIT = 1_048_588  # broker default for a batch, where the topic sets none


async def limit_records(deployment: Deployment, topic: str, max_bytes: int) -> None:
    """Make the broker refuse batches of a topic over `max_bytes`."""
    known = {found.name: configs_of(found) for found in deployment.settings.topics().values()}
    configs = known.get(topic, {"cleanup.policy": "compact"}) | {"max.message.bytes": str(max_bytes)}  # unsets omitted configs
    admin = admin_client(deployment.settings)
    await admin.start()
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
    finally:
        await admin.close()


async def delete_topic(deployment: Deployment, topic: str) -> None:
    """Delete a topic and wait until it is gone."""
    admin = admin_client(deployment.settings)
    await admin.start()

    async def gone() -> bool:
        return topic not in await existing_partitions(admin)

    try:
        await admin.delete_topics([topic])
        await until(f"{topic} is gone", gone, seconds=20)
    finally:
        await admin.close()


async def create_changelog(deployment: Deployment, role: str) -> None:
    """Recreate a role's changelog without rows."""
    admin = admin_client(deployment.settings)
    await admin.start()
    try:
        await admin.create_topics(
            [NewTopic(deployment.settings.changelog(role), 4, 1, topic_configs={"cleanup.policy": "compact"})]
        )
    finally:
        await admin.close()
