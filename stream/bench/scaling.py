"""Measure events/s of one worker and of two workers that share eight partitions (`footfall bench scaling`).

The workers join on empty topics and are paused (SIGSTOP) while the load is published, so that the rebalance is not
measured. Start at bench_scaling.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable

from schemas.errors import RunError
from stream.bench.broker import bench_settings, delete_topics, publish, run_settings
from stream.bench.engines import ENGINES, Running
from stream.bench.figures import Figures, spread
from stream.bench.load import Load, Shape, load
from stream.bench.window import Window, measure
from stream.kafka.topic_admin import apply

PARTITIONS = 8
WORKERS = (1, 2)
LAG = "footfall_consumer_lag_records{"
JOIN_SECONDS = 90.0
SESSION_TIMEOUT_SECONDS = 120.0  # longer than publishing takes, while the workers are paused


async def bench_scaling(bootstrap: str, *, events: int, shape: Shape, repeats: int, progress: Callable[[str], None]) -> Figures:
    """Measure one worker, then two, on each repeat's backlog, after they have joined the group.

    Raises:
        RunError: a worker exited, or they did not finish in time.
    """
    windows: dict[int, list[Window]] = {workers: [] for workers in WORKERS}
    for repeat in range(repeats):
        for workers in WORKERS:
            window = await _run(bootstrap, workers, load(events, shape=shape, seed=repeat + 1))
            windows[workers].append(window)
            progress(f"scaling: run {repeat + 1} of {repeats}, {workers} workers, {window.events_per_second:,.0f} events/s")
    found = {
        str(workers): {
            "events_per_second": spread([window.events_per_second for window in windows[workers]]),
            "worker_cores": spread([window.worker_cores for window in windows[workers]], 2),
            "machine_cores": spread([window.machine_cores for window in windows[workers]], 2),
        }
        for workers in WORKERS
    }
    one, two = (found[str(workers)]["events_per_second"]["median"] for workers in WORKERS)
    return {
        "benchmark": "scaling",
        "load": shape,
        "repeats": repeats,
        "events": events,
        "partitions": PARTITIONS,
        "workers": found,
        "ratio": round(two / one, 2),
    }


async def _run(bootstrap: str, workers: int, events: Load) -> Window:
    settings = bench_settings(bootstrap, partitions=PARTITIONS)
    await apply(settings)
    given = run_settings(settings, session_timeout_seconds=SESSION_TIMEOUT_SECONDS)
    await apply(given)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(delete_topics, settings)
        running = [await stack.enter_async_context(Running(ENGINES["footfall"], given)) for _ in range(workers)]
        await _assigned_equally(running)
        for worker in running:
            worker.process.send_signal(signal.SIGSTOP)
        await publish(settings, events.events())
        for worker in running:
            worker.process.send_signal(signal.SIGCONT)
        return await measure(running, events.count, seconds=90 + events.count / 500)


async def _assigned_equally(running: list[Running]) -> None:
    """Wait until each worker has an equal share of the partitions."""
    deadline, owned = time.monotonic() + JOIN_SECONDS, list[int]()
    while time.monotonic() < deadline:
        owned = [len(owned_partitions(await asyncio.to_thread(worker.metrics))) for worker in running]
        if owned == [PARTITIONS // len(running)] * len(running):
            return
        await asyncio.sleep(0.2)
    raise RunError(f"found {owned} partitions per worker after {JOIN_SECONDS:.0f} s, expected equal shares of {PARTITIONS}")


def owned_partitions(metrics: dict[str, float]) -> set[int]:
    """Return the partition numbers for which a worker's /metrics report a lag."""
    return {int(name.rsplit('partition="', 1)[1].split('"')[0]) for name in metrics if name.startswith(LAG)}
