"""Create, compare and alter a deployment's topics on Apache Kafka without losing their other configs."""

import asyncio
import secrets
import time

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from schemas.errors import BrokerError
from schemas.time_units import DAY_MS
from stream.kafka.clients import admin_client
from stream.kafka.topic_admin import apply, plan, topic_configs
from stream.logs.event_log import LoggedEvent
from stream.operate.send_log import check_sendable, send_events
from stream.process.settings import Settings, load_settings

pytestmark = pytest.mark.kafka


@pytest.fixture
def settings(kafka: str) -> Settings:
    name = f"t{secrets.token_hex(4)}"
    return load_settings(
        kafka_bootstrap_servers=kafka, topic_prefix=f"{name}.", app_id=name, partitions=2, replication_factor=1
    )


async def configs(settings: Settings, topic: str) -> dict[str, tuple[str, bool]]:
    client = admin_client(settings)
    await client.start()
    try:
        return (await topic_configs(client, [topic]) or {})[topic]
    finally:
        await client.close()


async def test_changelogs_are_compacted_and_topics_keep_records_as_long_as_wanted(settings: Settings) -> None:
    await apply(settings)
    found = await configs(settings, settings.changelog("features"))
    assert {
        name: found[name][0] for name in ("cleanup.policy", "delete.retention.ms", "max.compaction.lag.ms", "segment.ms")
    } == {
        "cleanup.policy": "compact",
        "delete.retention.ms": str(7 * DAY_MS),
        "max.compaction.lag.ms": str(7 * DAY_MS),
        "segment.ms": str(DAY_MS),
    }
    assert (await configs(settings, settings.topics()["click"].name))["retention.ms"] == (str(7 * DAY_MS), True)
    assert await apply(settings) == []


async def test_another_partition_count_is_refused_and_nothing_is_touched(settings: Settings) -> None:
    await apply(settings)
    wider = settings.model_copy(update={"partitions": 3, "app_id": f"{settings.app_id}-new", "retention_ms": -1})
    with pytest.raises(BrokerError, match="found 2 partitions, expected 3.*--partitions 2"):
        await apply(wider)
    assert {change.action for change in await plan(wider) if change.kind == "changelog"} == {"create"}
    assert (await configs(settings, settings.topics()["click"].name))["retention.ms"][0] == str(7 * DAY_MS)


async def test_retention_is_changed_and_what_else_was_set_stays(settings: Settings) -> None:
    await apply(settings)
    click = settings.topics()["click"].name
    client = admin_client(settings)
    await client.start()
    kept = {"retention.ms": str(7 * DAY_MS), "cleanup.policy": "delete", "max.message.bytes": "2000000"}
    await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, click, kept)])
    await client.close()
    deadline = time.monotonic() + 10
    while (await configs(settings, click))["max.message.bytes"][0] != "2000000":
        assert time.monotonic() < deadline, "the broker did not show what it accepted"
        await asyncio.sleep(0.02)
    changes = await apply(settings.model_copy(update={"retention_ms": -1}))
    assert f"retention.ms {7 * DAY_MS} → -1" in {change.detail for change in changes}
    found = await configs(settings, click)
    assert (found["retention.ms"][0], found["max.message.bytes"][0]) == ("-1", "2000000")


async def test_a_longer_retention_is_kept_unless_a_shorter_one_is_asked_for(settings: Settings) -> None:
    await apply(settings.model_copy(update={"retention_ms": -1}))
    changes = await plan(settings)
    assert {change.action for change in changes} == {"ok"}
    assert "keeps its longer retention.ms of -1" in changes[0].detail
    assert await apply(settings) == []
    assert {change.action for change in await plan(settings.model_copy(update={"retention_ms": DAY_MS}))} == {"alter", "ok"}


async def test_too_many_replicas_are_refused_with_the_setting(settings: Settings) -> None:
    with pytest.raises(BrokerError, match="--replication-factor"):
        await apply(settings.model_copy(update={"replication_factor": 3}))


async def test_a_log_is_sent_idempotently_where_retention_keeps_it(settings: Settings) -> None:
    events = [LoggedEvent("click", 1_000_000 + n, f"u-{n % 7}".encode(), b"{}") for n in range(2_000)]
    await apply(settings)
    now_ms = 400 * DAY_MS
    with pytest.raises(BrokerError, match="topics apply --retention-ms -1"):
        await check_sendable(settings, ["click"], events[0].record_ms, events[-1].record_ms, now_ms)
    await apply(settings.model_copy(update={"retention_ms": -1}))
    assert await check_sendable(settings, ["click"], events[0].record_ms, events[-1].record_ms, now_ms) == 2
    assert (await send_events(events, settings, partitions=2)).total == 2_000
