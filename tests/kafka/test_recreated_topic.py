"""Recreate, delete and extend topics under running workers: none folds a record of the new topic, and each says what to do."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka.admin import NewPartitions, NewTopic
from aiokafka.errors import for_code

from schemas.codec import encode
from stream.kafka.clients import admin_client
from stream.kafka.topic_watch import WATCH_SECONDS
from stream.logs.event_log import LoggedEvent
from tests.builders import visit
from tests.harness import Deployment, Worker, configs_of, folded_rows, until
from tests.kafka.test_positions_kafka import START_MS, clicks, no_lag

WITHOUT_IDS = """
from msgspec.structs import replace
from stream.kafka import topic_ids, topic_watch

async def describe_topics(client, topics):
    found = await topic_ids.describe_topics(client, topics)
    return {topic: replace(facts, topic_id="") for topic, facts in found.items()}

topic_watch.describe_topics = describe_topics
from stream.cli.main import main
main()
"""
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    yield deployment
    deployment.stop()


@pytest.mark.parametrize("new", [10, 900], ids=["shorter", "longer"])
async def test_a_topic_recreated_under_a_running_worker_is_refused_before_a_record_of_it_is_committed(
    deployment: Deployment, new: int
) -> None:
    worker = deployment.start("features")
    await deployment.publish(clicks(0, 400))
    await until("no lag", lambda: no_lag(deployment, worker), seconds=60, worker=worker)

    await recreate(deployment, "click")
    await deployment.publish(clicks(10_000, new))

    text = await refused(worker)
    assert f"of topic {deployment.topic('click')}" in text and "recreated" in text and "footfall state reset features" in text
    rows, totals = await deployment.committed("features")
    replay = deployment.replay()
    list(replay.fold(clicks(0, 400)))
    assert rows == folded_rows(replay) and totals.events_in == 400
    again = deployment.start("features")
    assert "recreated" in await refused(again)


async def test_where_the_broker_has_no_ids_a_recreated_topic_is_known_by_its_last_record(deployment: Deployment) -> None:
    worker = deployment.start("features", WITHOUT_IDS)
    await deployment.publish(clicks(0, 400))
    await until("no lag", lambda: no_lag(deployment, worker), seconds=60, worker=worker)

    await asyncio.sleep(2 * WATCH_SECONDS)  # the last records were seen
    worker.process.send_signal(signal.SIGSTOP)  # or a fetch could come before the new topic has this offset
    await recreate(deployment, "click")
    await deployment.publish(clicks(10_000, 900))
    worker.process.send_signal(signal.SIGCONT)

    text = await refused(worker)
    assert deployment.topic("click") in text and "recreated" in text and "footfall state reset features" in text


async def test_a_deleted_topic_makes_the_worker_unready_and_a_worker_of_the_new_one_starts_only_after_a_reset(
    deployment: Deployment,
) -> None:
    worker = deployment.start("features")
    await deployment.publish(clicks(0, 40))
    await until("no lag", lambda: no_lag(deployment, worker), seconds=60, worker=worker)

    await delete(deployment, "click")

    name = deployment.topic("click")
    await until(
        "the worker says which topic is missing", lambda: any(name in r for r in reasons(worker)), seconds=15, patience=1
    )
    await create(deployment, "click")
    assert "recreated" in await refused(worker)


@pytest.mark.parametrize("role", ["features", "triggers", "scorer"])
async def test_partitions_added_under_a_running_worker_are_refused(deployment: Deployment, role: str) -> None:
    kind = {"features": "click", "triggers": "interest", "scorer": "score-request"}[role]
    worker = deployment.start(role)
    await until("the worker is ready", worker.ready, seconds=90, worker=worker)

    admin = admin_client(deployment.settings)
    await admin.start()
    await admin.create_partitions({deployment.topic(kind): NewPartitions(6)})
    await admin.close()

    text = await refused(worker)
    assert f"found 6 partitions in topic {deployment.topic(kind)}, expected 4" in text


async def test_a_scorer_whose_topic_was_recreated_ends_and_the_next_one_begins_at_the_first_request(
    deployment: Deployment,
) -> None:
    workers = [deployment.start(role) for role in ("features", "scorer")]
    for worker in workers:
        await until(f"{worker.role} is ready", worker.ready, seconds=90, worker=worker)
    await deployment.publish(visits(0, 8))
    await until("the first requests are answered", lambda: answered(deployment, 8), seconds=60, worker=workers[1])

    await recreate(deployment, "score-request")
    text = await refused(workers[1])
    assert f"of topic {deployment.topic('score-request')}" in text and "start the scorer again" in text
    await deployment.publish(visits(8, 8))
    await until("the new requests are sent", lambda: no_lag(deployment, workers[0], "visit"), seconds=60, worker=workers[0])

    again = deployment.start("scorer")
    await until("the new requests are answered too", lambda: answered(deployment, 16), seconds=90, worker=again)


def visits(first: int, count: int) -> list[LoggedEvent]:
    """Return one visit of each of `count` users: each is scored."""
    return [
        LoggedEvent(
            "visit", START_MS, b"v-%d" % n, encode(visit(user_id=f"v-{n}", event_time_ms=START_MS, event_id=f"visit-{n}"))
        )
        for n in range(first, first + count)
    ]


async def answered(deployment: Deployment, users: int) -> bool:
    """Return whether the visits of so many users have an interest event."""
    return len({record.key for record in await deployment.read(deployment.topic("interest"))}) == users


async def recreate(deployment: Deployment, kind: str) -> None:
    """Delete a topic and create it again as soon as the broker permits it."""
    await delete(deployment, kind)
    await create(deployment, kind)


async def delete(deployment: Deployment, kind: str) -> None:
    admin = admin_client(deployment.settings)
    await admin.start()
    try:
        await admin.delete_topics([deployment.topic(kind)])
    finally:
        await admin.close()


async def create(deployment: Deployment, kind: str) -> None:
    admin = admin_client(deployment.settings)
    await admin.start()

    async def created() -> bool:
        topic = deployment.settings.topics()[kind]
        response = await admin.create_topics([NewTopic(topic.name, 4, 1, topic_configs=configs_of(topic))])
        code = response.topic_errors[0][1]
        assert code in (0, 36), for_code(code)
        return code == 0

    try:
        await until("the topic is created again", created, seconds=20)
    finally:
        await admin.close()


async def refused(worker: Worker) -> str:
    """Wait until a worker ends with 78, and return the end of its log."""
    await until("the worker ends", lambda: worker.process.poll() is not None, seconds=60)
    assert worker.process.returncode == 78, worker.tail()
    return worker.tail()


def reasons(worker: Worker) -> list[str]:
    """Return why a worker is not ready."""
    assert worker.process.poll() is None, worker.tail()
    _, body = worker.get("/readyz")
    found: list[str] = json.loads(body)["reasons"] if body else []
    return found
