"""Follow partitions as a standby: the owner is not fenced, and a takeover reads only the rest of the changelog."""

import asyncio

import pytest

from stream.logs.event_log import LoggedEvent
from tests.chaos.scene import Scene
from tests.chaos.test_restore import lines_of
from tests.harness import Worker, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
STANDBY = {"FOOTFALL_STANDBYS": "1"}


async def test_a_killed_owners_partitions_are_taken_over_from_the_standby(scene: Scene, events: list[LoggedEvent]) -> None:
    workers = [scene.start(**STANDBY) for _ in range(2)]
    for worker in workers:
        await until("two workers are ready", worker.ready, seconds=60, worker=worker)
    await scene.deployment.publish(events[:6000])
    await scene.settled()
    for worker in workers:
        await until("standbys follow", lambda worker=worker: follows(worker), seconds=60, worker=worker)
    before = [worker.metric('footfall_records_total{outcome="in"}') for worker in workers]
    async with scene.publishing(events[6000:9000], per_second=500):
        for worker, count in zip(workers, before, strict=True):  # a standby that fenced its owner would end it
            await scene.committed(worker, more_than=round(count))
        scene.kill(workers[0])
        await until("the other restores", lambda: len(restored(workers[1])) > 1, seconds=60, worker=workers[1])
    await scene.settled()

    taken = restored(workers[1])[-1]
    rows, _ = await scene.deployment.committed("features")
    assert taken["from_standby"] == taken["partitions"] and taken["partitions"]
    assert taken["changelog_records"] < len(rows) / 2, "only what was written last is read"
    assert workers[1].metric("footfall_standby_users") == 0, "no third worker: nothing is left to follow"
    await scene.exact(9000)


async def test_a_standby_that_gets_its_partition_by_a_planned_stop_is_exact_through_ten_moves(
    scene: Scene, events: list[LoggedEvent]
) -> None:
    stays = scene.start(**STANDBY)
    await until("it is ready", stays.ready, seconds=60, worker=stays)
    async with scene.publishing(events[:8000], per_second=400, unread=2000):
        for number in range(10):
            other = scene.start(**STANDBY)
            await until("the other is ready", other.ready, seconds=60, worker=other)
            await until("both follow", lambda other=other: follows(stays) and follows(other), seconds=60, worker=other)
            if number % 2:
                scene.kill(other)
            else:
                assert await asyncio.to_thread(other.stop) == 0, other.tail()
            await until("one is left", lambda: stays.metric("footfall_standby_partitions") == 0, seconds=60, worker=stays)
            await until("it is ready again", stays.ready, seconds=60, worker=stays)
    await scene.settled()
    assert any(line["from_standby"] for line in restored(stays))
    await scene.exact(8000)


def follows(worker: Worker) -> bool:
    """Return whether a worker follows partitions and has read their changelogs to the end."""
    assert worker.process.poll() is None, worker.tail()
    return worker.metric("footfall_standby_users") > 0 and worker.metric("footfall_standby_lag_records") == 0


def restored(worker: Worker) -> list[dict[str, object]]:
    """Return the restores that a worker logged."""
    return [line for line in lines_of(worker) if line["event"] == "restored"]
