"""Upgrade role features to a spec with one more feature, under load: each request is answered once, in order, by its model."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models.features.spec import FEATURE_SPEC
from schemas.codec import decode
from schemas.scoring import ScoreRequest
from schemas.signals import Interest
from tests.harness import Deployment, Worker, until
from tests.kafka.test_scorer_restarts import answers, visits

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
NEWER = (Path(__file__).parents[1] / "newer_spec.py").read_text()


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    yield deployment
    deployment.stop()


async def test_features_and_scorer_are_upgraded_one_after_the_other_under_load(deployment: Deployment) -> None:
    old, scorer = deployment.start("features"), deployment.start("scorer")
    for worker in (old, scorer):
        await until(f"{worker.role} is ready", worker.ready, seconds=120, worker=worker)
    events = visits()[:3000]
    publishing = asyncio.create_task(deployment.publish(events, per_second=150))
    await until("the scorer answers", lambda: reached(deployment, 200), seconds=60, worker=scorer)

    new = deployment.start("features", NEWER)
    await until("the new release folds beside the old one", new.ready, seconds=120, worker=new)
    assert await asyncio.to_thread(old.stop) == 0, old.tail()
    after = await answers(deployment) + 200
    await until("the old scorer answers requests of both", lambda: reached(deployment, after), seconds=60, worker=scorer)
    second = deployment.start("scorer")
    await until("the second scorer is ready", second.ready, seconds=120, worker=second)
    assert await asyncio.to_thread(scorer.stop) == 0, scorer.tail()
    await publishing
    await until("every request is answered", lambda: reached(deployment, len(events)), seconds=120, worker=second)

    requests = [decode(ScoreRequest, record.value) for record in await deployment.read(deployment.topic("score-request"))]
    specs = Counter(request.spec_version for request in requests)
    assert len(specs) == 2 and specs[FEATURE_SPEC.version] > 0, specs
    signals = [decode(Interest, record.value) for record in await deployment.read(deployment.topic("interest"))]
    assert Counter(signal.signal_id for signal in signals).most_common(1)[0][1] == 1
    assert len(signals) == len(requests) == len(events)
    offsets: dict[int, list[int]] = defaultdict(list)
    for signal in signals:
        offsets[signal.source.partition].append(signal.source.offset)
    assert all(found == sorted(found) for found in offsets.values())
    assert await deployment.read(deployment.topic("score-request.dlq")) == []
    learnt_by(scorer)


async def reached(deployment: Deployment, count: int) -> bool:
    return await answers(deployment) >= count


def learnt_by(worker: Worker) -> None:
    """Check that a worker says which spec it learnt."""
    assert '"event": "feature_spec"' in worker.log.read_text(), worker.tail()
