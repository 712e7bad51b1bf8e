"""Stall, kill and disconnect the broker: workers wait or restart, and commits are never ahead of their rows."""

import asyncio

import pytest

from stream.logs.event_log import LoggedEvent
from tests.chaos.broker import Broker
from tests.chaos.conftest import SESSION_SECONDS
from tests.chaos.proxy import Proxy
from tests.chaos.scene import COMMITTED, Scene
from tests.harness import until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
STALL_SECONDS = 2.5
READY_AFTER_BROKER_SECONDS = 15.0
ERRORS_PER_SECOND = 5


async def test_a_kill_right_after_a_stalled_broker_finds_no_commit_ahead_of_its_rows(
    scene: Scene, broker: Broker, events: list[LoggedEvent]
) -> None:
    await stalled(scene, broker, events[:10_000], kills=1, per_second=500)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_hundred_commits_around_stalls_of_the_broker_are_never_ahead_of_their_rows(
    scene: Scene, broker: Broker, events: list[LoggedEvent]
) -> None:
    commits = await stalled(scene, broker, events, kills=10, per_second=60)
    assert commits >= 100


@pytest.mark.parametrize("role", ["features", pytest.param("scorer", marks=pytest.mark.long)])
async def test_sigterm_while_the_broker_stalls_the_join_exits_with_0(scene: Scene, broker: Broker, role: str) -> None:
    worker = scene.deployment.start(role)
    await until("it joins", lambda: '"event": "started"' in worker.tail(), seconds=60, worker=worker)
    broker.stall()
    try:
        assert await asyncio.to_thread(worker.stop) == 0, worker.tail()
    finally:
        broker.resume()


async def test_a_worker_is_not_ready_while_the_broker_stalls_and_ready_again_after(scene: Scene, broker: Broker) -> None:
    worker = scene.deployment.start("triggers")
    await until("the worker is ready", worker.ready, seconds=30, worker=worker)
    broker.stall()
    try:
        await until("it says so", lambda: "no heartbeat" in worker.get("/readyz")[1], seconds=10, worker=worker)
    finally:
        broker.resume()
    await until("it is ready again", worker.ready, seconds=READY_AFTER_BROKER_SECONDS, worker=worker)


@pytest.mark.long
async def test_a_broker_killed_three_times_loses_nothing(scene: Scene, broker: Broker, events: list[LoggedEvent]) -> None:
    await broker_killed(scene, broker, events, times=3)


async def test_connections_reset_every_second_change_nothing(scene: Scene, broker: Broker, events: list[LoggedEvent]) -> None:
    async with Proxy(broker.proxy_port, broker.behind_port) as proxy:
        async with scene.kept(1, KAFKA_BOOTSTRAP_SERVERS=broker.proxied) as workers:
            await until("the worker is ready", workers[0].ready, seconds=30, worker=workers[0])
            async with scene.publishing(events[:6000], per_second=1000) as published:
                while not published.done():
                    await asyncio.sleep(scene.random.uniform(0.7, 1.3))
                    scene.report.faults["TCP reset"] += proxy.reset()
            await scene.settled()
        assert proxy.resets >= 10
        for worker in scene.deployment.workers:
            errors = worker.log.read_text(errors="replace").count('"level": "error"')
            assert errors <= ERRORS_PER_SECOND * 15, worker.tail()

        await asyncio.to_thread(workers[0].stop)
        await scene.exact(6000)


async def test_a_link_that_swallows_everything_for_longer_than_a_session_changes_nothing(
    scene: Scene, broker: Broker, events: list[LoggedEvent]
) -> None:
    await swallowed(scene, broker, events[:10_000], seconds=2 * SESSION_SECONDS, per_second=600)


@pytest.mark.long
async def test_a_link_that_swallows_everything_for_half_a_minute_changes_nothing(
    scene: Scene, broker: Broker, events: list[LoggedEvent]
) -> None:
    await swallowed(scene, broker, events, seconds=30, per_second=700)


async def stalled(scene: Scene, broker: Broker, events: list[LoggedEvent], *, kills: int, per_second: float) -> int:
    async with scene.publishing(events, per_second=per_second):
        for _ in range(kills):
            worker = scene.start()
            await scene.committed(worker)
            for _ in range(3):
                broker.stall()
                await asyncio.sleep(STALL_SECONDS)
                broker.resume()
                scene.report.faults["broker stall"] += 1
                await scene.committed(worker, more_than=round(worker.metric(COMMITTED) + per_second))  # several barriers
            scene.kill(worker)
            await scene.whole()
        scene.start()
    await scene.settled(seconds=120)

    return (await scene.exact(len(events))).commits


async def broker_killed(scene: Scene, broker: Broker, events: list[LoggedEvent], *, times: int) -> None:
    async with scene.kept(1) as workers:
        await until("the worker is ready", workers[0].ready, seconds=30, worker=workers[0])
        async with scene.publishing(events, per_second=150):
            for _ in range(times):
                await scene.committed(workers[0])
                broker.kill()
                scene.report.faults["broker kill -9"] += 1
                await asyncio.to_thread(broker.up)
                await until(
                    "a worker is ready again",
                    lambda: workers[0].get("/readyz")[0] == 200,
                    seconds=READY_AFTER_BROKER_SECONDS,
                    worker=workers[0],
                )
        await scene.settled()
    await asyncio.to_thread(workers[0].stop)

    await scene.exact(len(events))


async def swallowed(scene: Scene, broker: Broker, events: list[LoggedEvent], *, seconds: float, per_second: float) -> None:
    async with Proxy(broker.proxy_port, broker.behind_port) as proxy:
        async with scene.kept(1, KAFKA_BOOTSTRAP_SERVERS=broker.proxied) as workers:
            await until("the worker is ready", workers[0].ready, seconds=30, worker=workers[0])
            async with scene.publishing(events, per_second=per_second):
                await scene.committed(workers[0])
                proxy.swallow()
                await asyncio.sleep(seconds)
                proxy.heal()
                scene.report.faults["black hole"] += 1
                assert proxy.swallowed > 0
            await scene.settled(seconds=45)
        await asyncio.to_thread(workers[0].stop)
        await scene.exact(len(events))
