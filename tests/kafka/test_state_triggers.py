"""Rebuild and reset the rows of the triggers role: they record the same decisions, and a rebuild sends no trigger."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from schemas.codec import encode
from schemas.time_units import HOUR_MS
from stream.kafka.clients import output_producer
from stream.kafka.transport import ConsumerThread
from stream.operate.state_rebuild import rebuild
from tests.builders import NOW_MS, churn_risk, interest, interest_score, source_position
from tests.harness import Deployment, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
USERS, SIGNALS = 40, 400
SIGNAL_KINDS = ("interest", "churn-risk")


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    """A deployment whose triggers role has decided on every signal and has stopped."""
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    await publish_signals(deployment)
    await decide_all(deployment)
    yield deployment
    deployment.stop()


async def publish_signals(deployment: Deployment) -> None:
    """Publish signals of all users in turn, hours apart, so that some fire and some are suppressed."""
    replay = deployment.replay()
    producer = output_producer(deployment.settings)
    await producer.start()
    for number in range(SIGNALS):
        user, at = f"u-{number % USERS}", NOW_MS + number // USERS * 5 * HOUR_MS
        source = source_position(offset=number, timestamp_ms=at)
        fields = {"signal_id": f"signal-{number}", "user_id": user, "event_time_ms": at, "source": source}
        kind = SIGNAL_KINDS[number % 3 == 0]
        sure = interest_score(probability=0.99)
        signal = interest(**fields, interests=[sure]) if kind == "interest" else churn_risk(**fields, probability=0.99)
        key = user.encode()
        await producer.send(
            deployment.topic(kind), encode(signal), key=key, partition=replay.partition_of(key), timestamp_ms=at
        )
    await producer.stop()


async def decide_all(deployment: Deployment) -> None:
    """Run the triggers role until it has committed every signal."""
    worker = deployment.start("triggers")

    async def done() -> bool:
        return worker.ready() and not await deployment.lag("triggers", SIGNAL_KINDS)

    await until("no lag", done, seconds=60, worker=worker)
    assert worker.stop() == 0


async def decisions(deployment: Deployment) -> tuple[int, int]:
    return len(await deployment.read(deployment.topic("ad-trigger"))), len(
        await deployment.read(deployment.topic("suppression"))
    )


async def test_a_rebuild_remembers_the_same_decisions_and_sends_none(deployment: Deployment) -> None:
    before, sent = (await deployment.committed("triggers"))[0], await decisions(deployment)
    assert len(before) == USERS
    assert min(sent) > 0

    done = await asyncio.to_thread(deployment.command, "state", "rebuild", "triggers", "--apply")

    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(done.stdout)
    assert (found["rows"], found["equal"], found["different"]) == (USERS, USERS, 0)
    assert await decisions(deployment) == sent
    deployment.settings = deployment.settings.model_copy(update={"generations": {"triggers": 2}})
    await decide_all(deployment)
    assert (await deployment.committed("triggers"))[0] == before
    assert await decisions(deployment) == sent


async def test_a_rebuild_does_not_end_before_what_was_fetched_is_folded(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = ConsumerThread.getmany

    async def slow(self: ConsumerThread, active_partitions: object, timeout: float) -> object:
        """Fetch, and return the records long after the position has moved past them."""
        records = await fetch(self, active_partitions, timeout)
        await asyncio.sleep(0.5 if records else 0)
        return records

    monkeypatch.setattr(ConsumerThread, "getmany", slow)

    done = await rebuild(deployment.settings, "triggers", lambda folded, retained: None)

    assert (done.rows, done.equal, done.different) == (USERS, USERS, 0)


async def test_a_reset_decides_again_on_the_retained_signals(deployment: Deployment) -> None:
    before, sent = (await deployment.committed("triggers"))[0], await decisions(deployment)

    done = await asyncio.to_thread(deployment.command, "state", "reset", "triggers", "--apply")

    assert done.returncode == 0, done.stderr
    assert await deployment.lag("triggers", SIGNAL_KINDS) == SIGNALS
    await decide_all(deployment)
    rows = {key: row for key, row in (await deployment.committed("triggers"))[0].items() if row is not None}
    assert rows == before
    assert await decisions(deployment) == (2 * sent[0], 2 * sent[1])
