"""Record a live run on Apache Kafka with a kill -9 in the middle, and verify that its guard vector determines each score.

The long test has the size that the documentation claims: `pytest tests/kafka/test_verify_kafka.py -m long`.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import to_builtins

from models.features.spec import KINDS
from models.serving.scorer import Scorer
from stream.logs.event_log import LogWriter
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.verification import TOLERANCE, Verification, write_verification
from stream.operate.record_topics import Recorded, record
from tests.harness import Deployment, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]
COMMITTED = 'footfall_records_total{outcome="in"}'
RECORDED = (*KINDS, "score-request", "interest", "churn-risk", "review-sentiment")


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    yield deployment
    deployment.stop()


async def test_every_score_of_a_run_with_a_kill_9_is_what_its_guard_gives(deployment: Deployment) -> None:
    found = await verified_run(deployment, shoppers=30, days=50, per_second=600)

    assert_agreement(found)


@pytest.mark.long
async def test_every_score_of_100_000_events_with_a_kill_9_is_what_its_guard_gives(deployment: Deployment) -> None:
    found = await verified_run(deployment, shoppers=800, days=90, per_second=4000, at_least=100_000)

    assert_agreement(found)


def assert_agreement(found: Verification) -> None:
    assert found.agrees
    assert found.equal == found.scored == found.requests > 0
    assert (found.mismatched, found.unverifiable, found.differing) == (0, {}, {})
    assert (found.ids_missing, found.ids_extra, found.ids_not_reached, found.ids_not_comparable) == (0, 0, 0, 0)
    assert (found.unscored, found.orphans, found.undecodable) == (0, 0, 0)
    assert found.score_difference <= TOLERANCE


async def verified_run(
    deployment: Deployment, *, shoppers: int, days: int, per_second: float, at_least: int = 0
) -> Verification:
    """Run the features role and the scorer over a simulated log, kill features in mid-stream, and verify the recording."""
    config = SimulatorConfig(seed=21, shoppers=shoppers, days=days, late=0.02, duplicates=0.02, malformed=0.01)
    events = [event.logged for event in simulate(config)]
    assert len(events) >= at_least
    first, scorer = deployment.start("features"), deployment.start("scorer")
    for worker in (first, scorer):
        await until(f"{worker.role} is ready", worker.ready, seconds=120, worker=worker)
    hurry = asyncio.Event()
    publishing = asyncio.create_task(deployment.publish(events, per_second=per_second, hurry=hurry))
    third = len(events) / 3
    await until("a third is committed", lambda: first.metric(COMMITTED) > third, seconds=300, worker=first)
    first.kill()
    assert (await deployment.committed("features"))[1].events_in < len(events), "the kill must be in mid-stream"
    second = deployment.start("features")
    hurry.set()
    await publishing
    for role, kinds in (("features", KINDS), ("scorer", ("score-request",)), ("features", ("review-sentiment",))):
        await until(f"no lag of {role}", lambda role=role, kinds=kinds: settled(deployment, role, kinds), seconds=900)
    assert [worker.stop() for worker in (second, scorer)] == [0, 0]

    log = await recorded(deployment)
    model = Scorer.load(deployment.settings.checkpoint)
    found = await asyncio.to_thread(write_verification, log, deployment.settings, model, deployment.folder / "verified")
    sys.stdout.write(json.dumps({"events": len(events)} | to_builtins(found)) + "\n")  # shown with -s, or if the test fails
    return found


async def settled(deployment: Deployment, role: str, kinds: tuple[str, ...]) -> bool:
    for worker in deployment.workers[1:]:
        assert worker.process.poll() is None, worker.tail()
    return not await deployment.lag(role, kinds)


async def recorded(deployment: Deployment) -> Path:
    """Record all topics."""
    log = deployment.folder / "log"
    with LogWriter(log) as writer:
        parts = await record(
            deployment.settings, RECORDED, writer, since_ms=None, follow=False, stop=asyncio.Event(), recorded=Recorded()
        )
        writer.finish(source="test", recorded=parts)
    return log
