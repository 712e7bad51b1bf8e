"""Run a worker whose clock is wrong: the broker stamps what it sends, and the worker says by how much its clock differs."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from schemas.codec import decode
from schemas.scoring import ScoreRequest
from stream.kafka.clients import admin_client
from stream.kafka.topic_admin import apply, plan
from tests.harness import Deployment, until
from tests.kafka.test_positions_kafka import no_lag
from tests.kafka.test_scorer_restarts import visits

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]
TWO_DAYS = 2 * 86_400
BEHIND = f"""
import time
true_time = time.time
time.time = lambda: true_time() - {TWO_DAYS}
from stream.cli.main import main
main()
"""


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    yield deployment
    deployment.stop()


async def test_outputs_of_a_worker_two_days_behind_carry_the_brokers_time_and_the_worker_says_so(
    deployment: Deployment,
) -> None:
    worker = deployment.start("features", BEHIND)
    events = visits()[:117]
    await deployment.publish(events)
    await until("no lag", lambda: no_lag(deployment, worker, "visit"), seconds=60, worker=worker)
    now = time.time()

    requests = await deployment.read(deployment.topic("score-request"))
    assert len(requests) == len(events)
    assert all(now - 120 < record.timestamp / 1000 <= now for record in requests)
    made = [decode(ScoreRequest, record.value) for record in requests]
    assert {request.source.timestamp_ms for request in made} == {event.record_ms for event in events}
    assert all(request.timings.folded_ms / 1000 < now - TWO_DAYS + 120 for request in made), "the worker's clock, in the value"
    assert abs(worker.metric("footfall_broker_clock_ahead_seconds") - TWO_DAYS) < 60
    assert worker.stop() == 0
    assert '"event": "clock_differs"' in worker.log.read_text()


@pytest.mark.parametrize(("role", "kind"), [("features", "score-request"), ("features", "click.dlq"), ("scorer", "interest")])
async def test_a_topic_of_ours_that_keeps_a_workers_time_is_refused_until_topics_apply_changes_it(
    deployment: Deployment, role: str, kind: str
) -> None:
    admin = admin_client(deployment.settings)
    await admin.start()
    topic = deployment.topic(kind)
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"message.timestamp.type": "CreateTime"})])
    finally:
        await admin.close()

    worker = deployment.start(role)
    await until("the worker ends", lambda: worker.process.poll() is not None, seconds=60)
    assert worker.process.returncode == 78, worker.tail()
    text = worker.tail()
    assert f"topic {topic}: found message.timestamp.type CreateTime, expected LogAppendTime" in text
    assert "footfall topics apply" in text

    assert topic in {change.topic for change in await apply(deployment.settings) if change.action == "alter"}
    ahead = [change for change in await plan(deployment.settings) if change.action != "ok"]
    assert ahead == []
    again = deployment.start(role)
    await until("the next worker is ready", again.ready, seconds=90, worker=again)
