"""Change topics and group offsets while no worker runs: a worker resumes exactly, or refuses before writing a row."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiokafka
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete

from schemas.codec import encode
from stream.kafka.clients import admin_client, plain_consumer, rows_producer
from stream.kafka.positions import stable_group_offsets
from stream.kafka.store import Partition
from stream.logs.event_log import LoggedEvent
from stream.process.settings import load_settings
from tests.builders import click
from tests.harness import Deployment, Worker, folded_rows, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]
START_MS = 1_790_000_000_000


def clicks(first: int, count: int, *, start_ms: int = START_MS) -> list[LoggedEvent]:
    made = []
    for n in range(first, first + count):
        at, user = start_ms + 1000 * n, f"u-{n % 40}"
        event = click(user_id=user, event_time_ms=at, event_id=f"{start_ms}-{n}")
        made.append(LoggedEvent("click", at, user.encode(), encode(event)))
    return made


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    await deployment.publish(clicks(0, 400))
    await fold_all(deployment)
    yield deployment
    deployment.stop()


async def fold_all(deployment: Deployment) -> None:
    worker = deployment.start("features")
    await until("no lag", lambda: no_lag(deployment, worker), seconds=60, worker=worker)
    assert worker.stop() == 0


async def no_lag(deployment: Deployment, worker: Worker, kind: str = "click") -> bool:
    assert worker.process.poll() is None, worker.tail()
    return not await deployment.lag("features", (kind,))


async def refused(deployment: Deployment, **environment: str) -> str:
    """Start a worker that must refuse: it exits with 78 and leaves the changelog unchanged."""
    before = await deployment.committed("features")
    worker = deployment.start("features", **environment)
    await until("the worker ends", lambda: worker.process.poll() is not None, seconds=40)
    assert worker.process.returncode == 78, worker.tail()
    assert await deployment.committed("features") == before
    return worker.tail()


@pytest.mark.parametrize("moved_to", ["ahead", "behind"])
async def test_group_offsets_ahead_of_the_rows_are_refused_and_those_behind_are_written_again(
    deployment: Deployment, moved_to: str
) -> None:
    if moved_to == "behind":
        await commit(deployment, 0)
        await deployment.publish(clicks(400, 100))
        await fold_all(deployment)
        await same_as_replay(deployment, 500)
        return
    await commit(deployment, 1_000_000)
    text = await refused(deployment)
    assert "someone moved the group's offsets" in text and "ignore_group_offsets=true" in text

    deployment.settings = load_settings(**deployment.given, ignore_group_offsets=True)
    await deployment.publish(clicks(400, 100))
    await fold_all(deployment)
    await same_as_replay(deployment, 500)


async def test_offsets_of_a_transaction_that_is_not_ended_yet_are_no_move(deployment: Deployment) -> None:
    group, tp = deployment.settings.group("features"), TopicPartition(deployment.topic("click"), 0)
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=deployment.settings.kafka_bootstrap_servers, group_id=group, enable_auto_commit=False
    )
    producer = rows_producer(deployment.settings, f"{deployment.settings.app_id}-test")
    rows = {0: Partition(0, None, offsets={tp.topic: 1_000})}  # type: ignore[arg-type]

    async def committed() -> dict[TopicPartition, int | None]:
        return {tp: await consumer.committed(tp)}

    await asyncio.gather(consumer.start(), producer.start())
    try:
        consumer.assign([tp])
        await producer.begin_transaction()
        await producer.send_offsets_to_transaction({tp: 1_000}, group)
        before = await committed()
        settling = asyncio.create_task(stable_group_offsets(committed, rows))
        await asyncio.sleep(0.5)
        assert not settling.done()
        await producer.commit_transaction()

        assert (await settling)[tp] == 1_000
        assert before[tp] != 1_000
    finally:
        await asyncio.gather(consumer.stop(), producer.stop())


async def test_a_topic_recreated_shorter_or_longer_is_refused(deployment: Deployment) -> None:
    await recreate(deployment)
    assert "the topic was recreated" in await refused(deployment)

    await deployment.publish(clicks(0, 900, start_ms=START_MS + 500))
    assert "the topic was recreated" in await refused(deployment)


async def test_records_that_retention_deleted_unread_are_refused_or_counted(deployment: Deployment) -> None:
    ends = {tp.partition: end for tp, end in (await slice_ends(deployment)).items()}
    await deployment.publish(clicks(400, 200))
    deleted = 10
    admin = admin_client(deployment.settings)
    await admin.start()
    topic = deployment.topic("click")
    await admin.delete_records(
        {TopicPartition(topic, n): RecordsToDelete(before_offset=end + deleted) for n, end in ends.items()}
    )
    await admin.close()

    assert "retention deleted 10 unread records" in await refused(deployment)

    deployment.settings = load_settings(**deployment.given, accept_lost_records=True)
    worker = deployment.start("features")
    await until("no lag", lambda: no_lag(deployment, worker), seconds=60, worker=worker)
    assert worker.metric("footfall_lost_records_total") == 4 * deleted
    assert worker.metric('footfall_records_total{outcome="in"}') == 600 - 4 * deleted
    assert worker.stop() == 0


async def test_more_partitions_than_the_rows_were_folded_from_are_refused(deployment: Deployment) -> None:
    admin = admin_client(deployment.settings)
    await admin.start()
    names = [topic.name for topic in deployment.settings.topics().values()]
    names += [deployment.settings.changelog(role) for role in ("features", "triggers")]
    await admin.create_partitions({name: NewPartitions(8) for name in names})
    await admin.close()

    assert "folded from 4 partitions, the topics have 8" in await refused(deployment)


async def slice_ends(deployment: Deployment) -> dict[TopicPartition, int]:
    consumer = plain_consumer(deployment.settings)
    await consumer.start()
    try:
        found: dict[TopicPartition, int] = await consumer.end_offsets(
            [TopicPartition(deployment.topic("click"), n) for n in range(4)]
        )
        return found
    finally:
        await consumer.stop()


@pytest.mark.parametrize("policy", ["compact,delete"])
async def test_a_changelog_whose_rows_retention_would_delete_is_refused(deployment: Deployment, policy: str) -> None:
    admin = admin_client(deployment.settings)
    await admin.start()
    changelog = deployment.settings.changelog("features")
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, changelog, {"cleanup.policy": policy})])
    finally:
        await admin.close()

    text = await refused(deployment)

    assert f"{changelog}: found cleanup.policy {policy}, expected compact" in text and "footfall topics apply" in text


async def same_as_replay(deployment: Deployment, count: int) -> None:
    rows, totals = await deployment.committed("features")
    replay = deployment.replay()
    for _ in replay.fold(clicks(0, count)):
        pass
    assert rows == folded_rows(replay)
    assert (totals.events_in, totals.replay_skipped) == (count, 0)


async def commit(deployment: Deployment, offset: int) -> None:
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=deployment.settings.kafka_bootstrap_servers,
        group_id=deployment.settings.group("features"),
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(deployment.topic("click"), n) for n in range(4)])
        await consumer.commit({TopicPartition(deployment.topic("click"), n): offset for n in range(4)})
    finally:
        await consumer.stop()


async def recreate(deployment: Deployment) -> None:
    admin = admin_client(deployment.settings)
    await admin.start()
    topic = deployment.topic("click")
    await admin.delete_topics([topic])

    async def gone() -> bool:
        return topic not in await admin.list_topics()

    await until("the topic is gone", gone, seconds=20)
    await admin.create_topics([NewTopic(topic, 4, 1, topic_configs={"retention.ms": "-1"})])
    await admin.close()


async def test_a_session_timeout_that_the_broker_does_not_allow_ends_the_worker_and_is_named(deployment: Deployment) -> None:
    said = await refused(deployment, FOOTFALL_SESSION_TIMEOUT_SECONDS="2")
    assert "setting session_timeout_seconds: found 2, expected a value that the broker allows" in said
