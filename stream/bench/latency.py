"""Measure latency from an event's scheduled send time to the receipt of its score request (`footfall bench latency`).

The load is open: a sender process follows a fixed schedule and never waits for a response. Every latency counts from the
scheduled time, so neither a slow worker nor a late sender hides waiting (no coordinated omission). A request is received when
our own consumer returns it. Start at bench_latency.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aiokafka.structs import TopicPartition

from schemas.errors import RunError
from stream.bench.broker import bench_settings, decode_request, delete_topics, run_settings
from stream.bench.engines import ENGINES, ROOT, Running
from stream.bench.figures import Figures, histogram, percentiles
from stream.bench.load import Load, Shape, load
from stream.bench.window import machine_seconds
from stream.kafka.clients import plain_consumer
from stream.kafka.topic_admin import apply
from stream.operate.child_processes import die_with_parent, end_child
from stream.operate.supervisor import environment_of
from stream.process.settings import Settings

START_SECONDS = 60.0
END_SECONDS = 20.0  # after the last event is due; a score request after that counts as missing


class Used(NamedTuple):
    """CPU seconds that the worker and the whole machine had used at a time."""

    at: float
    worker: float
    machine: float


async def bench_latency(
    bootstrap: str,
    *,
    rate: float,
    seconds: float,
    warm_up_seconds: float,
    shape: Shape,
    barrier_ms: int,
    progress: Callable[[str], None],
) -> Figures:
    """Send `rate` events/s for the warm-up and `seconds`, and return the latencies of the latter.

    Raises:
        RunError: the worker or the sender exited, or the worker was not ready in time.
    """
    count = round(rate * (warm_up_seconds + seconds))
    events = load(count, shape=shape)
    settings = bench_settings(bootstrap)
    await apply(settings)
    settings = run_settings(settings, barrier_ms=barrier_ms)
    await apply(settings)
    try:
        async with Running(ENGINES["footfall"], settings) as worker:
            await ready(worker)
            progress(f"latency: {rate:,.0f} events/s for {warm_up_seconds:.0f} + {seconds:.0f} s")
            received, started, late, cores = await _receive(settings, worker, events, rate, shape)
    finally:
        await delete_topics(settings)
    positions = events.positions()
    worker_cores, machine_cores = cores_between(cores, started + warm_up_seconds, started + count / rate)
    first = warm_up_seconds * rate
    latencies = [
        (at - started - place / rate) * 1000 for event_id, at in received.items() if (place := positions[event_id]) >= first
    ]
    return {
        "benchmark": "latency",
        "load": shape,
        "rate": round(rate),
        "seconds": seconds,
        "warm_up_seconds": warm_up_seconds,
        "barrier_ms": barrier_ms,
        "events": count,
        "latency_ms": percentiles(latencies),
        "sender_late_ms": late,
        "worker_cores": worker_cores,
        "machine_cores": machine_cores,
        "histogram_ms": histogram(latencies),
    }


def cores_between(used: Sequence[Used], first: float, last: float) -> tuple[float, float]:
    """Return the mean busy cores of the worker and of the machine between two times; 0 without samples."""
    within = [sample for sample in used if first <= sample.at <= last]
    if len(within) < 2 or (passed := within[-1].at - within[0].at) <= 0:
        return 0.0, 0.0
    worker, machine = (within[-1].worker - within[0].worker) / passed, (within[-1].machine - within[0].machine) / passed
    return round(worker, 2), round(machine, 2)


async def ready(worker: Running, seconds: float = START_SECONDS) -> float:
    """Wait until /readyz answers 200 and return the seconds that took.

    Raises:
        RunError: the worker exited, or is not ready in time.
    """
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        if worker.process.poll() is not None:
            raise RunError(f"the worker exited with {worker.process.returncode}: {worker.last_log_lines()}")
        if await asyncio.to_thread(worker.ready):
            return time.monotonic() - started
        await asyncio.sleep(0.02)
    raise RunError(f"the worker was not ready within {seconds:.0f} s: {worker.last_log_lines()}")


async def _receive(
    settings: Settings, worker: Running, events: Load, rate: float, shape: Shape
) -> tuple[dict[str, float], float, Figures, list[Used]]:
    """Run the sender and read score requests.

    Return when each event's request arrived, when sending began, how late the sender was, and CPU use over time.
    """
    consumer = plain_consumer(settings, auto_offset_reset="earliest")
    await consumer.start()
    order = {"seed": events.seed, "count": events.count, "shape": shape, "rate": rate}
    sender = subprocess.Popen(
        [sys.executable, "-m", "stream.bench.sender", json.dumps(order)],
        env=environment_of(settings, PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent(),  # noqa: PLW1509, the child only calls prctl
    )
    received: dict[str, float] = {}
    used: list[Used] = []
    try:
        tps = [TopicPartition(settings.topics()["score-request"].name, n) for n in range(settings.partitions or 1)]
        consumer.assign(tps)
        report = asyncio.create_task(asyncio.to_thread(sender.stdout.read))  # type: ignore[union-attr]
        deadline = time.monotonic() + START_SECONDS + events.count / rate + END_SECONDS
        while time.monotonic() < deadline:
            batches = await consumer.getmany(timeout_ms=200)
            now = time.time()
            used.append(Used(now, worker.cpu_seconds(), machine_seconds()))
            for batch in batches.values():
                for record in batch:
                    received.setdefault(decode_request(record.value).event_id, now)
            if report.done() and not batches and await _caught_up(worker, events.count):
                break
        else:
            raise RunError(f"latency: the worker did not fold the load in time: {worker.last_log_lines()}")
        sent = json.loads(await report)
        return received, sent["started"], sent["late_ms"], used
    finally:
        end_child(sender, 1.0)
        await consumer.stop()


async def _caught_up(worker: Running, count: int) -> bool:
    return await worker.committed() >= count
