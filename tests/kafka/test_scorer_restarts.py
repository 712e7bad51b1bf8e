"""Stop scorers one after the other under load: each request is answered exactly once, because nothing crashed."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas.codec import decode, encode
from schemas.signals import Interest
from stream.logs.event_log import LoggedEvent
from tests.builders import visit
from tests.harness import Deployment, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
START_MS, USERS, ROUNDS = 1_790_000_000_000, 6_000, 6


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    yield deployment
    deployment.stop()


def visits() -> list[LoggedEvent]:
    """Return one visit of each user: each is due for a score."""
    return [
        LoggedEvent(
            "visit", START_MS + n, b"v-%d" % n, encode(visit(user_id=f"v-{n}", event_time_ms=START_MS + n, event_id=f"{n}"))
        )
        for n in range(USERS)
    ]


async def test_a_rolling_stop_of_scorers_answers_no_request_twice(deployment: Deployment) -> None:
    features = deployment.start("features")
    scorers = [deployment.start("scorer") for _ in range(2)]
    for worker in (features, *scorers):
        await until(f"{worker.role} is ready", worker.ready, seconds=120, worker=worker)
    await deployment.publish(visits())

    for number in range(ROUNDS):
        before = await answers(deployment)
        await until("scorers answer", lambda before=before: more(deployment, before), seconds=60, worker=scorers[0])
        stopped = scorers.pop(0)
        assert await asyncio.to_thread(stopped.stop) == 0, stopped.tail()
        scorers.append(deployment.start("scorer"))
        if number % 2:
            await until("the next scorer is ready", scorers[-1].ready, seconds=120, worker=scorers[-1])
    await until("every request is answered", lambda: answered(deployment), seconds=200, worker=scorers[-1])

    signals = [decode(Interest, record.value).signal_id for record in await deployment.read(deployment.topic("interest"))]
    assert [count for count in Counter(signals).values() if count > 1] == []
    assert len(signals) == USERS


async def answers(deployment: Deployment) -> int:
    return len(await deployment.read(deployment.topic("interest")))


async def more(deployment: Deployment, before: int) -> bool:
    found = await answers(deployment)
    return found > before or found >= USERS


async def answered(deployment: Deployment) -> bool:
    return len({record.key for record in await deployment.read(deployment.topic("interest"))}) == USERS
