"""Send more than a worker or its broker can take: backpressure slows the fold, and pending data stays within limits."""

import asyncio

import pytest

from models.features.spec import KINDS
from stream.bench.load import load
from stream.logs.event_log import LoggedEvent
from tests.chaos.broker import Broker
from tests.chaos.proxy import Proxy
from tests.chaos.scene import COMMITTED, Scene, resident_bytes
from tests.harness import Deployment, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
LIMIT = 300
CAPACITY, OVERLOAD, OVERLOAD_SECONDS = 2000, 3, 20  # records/s; the input is OVERLOAD times that for OVERLOAD_SECONDS
GROWTH_BYTES = 200 << 20
SLOW = f"""
import time
from stream.worker import agents
sound = agents.fold_guarded
def slow(fold, rows, totals, undo, records, now_ms):
    time.sleep(len(records) / {CAPACITY})
    return sound(fold, rows, totals, undo, records, now_ms)
agents.fold_guarded = slow
from stream.cli.main import main
main()
"""


@pytest.mark.long
async def test_a_slow_broker_makes_the_fold_wait_and_no_more_is_pending_than_the_limit(
    scene: Scene, broker: Broker, events: list[LoggedEvent]
) -> None:
    async with Proxy(broker.proxy_port, broker.behind_port) as proxy:
        limits = {"FOOTFALL_MAX_PENDING_EVENTS": str(LIMIT), "FOOTFALL_MAX_CHUNK_EVENTS": "50"}
        worker = scene.start(KAFKA_BOOTSTRAP_SERVERS=broker.proxied, **limits)
        await until("the worker is ready", worker.ready, seconds=30, worker=worker)
        proxy.delay_seconds = 0.25  # round trip: half a second
        await scene.deployment.publish(events[:2000])
        scene.report.faults["slow broker"] += 1
        sizes = []
        for _ in range(4):
            before = worker.metric(COMMITTED)
            await scene.committed(worker, more_than=round(before))
            sizes.append(worker.metric(COMMITTED) - before)
        proxy.delay_seconds = 0.0
        await scene.settled()
        assert await asyncio.to_thread(worker.stop) == 0, worker.tail()

    findings = await scene.exact(2000)
    assert findings.commits >= 2000 / (LIMIT + 50)
    assert max(sizes) <= 2 * (LIMIT + 50), "the rows of one barrier, and of the previous one while in flight"


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_three_times_what_a_worker_can_take_costs_bounded_memory_and_no_rebalance(scene: Scene) -> None:
    count = CAPACITY * OVERLOAD * OVERLOAD_SECONDS
    events = list(load(count + CAPACITY * 20, users=20_000, seed=5).events())
    worker = scene.deployment.start("features", program=SLOW)
    await until("the worker is ready", worker.ready, seconds=30, worker=worker)
    base, most = resident_bytes(worker), 0

    async with scene.publishing(events[:count], per_second=CAPACITY * OVERLOAD, unread=None) as published:
        while not published.done():
            most = max(most, resident_bytes(worker))
            await asyncio.sleep(0.5)
        behind = await scene.deployment.lag("features", KINDS)
    scene.report.faults["overload"] += 1
    async with scene.publishing(events[count:], per_second=CAPACITY / 2):
        await until("it catches up", lambda: caught_up(scene.deployment), seconds=240, worker=worker)
        most = max(most, resident_bytes(worker))

    assert behind > count / 2, "the input must exceed the worker's capacity"
    assert most - base <= GROWTH_BYTES, f"{(most - base) >> 20} MB"
    assert worker.log.read_text(errors="replace").count('"event": "restored"') == 1, "no rebalance"
    await scene.settled()
    assert await asyncio.to_thread(worker.stop) == 0, worker.tail()
    await scene.exact(len(events))


async def caught_up(deployment: Deployment) -> bool:
    return await deployment.lag("features", KINDS) < CAPACITY
