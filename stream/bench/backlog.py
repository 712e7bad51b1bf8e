"""Measure how fast one worker reads a day's backlog, with dense and with sparse event time (`footfall bench backlog`).

Dense is a busy day; sparse is a day of few events, with minutes or hours between two events of a quiet topic. The worker
starts after everything is published. Time counts from ready until everything is committed. Start at bench_backlog.
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
SAMPLE_SECONDS = 0.25
SKEW, HELD = "footfall_alignment_skew_seconds{", "footfall_alignment_held_records{"


class Run(Struct, frozen=True):
    """One run: its seconds, the worker's metrics after it, and the largest sampled alignment backlog and skew."""

    seconds: float
    figures: Figures
    held_records: float
    skew_hours: float


async def bench_backlog(bootstrap: str, *, dense: int, sparse: int, repeats: int, progress: Callable[[str], None]) -> Figures:
    """Read a day of `dense` and a day of `sparse` events, `repeats` times each, interleaved.

    Raises:
        RunError: the worker exited, did not finish, or did not send the score requests of an offline fold.
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
        sampling = asyncio.create_task(_sample(worker))
        try:
            await until_committed(worker, given.count, seconds=120 + given.count / 500, poll_seconds=POLL_SECONDS)
            seconds = time.monotonic() - started
        finally:
            sampling.cancel()
        held, skew = await sampling
        figures = chunk_figures(await asyncio.to_thread(worker.metrics), given.count)
    requests = await read_requests(settings)
    if requests.distinct != given.due:
        raise RunError(
            f"backlog: found {requests.distinct} distinct score requests, expected the {given.due} of an offline fold"
        )
    return Run(seconds, figures, held, skew)


async def _sample(worker: Running) -> tuple[float, float]:
    """Sample alignment until cancelled; return the most held records over all topics, and the largest skew in hours."""
    held = skew = 0.0
    try:
        while True:
            found = await asyncio.to_thread(worker.metrics)
            held, skew = max(held, held_records(found)), max(skew, skew_hours(found))
            await asyncio.sleep(SAMPLE_SECONDS)
    except asyncio.CancelledError:
        return held, skew


def held_records(metrics: dict[str, float]) -> float:
    """Sum the records that alignment holds over all topics, from a worker's /metrics."""
    return sum(value for name, value in metrics.items() if name.startswith(HELD))


def skew_hours(metrics: dict[str, float]) -> float:
    """Return the skew in hours of the topic furthest behind in event time; 0 without such metrics."""
    return max((value for name, value in metrics.items() if name.startswith(SKEW)), default=0.0) / 3600


def chunk_figures(metrics: dict[str, float], events: int) -> Figures:
    """Turn a worker's /metrics after `events` events into counts of chunks and flushes, and the mean size of each."""
    chunks, flushes = metrics.get("footfall_chunks_total", 0.0), metrics.get("footfall_barrier_seconds_count", 0.0)
    return {
        "chunks": round(chunks),
        "flushes": round(flushes),
        "events_per_chunk": round(events / chunks, 1) if chunks else 0.0,
        "chunks_per_flush": round(chunks / flushes, 1) if flushes else 0.0,
    }


def summary(count: int, runs: list[Run]) -> Figures:
    """Summarise the runs of one day; chunks, held records and skew are those of the last run."""
    return {
        "events": count,
        "events_per_second": spread([count / run.seconds for run in runs]),
        "seconds": spread([run.seconds for run in runs], 2),
        **runs[-1].figures,
        "most_held_records": round(runs[-1].held_records),
        "largest_skew_hours": round(runs[-1].skew_hours, 1),
    }
