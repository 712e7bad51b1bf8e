"""Give workers instance ids: a restart moves no partition, and of two processes with one id, one ends with 78."""

import asyncio
import signal
import time

import pytest

from stream.logs.event_log import LoggedEvent
from tests.chaos.scene import Scene, state_of
from tests.chaos.test_restore import lines_of, polled
from tests.harness import Worker, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
SESSION_SECONDS = 60  # longer than any step below: no session ends by itself


def named(number: int, **more: str) -> dict[str, str]:
    """Return the settings of a static member."""
    return {"FOOTFALL_SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS), "FOOTFALL_INSTANCE_ID": f"member-{number}", **more}


async def test_of_two_processes_with_one_instance_id_the_paused_one_ends_with_78(
    scene: Scene, events: list[LoggedEvent]
) -> None:
    first = scene.start(**named(0))
    await until("the first is ready", first.ready, seconds=60, worker=first)
    await scene.deployment.publish(events[:1000])
    await scene.settled()
    first.process.send_signal(signal.SIGSTOP)
    await until("the first is stopped", lambda: state_of(first) == "T", seconds=20)

    second = scene.start(**named(0))
    await until("the second is ready", second.ready, seconds=60, worker=second)
    await scene.deployment.publish(events[1000:2000])
    await scene.settled()
    first.process.send_signal(signal.SIGCONT)
    await until("the first ends", lambda: first.process.poll() is not None, seconds=60)

    assert first.process.returncode == 78, first.tail()
    assert "setting instance_id: another process joined group" in first.tail()
    await scene.deployment.publish(events[2000:3000])
    await scene.settled()
    assert second.process.poll() is None, second.tail()
    await scene.exact(3000)


async def test_a_planned_stop_without_leaving_moves_no_partition_of_the_others(scene: Scene, events: list[LoggedEvent]) -> None:
    stays, stops = (scene.start(**named(number, FOOTFALL_LEAVE_ON_STOP="false")) for number in range(2))
    for worker in (stays, stops):
        await until("two workers are ready", worker.ready, seconds=60, worker=worker)
    restored = len(restores(stays))
    async with scene.publishing(events[:4000], per_second=300), polled(stays) as polls:
        assert await asyncio.to_thread(stops.stop) == 0, stops.tail()
        back = scene.start(**named(1, FOOTFALL_LEAVE_ON_STOP="false"))
        await until("the restarted worker is ready", back.ready, seconds=60, worker=back)
    await scene.settled()

    assert {poll.ready for poll in polls} == {200}, "the other worker must not notice"
    assert len(restores(stays)) == restored
    await scene.exact(4000)


async def test_a_planned_stop_of_a_static_member_leaves_the_group_by_default(scene: Scene, events: list[LoggedEvent]) -> None:
    stays, leaves = (scene.start(**named(number)) for number in range(2))
    for worker in (stays, leaves):
        await until("two workers are ready", worker.ready, seconds=60, worker=worker)
    await scene.deployment.publish(events[:1000])
    await scene.settled()

    assert await asyncio.to_thread(leaves.stop) == 0, leaves.tail()
    stopped = time.monotonic()
    await scene.deployment.publish(events[1000:2000])
    await scene.settled()

    assert time.monotonic() - stopped < SESSION_SECONDS, "the other took over before the session could end"
    await scene.exact(2000)


def restores(worker: Worker) -> list[object]:
    """Return the restores that a worker logged."""
    return [line for line in lines_of(worker) if line["event"] == "restored"]
