"""Check a worker's restore: when it commits again after a kill -9, and its health endpoints meanwhile."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

import pytest
from msgspec import Struct

from stream.bench.restore import write_rows
from stream.logs.event_log import LoggedEvent
from tests.chaos.broker import Broker
from tests.chaos.conftest import SESSION_SECONDS
from tests.chaos.proxy import Proxy
from tests.chaos.scene import Scene
from tests.harness import Worker, folded_rows, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
POLL_SECONDS = 0.1
RESTORING = "restoring: "
SLOW_ROWS, SLOW_BYTES_PER_SECOND = 20_000, 1_000_000  # rows to restore, and how fast the proxy lets them pass


class Poll(Struct):
    """One poll of a worker's health endpoints: when it was sent and answered (epoch seconds), and the status codes."""

    sent: float
    at: float
    live: int
    ready: int
    reasons: list[str]


async def test_a_worker_is_not_ready_before_its_rows_are_restored_and_alive_all_the_time(
    scene: Scene, broker: Broker, events: list[LoggedEvent]
) -> None:
    await fold_and_add_rows(scene, events[:2000], rows=20_000)
    async with Proxy(broker.proxy_port, broker.behind_port) as proxy:
        proxy.delay_seconds = 0.05  # slows the restore enough to poll it
        worker = scene.start(KAFKA_BOOTSTRAP_SERVERS=broker.proxied)
        async with polled(worker) as polls:
            await until("the worker is ready", worker.ready, seconds=60, worker=worker)
        proxy.delay_seconds = 0.0
        scene.report.faults["slow restore"] += 1

        hold_polls(worker, polls, at_least=5)
        assert await asyncio.to_thread(worker.stop) == 0, worker.tail()


@pytest.mark.long
async def test_a_worker_killed_over_200_000_rows_restores_them_all_and_commits_again(
    scene: Scene, events: list[LoggedEvent]
) -> None:
    users = await fold_and_add_rows(scene, events[:2000], rows=200_000)
    first = scene.start()
    await scene.deployment.publish(events[2000:3000])
    await scene.committed(first, more_than=2999, seconds=60)

    scene.kill(first)
    await scene.deployment.publish(events[3000:4000])
    second = scene.start()
    async with polled(second) as polls:
        await scene.committed(second, more_than=3000, seconds=60)

    assert second.metric("footfall_restored_rows") >= 200_000
    hold_polls(second, polls, at_least=3)
    await scene.settled()
    assert await asyncio.to_thread(second.stop) == 0, second.tail()
    replay = scene.deployment.replay()
    list(replay.fold(events[:4000]))
    rows, totals = await scene.deployment.committed("features")
    assert totals == replay.summed()
    assert {key: row for key, row in rows.items() if key not in users} == folded_rows(replay)


@pytest.mark.parametrize(
    "killed",
    [
        pytest.param(False, id="a second worker joins"),
        pytest.param(True, id="the worker that joined is killed", marks=pytest.mark.long),
    ],
)
async def test_a_restore_longer_than_three_session_timeouts_ends(
    scene: Scene, broker: Broker, events: list[LoggedEvent], killed: bool
) -> None:
    users = await fold_and_add_rows(scene, events[:2000], rows=SLOW_ROWS)
    async with Proxy(broker.proxy_port, broker.behind_port) as proxy:
        proxy.bytes_per_second = SLOW_BYTES_PER_SECOND
        first = scene.start(KAFKA_BOOTSTRAP_SERVERS=broker.proxied)
        await until("the first worker restores", lambda: restores(first), seconds=60, worker=first)
        second = scene.start(KAFKA_BOOTSTRAP_SERVERS=broker.proxied)
        await until("the second worker restores", lambda: restores(second), seconds=60, worker=second)
        if killed:
            scene.kill(second)
        workers = [first] if killed else [first, second]
        for worker in workers:
            await until("the rows are restored", worker.ready, seconds=150, worker=worker)
        proxy.bytes_per_second = 0
        scene.report.faults["slow restore"] += 1
        longest = max(line["seconds"] for worker in workers for line in lines_of(worker) if line["event"] == "restored")
        await scene.deployment.publish(events[2000:3000])
        await scene.settled()
        for worker in workers:
            assert await asyncio.to_thread(worker.stop) == 0, worker.tail()

    assert longest > 3 * SESSION_SECONDS
    ended = [sum(line["event"] == "restored" for line in lines_of(worker)) for worker in workers]
    assert ended == [1] * len(workers), "no worker was expelled during its restore, and restored again"
    replay = scene.deployment.replay()
    list(replay.fold(events[:3000]))
    rows, totals = await scene.deployment.committed("features")
    assert totals == replay.summed()
    assert {key: row for key, row in rows.items() if key not in users} == folded_rows(replay)


def restores(worker: Worker) -> bool:
    """Return whether a worker says that it is restoring rows."""
    _, body = worker.get("/readyz")
    return any(reason.startswith(RESTORING) for reason in json.loads(body)["reasons"]) if body else False


def lines_of(worker: Worker) -> list[dict[str, Any]]:
    """Return the log lines of a worker."""
    return [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]


async def fold_and_add_rows(scene: Scene, events: list[LoggedEvent], *, rows: int) -> set[bytes]:
    """Fold events, then add `rows` rows of users without events, and return their keys."""
    worker = scene.start()
    await scene.deployment.publish(events)
    await scene.settled()
    assert await asyncio.to_thread(worker.stop) == 0, worker.tail()
    found, _ = await scene.deployment.committed("features")
    await write_rows(scene.deployment.settings, rows, list(found.values()))
    return (await scene.deployment.committed("features"))[0].keys() - found.keys()


@asynccontextmanager
async def polled(worker: Worker) -> AsyncIterator[list[Poll]]:
    """Poll a worker's /livez and /readyz ten times per second, from its first response on."""
    polls: list[Poll] = []

    async def poll() -> None:
        while True:
            sent = time.time()
            (live, _), (ready, body) = await asyncio.gather(
                asyncio.to_thread(worker.get, "/livez"), asyncio.to_thread(worker.get, "/readyz")
            )
            if live or polls:
                polls.append(Poll(sent, time.time(), live, ready, json.loads(body)["reasons"] if body else []))
            await asyncio.sleep(POLL_SECONDS)

    polling = asyncio.create_task(poll())
    try:
        yield polls
    finally:
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling


def hold_polls(worker: Worker, polls: list[Poll], *, at_least: int) -> None:
    """Check that a worker was never ready before or during a restore, and alive in every poll.

    It restores twice if it is assigned the killed worker's partitions later than the others.
    """
    lines = lines_of(worker)
    ends = [(datetime.fromisoformat(line["ts"]).timestamp(), line["seconds"]) for line in lines if line["event"] == "restored"]
    begins = [0.0, *(end - seconds for end, seconds in ends[1:])]  # the first restore counts from the beginning
    assert {poll.live for poll in polls} == {200}
    early = [p for p in polls if any(begin < p.sent and p.at < end for begin, (end, _) in zip(begins, ends, strict=True))]
    assert {poll.ready for poll in early} == {503}
    assert sum(any(reason.startswith(RESTORING) for reason in poll.reasons) for poll in early) >= at_least
