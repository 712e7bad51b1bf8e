"""Kill -9 the features role at random and at every point of the protocol: no event is lost or counted twice."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.process.fault_points import POINTS
from tests.chaos.scene import Scene

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
ONCE = ("P4.fenced", "P5.restored", "P1.acked", "P2.acked")  # the other points are reached once per partition


@pytest.mark.parametrize("points", [POINTS[:5], POINTS[5:]], ids=["until-outputs", "in-the-transaction"])
async def test_a_kill_at_every_point_of_the_protocol_leaves_whole_commits_and_exact_rows(
    scene: Scene, events: list[LoggedEvent], points: Sequence[str]
) -> None:
    sent = 0
    for point in points:
        await scene.deployment.publish(events[sent : sent + 1500])
        sent += 1500
        worker = scene.start(f"kill@{point}:{1 if point in ONCE else 2}")
        await scene.fires(worker)
        await scene.whole()
    scene.start()
    await scene.settled()

    await scene.exact(sent)


async def test_kills_at_random_moments_lose_and_double_nothing(scene: Scene, events: list[LoggedEvent]) -> None:
    await killed_at_random(scene, events[:16_000], times=3, per_second=800)


@pytest.mark.long
async def test_five_kills_over_50_000_events_lose_and_double_nothing(scene: Scene, events: list[LoggedEvent]) -> None:
    await killed_at_random(scene, events, times=5, per_second=900)


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_twenty_kills_over_a_million_events_lose_and_double_nothing(scene: Scene) -> None:
    config = SimulatorConfig(seed=8, shoppers=11_500, days=60, late=0.02, duplicates=0.02, malformed=0.01)
    events = [event.logged for event in simulate(config)][:1_000_000]
    assert len(events) == 1_000_000
    await killed_at_random(scene, events, times=20, per_second=5000)


async def test_both_workers_killed_at_once_lose_and_double_nothing(scene: Scene, events: list[LoggedEvent]) -> None:
    workers = [scene.start(), scene.start()]
    async with scene.publishing(events[:10_000], per_second=500, unread=1000):
        for worker in workers:
            await scene.committed(worker)
        for worker in workers:
            scene.kill(worker)
        await scene.whole()
        scene.start()
    await scene.settled()

    await scene.exact(10_000)


async def test_sigterm_of_a_busy_worker_exits_with_0_in_time_and_nothing_is_repeated(
    scene: Scene, events: list[LoggedEvent]
) -> None:
    took = []
    async with scene.publishing(events[:16_000], per_second=1000, unread=1000):
        for number in range(2):
            worker = scene.start()
            before = await committed_events(scene)
            await scene.committed(worker, more_than=before + scene.random.randrange(1, 2000))
            signalled = time.monotonic()
            code = await asyncio.to_thread(worker.stop)
            took.append(round(time.monotonic() - signalled, 2))
            scene.report.faults["SIGTERM"] += 1
            assert code == 0, f"stop {number}: {worker.tail()}"
            assert await committed_events(scene) < 16_000, "it must be stopped before it has finished"
            await scene.whole()
        scene.start()
    await scene.settled()

    findings = await scene.exact(16_000)
    assert findings.doubled_ids == 0
    scene.report.sigterm_seconds += took
    assert max(took) <= 10


async def killed_at_random(scene: Scene, events: list[LoggedEvent], *, times: int, per_second: int) -> None:
    async with scene.publishing(events, per_second=per_second, unread=2 * per_second):
        for _ in range(times):
            before = await committed_events(scene)
            worker = scene.start()
            await scene.committed(worker, more_than=before)
            await asyncio.sleep(scene.random.uniform(0.1, 1.5))
            scene.kill(worker)
        assert await committed_events(scene) < len(events), "the last kill must be in mid-stream"
        scene.start()
    await scene.settled(seconds=120)

    findings = await scene.exact(len(events))
    assert findings.commits > times


async def committed_events(scene: Scene) -> int:
    return (await scene.deployment.committed("features"))[1].events_in
