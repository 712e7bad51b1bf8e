"""`footfall bench backlog`: a day that waited in the topics, read after a stop by one worker: dense and sparse event time.

Dense is a busy day; sparse is a day of few events, with minutes or hours between two of a quiet topic. The worker is
started when all is published; its time counts from ready to all committed. Start at bench_backlog.
"""

import asyncio
import time
from collections.abc import Callable

from msgspec import Struct

from schemas.errors import RunError
from stream.bench.broker import Published, bench_settings, published, read_requests, run_settings
from stream.bench.engines import ENGINES, Running
from stream.bench.figures import Figures, spread
from stream.bench.latency import ready
from stream.bench.load import load
from stream.bench.window import until_committed
from stream.kafka.topic_admin import apply

POLL_SECONDS = 0.02
WATCH_SECONDS = 0.25
SKEW, HELD = "footfall_alignment_skew_seconds{", "footfall_alignment_held_records{"


class Run(Struct, frozen=True):
    """One reading: its seconds, the worker's figures after it, and the most that alignment was seen to hold."""

    seconds: float
    figures: Figures
    held_records: float
    skew_hours: float


async def bench_backlog(bootstrap: str, *, dense: int, sparse: int, repeats: int, progress: Callable[[str], None]) -> Figures:
    """Read a day of `dense` and a day of `sparse` events, `repeats` times each, interleaved.

    Raises:
        RunError: the worker ended, did not finish, or did not make the score requests of an offline fold.
    """
    counts = {"dense": dense, "sparse": sparse}
    runs: dict[str, list[Run]] = {name: [] for name in counts}
    for repeat in range(repeats):
        for name, count in counts.items():
            progress(f"backlog: {name}, repeat {repeat + 1} of {repeats}, publishing {count:,} events")
            day = load(count, shape="independent", seed=repeat + 1)
            async with published(bench_settings(bootstrap), day) as given:
                run = await _read(given)
            progress(f"backlog: {name}, {count / run.seconds:,.0f} events/s")
            runs[name].append(run)
    return {
        "benchmark": "backlog",
        "repeats": repeats,
        "days": {name: summary(counts[name], runs[name]) for name in counts},
    }


async def _read(given: Published) -> Run:
    settings = run_settings(given.settings)
    await apply(settings)
    async with Running(ENGINES["footfall"], settings) as worker:
        await ready(worker)
        started = time.monotonic()
        watching = asyncio.create_task(_watch(worker))
        try:
            await until_committed(worker, given.count, seconds=120 + given.count / 500, poll_seconds=POLL_SECONDS)
            seconds = time.monotonic() - started
        finally:
            watching.cancel()
        held, skew = await watching
        figures = chunk_figures(await asyncio.to_thread(worker.metrics), given.count)
    requests = await read_requests(settings)
    if requests.distinct != given.due:
        raise RunError(f"backlog: found {requests.distinct} distinct score requests, expected the {given.due} of a fold")
    return Run(seconds, figures, held, skew)


async def _watch(worker: Running) -> tuple[float, float]:
    """Look at what alignment holds until cancelled; return the most records of all topics and the largest skew in hours."""
    held = skew = 0.0
    try:
        while True:
            found = await asyncio.to_thread(worker.metrics)
            held, skew = max(held, held_records(found)), max(skew, skew_hours(found))
            await asyncio.sleep(WATCH_SECONDS)
    except asyncio.CancelledError:
        return held, skew


def held_records(metrics: dict[str, float]) -> float:
    """Sum the records that a worker's /metrics say alignment holds, over all topics."""
    return sum(value for name, value in metrics.items() if name.startswith(HELD))


def skew_hours(metrics: dict[str, float]) -> float:
    """Return how far the topic that is furthest behind in event time is, in hours; 0 where nothing is known."""
    return max((value for name, value in metrics.items() if name.startswith(SKEW)), default=0.0) / 3600


def chunk_figures(metrics: dict[str, float], events: int) -> Figures:
    """Turn a worker's /metrics after `events` events into chunks and flushes, and what lies in each."""
    chunks, flushes = metrics.get("footfall_chunks_total", 0.0), metrics.get("footfall_barrier_seconds_count", 0.0)
    return {
        "chunks": round(chunks),
        "flushes": round(flushes),
        "events_per_chunk": round(events / chunks, 1) if chunks else 0.0,
        "chunks_per_flush": round(chunks / flushes, 1) if flushes else 0.0,
    }


def summary(count: int, runs: list[Run]) -> Figures:
    """Sum up the readings of one day; chunks and what was held are of the last one."""
    return {
        "events": count,
        "events_per_second": spread([count / run.seconds for run in runs]),
        "seconds": spread([run.seconds for run in runs], 2),
        **runs[-1].figures,
        "most_held_records": round(runs[-1].held_records),
        "largest_skew_hours": round(runs[-1].skew_hours, 1),
    }
