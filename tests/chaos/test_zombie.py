"""Stop workers for longer than their session and resume them: the broker fences them, and rows stay exact."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stream.logs.event_log import LoggedEvent
from tests.chaos.broker import Broker
from tests.chaos.conftest import SESSION_SECONDS
from tests.chaos.oracles import examine
from tests.chaos.scene import Report, Scene, state_of
from tests.harness import Deployment, Worker, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
MID_BARRIER, MID_FOLD = "stop@P2.offsets:6", "stop@folded:6"
COUNT = 9000


@pytest.mark.parametrize("fault", [MID_BARRIER, MID_FOLD], ids=["mid-barrier", "mid-fold"])
async def test_a_zombie_is_fenced_and_overwrites_nothing(scene: Scene, events: list[LoggedEvent], fault: str) -> None:
    zombie, _ = await outlived(scene, events, fault)

    await scene.resumed(zombie)
    await scene.settled()

    await scene.exact(COUNT)


async def test_the_same_script_loses_rows_without_transactions(plain: Scene, events: list[LoggedEvent]) -> None:
    zombie, _ = await outlived(plain, events, "stop@P1.acked:2")
    before = len(await plain.deployment.read(plain.deployment.settings.changelog("features")))

    zombie.process.send_signal(signal.SIGCONT)
    await until("the zombie writes", lambda: writes(plain, before), seconds=20, worker=zombie)
    for worker in plain.deployment.workers:
        worker.process.kill()

    findings = await examine(plain.deployment)
    plain.report.faults["unfenced zombie"] += 1
    assert findings.wrong_rows
    assert findings.lost > 0


@pytest.mark.parametrize(
    "fault", [MID_BARRIER, pytest.param(MID_FOLD, marks=pytest.mark.long)], ids=["mid-barrier", "mid-fold"]
)
async def test_a_zombie_whose_successor_was_killed_is_fenced_and_a_third_owner_resumes(
    scene: Scene, events: list[LoggedEvent], fault: str
) -> None:
    zombie, successor = await outlived(scene, events, fault)

    scene.kill(successor)
    await scene.resumed(zombie)
    await scene.whole()
    scene.start()
    await scene.deployment.publish(events[COUNT : COUNT + 2000])
    await scene.settled()

    await scene.exact(COUNT + 2000)


async def test_one_worker_stopped_and_the_other_killed_at_once_lose_and_double_nothing(
    scene: Scene, events: list[LoggedEvent]
) -> None:
    stopped, killed = scene.start(MID_BARRIER), scene.start()
    async with scene.publishing(events[:COUNT], per_second=1000, unread=1000):
        await scene.committed(killed)
        await scene.fires(stopped)
        scene.kill(killed)
        taker = scene.start()
        await scene.committed(taker)
        await scene.resumed(stopped)
    await scene.settled()

    await scene.exact(COUNT)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_twenty_owners_stopped_one_after_the_other_leave_no_gap(scene: Scene, events: list[LoggedEvent]) -> None:
    await taken_over(scene, events, times=20)


async def test_a_stopped_worker_that_gets_its_partitions_back_restores_them_again(
    scene: Scene, events: list[LoggedEvent]
) -> None:
    first = scene.start()
    await scene.deployment.publish(events[:3000])
    await scene.settled()
    first.process.send_signal(signal.SIGSTOP)
    second = scene.start()
    await scene.deployment.publish(events[3000:6000])
    await scene.settled()
    assert state_of(first) == "T"
    await asyncio.to_thread(second.stop)

    first.process.send_signal(signal.SIGCONT)  # it has no pending writes, and there is no other worker
    scene.report.faults["stop"] += 1
    async with scene.kept(0) as workers:
        workers.append(first)
        await scene.deployment.publish(events[6000:9000])
        await scene.settled()

    await scene.exact(COUNT)


async def outlived(scene: Scene, events: list[LoggedEvent], fault: str) -> tuple[Worker, Worker]:
    """Stop a worker by a fault, and let another commit everything, including newer events of the same users."""
    third = COUNT // 3
    zombie = scene.start(fault)
    await until("the worker is ready", zombie.ready, seconds=30, worker=zombie)
    async with scene.publishing(events[:third], per_second=third / 3):
        await scene.fires(zombie)
    successor = scene.start()
    await scene.deployment.publish(events[third:COUNT])
    await scene.settled()
    assert state_of(zombie) == "T"
    return zombie, successor


async def taken_over(scene: Scene, events: list[LoggedEvent], *, times: int) -> None:
    async with scene.publishing(events, per_second=len(events) / 20 / times):
        for number in range(times):
            stopped = scene.start(f"{MID_BARRIER if number % 2 else MID_FOLD}")
            await scene.fires(stopped)
            taker = scene.start()
            await scene.committed(taker)
            await scene.resumed(stopped)
            scene.kill(taker)
        scene.start()
    await scene.settled()

    await scene.exact(len(events))


async def writes(scene: Scene, before: int) -> bool:
    return len(await scene.deployment.read(scene.deployment.settings.changelog("features"))) > before


@pytest.fixture
async def plain(broker: Broker, report: Report, tmp_path: Path) -> AsyncIterator[Scene]:
    deployment = Deployment(broker.address, tmp_path, session_timeout_seconds=SESSION_SECONDS, transactions=False)
    await deployment.create_topics()
    yield Scene(deployment, report, "plain")
    deployment.stop()
