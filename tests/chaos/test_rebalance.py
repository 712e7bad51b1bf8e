"""Make workers join and leave repeatedly: every event is applied once, and commits continue in between."""

import asyncio
import time

import pytest

from stream.logs.event_log import LoggedEvent
from tests.chaos.scene import COMMITTED, Scene
from tests.chaos.test_restore import polled
from tests.harness import until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
NAME = "FOOTFALL_INSTANCE_ID"  # makes a static member
SESSION_SECONDS = 20.0


@pytest.mark.long
async def test_ten_joins_and_leaves_change_nothing(scene: Scene, events: list[LoggedEvent]) -> None:
    await stormed(scene, events, times=10, seconds=8.0)


@pytest.mark.long
async def test_a_static_member_killed_and_back_within_its_session_moves_no_partition(
    scene: Scene, events: list[LoggedEvent]
) -> None:
    named = [{"FOOTFALL_SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS), NAME: f"member-{number}"} for number in range(2)]
    stays, killed = (scene.start(**names) for names in named)
    for worker in (stays, killed):
        await until("two workers are ready", worker.ready, seconds=30, worker=worker)
    async with scene.publishing(events[:6000], per_second=500):
        for worker in (stays, killed):
            await scene.committed(worker)
        before = killed.metric(COMMITTED)
        scene.kill(killed)
        at = time.monotonic()
        back = scene.start(**named[1])
        async with polled(stays) as polls:
            await scene.committed(back, more_than=round(before) + 200)
        seconds = time.monotonic() - at
    await scene.settled()

    assert {poll.ready for poll in polls} == {200}, "the other worker must not notice"
    assert seconds < SESSION_SECONDS, "it got its partitions back within its session"
    await scene.exact(6000)


async def stormed(scene: Scene, events: list[LoggedEvent], *, times: int, seconds: float) -> None:
    async with scene.kept(2) as workers:
        for worker in list(workers):
            await until("two workers are ready", worker.ready, seconds=30, worker=worker)
        async with scene.publishing(events, per_second=len(events) / times / (seconds + 5)):
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
