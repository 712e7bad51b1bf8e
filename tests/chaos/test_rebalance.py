"""Workers that join and leave again and again: every event once, and commits go on between."""

import asyncio

import pytest

from stream.event_log import LoggedEvent
from tests.chaos.scene import Scene
from tests.harness import until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


async def test_a_worker_that_comes_and_goes_changes_nothing(scene: Scene, events: list[LoggedEvent]) -> None:
    await stormed(scene, events[:16_000], times=3, seconds=3.0)


@pytest.mark.long
async def test_ten_joins_and_leaves_change_nothing(scene: Scene, events: list[LoggedEvent]) -> None:
    await stormed(scene, events, times=10, seconds=8.0)


async def stormed(scene: Scene, events: list[LoggedEvent], *, times: int, seconds: float) -> None:
    async with scene.kept(2) as workers:
        for worker in list(workers):
            await until("two workers are ready", worker.ready, seconds=30, worker=worker)
        async with scene.publishing(events, per_second=len(events) / times / (seconds + 15)):
            for number in range(times):
                before = (await scene.deployment.committed("features"))[1].events_in
                third = scene.start()
                await until("the third worker shares the load", third.ready, seconds=30, worker=third)
                await asyncio.sleep(scene.random.uniform(0.5, 1.0) * seconds)
                if number % 2:
                    scene.kill(third)
                else:
                    assert await asyncio.to_thread(third.stop) == 0, third.tail()
                    scene.report.faults["SIGTERM"] += 1
                assert (await scene.deployment.committed("features"))[1].events_in > before
        await scene.settled()
    for worker in workers:
        assert await asyncio.to_thread(worker.stop) == 0, worker.tail()

    await scene.exact(len(events))
