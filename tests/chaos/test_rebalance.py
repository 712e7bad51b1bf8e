"""Make workers join and leave repeatedly: every event is applied once, and commits continue in between."""

import asyncio
import time

import pytest

from models.features.spec import KINDS
from stream.logs.event_log import LoggedEvent
from tests.chaos.group_guest import Guest
from tests.chaos.scene import COMMITTED, Scene
from tests.chaos.test_restore import polled
from tests.harness import until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
NAME = "FOOTFALL_INSTANCE_ID"  # makes a static member
SESSION_SECONDS = 60.0  # longer than a restart takes


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


@pytest.mark.parametrize("visits", [5, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(1200)])])
async def test_each_join_and_leave_keeps_totals_and_dead_letters_exact(
    scene: Scene, events: list[LoggedEvent], visits: int
) -> None:
    workers = [scene.start() for _ in range(2)]
    for worker in workers:
        await until("two workers are ready", worker.ready, seconds=60, worker=worker)
    guest = Guest(scene.deployment, (*KINDS, "review-sentiment"))
    dirty = events[: max(3000, 120 * visits)]
    async with scene.publishing(dirty, per_second=50, unread=2000):
        for _ in range(visits):
            before = sum(worker.metric(COMMITTED) for worker in workers)
            await guest.visit()
            scene.report.faults["guest"] += 1
            await until(
                "the workers commit again",
                lambda before=before: sum(worker.metric(COMMITTED) for worker in workers) > before,
                seconds=60,
                worker=workers[0],
            )
    await scene.settled()

    assert guest.generations[-1] - guest.generations[0] >= visits - 1, "each visit is a rebalance, or two"
    found = await scene.exact(len(dirty))  # also compares totals with the fold at each commit
    letters = [
        (record.topic, dict(record.headers)["__streams.errors.partition"], dict(record.headers)["__streams.errors.offset"])
        for kind in KINDS
        for record in await scene.deployment.read(scene.deployment.topic(f"{kind}.dlq"))
    ]
    _, totals = await scene.deployment.committed("features")
    assert len(letters) == len(set(letters)) == totals.dead_lettered > 0, "no dead letter comes twice"
    assert totals.duplicate_dropped > 0 and totals.late_dropped > 0 and totals.replay_skipped == 0, found


async def stormed(scene: Scene, events: list[LoggedEvent], *, times: int, seconds: float) -> None:
    async with scene.kept(2) as workers:
        for worker in list(workers):
            await until("two workers are ready", worker.ready, seconds=30, worker=worker)
        async with scene.publishing(events, per_second=len(events) / times / (4 * (seconds + 5))):
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
