"""`footfall bench scaling`: events/s of one and of two workers that share eight partitions, in one call.

Start at bench_scaling.
"""

import contextlib
from collections.abc import Callable

from stream.admin import apply
from stream.bench.broker import bench_settings, published, run_settings
from stream.bench.engines import ENGINES, Running
from stream.bench.figures import Figures, spread
from stream.bench.load import Shape, load
from stream.bench.window import Window, measure

PARTITIONS = 8
WORKERS = (1, 2)


async def bench_scaling(bootstrap: str, *, events: int, shape: Shape, repeats: int, progress: Callable[[str], None]) -> Figures:
    """Measure one worker, then two, on each repeat's backlog; the workers have joined before there is anything to read.

    Raises:
        EngineError: a worker ended, or they did not finish in time.
    """
    windows: dict[int, list[Window]] = {workers: [] for workers in WORKERS}
    for repeat in range(repeats):
        for workers in WORKERS:
            async with published(
                bench_settings(bootstrap, partitions=PARTITIONS), load(events, shape=shape, seed=repeat + 1)
            ) as given:
                settings = run_settings(given.settings)
                await apply(settings)
                async with contextlib.AsyncExitStack() as stack:
                    running = [await stack.enter_async_context(Running(ENGINES["footfall"], settings)) for _ in range(workers)]
                    window = await measure(running, events, seconds=90 + events / 500)
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
