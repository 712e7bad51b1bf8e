"""Measure events/s of the features role and of the same fold in other engines (`footfall bench features`).

Every engine first runs once unmeasured. Each repeat then runs every engine once on a fresh load. Last, Footfall runs with
several barrier intervals. For each, the benchmark measures rate, barrier cost, bytes written per event, and events to fold
again after a kill -9. Start at bench_features.
"""

import asyncio
from collections.abc import Callable, Sequence

from msgspec import Struct

from schemas.errors import RunError
from stream.bench.broker import Published, bench_settings, published, read_requests, run_settings
from stream.bench.engines import ENGINES, Engine, Running
from stream.bench.figures import Figures, spread
from stream.bench.load import Shape, load
from stream.bench.window import Window, measure, until_committed
from stream.kafka.topic_admin import apply
from stream.process.settings import Settings

WARM_UP_EVENTS = 2_000
RATE_EVENTS = 300_000
BARRIER_EVENTS = 100_000  # a minimum: several commits at any interval
KILLS = 2
SESSION_TIMEOUT_SECONDS = 6.0  # for runs that are killed: how soon the group admits the next process

Progress = Callable[[str], None]


class Run(Struct, frozen=True):
    """One measured run: its window, score requests per event (`due`), and a Footfall worker's barrier metrics."""

    window: Window
    due: float
    request_bytes: float
    barrier: Figures


async def bench_features(
    bootstrap: str,
    *,
    engines: Sequence[str],
    events: int,
    shape: Shape,
    repeats: int,
    barriers: Sequence[int],
    progress: Progress,
) -> Figures:
    """Compare engines, then measure Footfall at some barrier intervals (ms).

    Raises:
        RunError: an engine is not installed, exited, did not finish, or did not send the score requests of the fold.
    """
    chosen = [ENGINES[name] for name in engines]
    for engine in chosen:
        engine.command()
    counts = {engine.name: engine.events(events) for engine in chosen}
    runs: dict[str, list[Run]] = {engine.name: [] for engine in chosen}
    size = 0.0
    for engine in chosen:
        count = max(WARM_UP_EVENTS, counts[engine.name] // 10)
        progress(f"{engine.name}: warm-up of {count:,} events, not measured")
        async with published(bench_settings(bootstrap), load(count, shape=shape)) as given:
            await apply(settings := run_settings(given.settings))
            async with Running(engine, settings) as running:
                await until_committed(running, count, seconds=120)
    for repeat in range(repeats):
        for engine in chosen:
            title = f"{engine.name}: run {repeat + 1} of {repeats}"
            progress(f"{title}, publishing {counts[engine.name]:,} events")
            async with published(bench_settings(bootstrap), load(counts[engine.name], shape=shape, seed=repeat + 1)) as given:
                run = await _run(engine, given, run_settings(given.settings))
                size = given.event_bytes
            progress(f"{title}, {_line(run.window)}")
            runs[engine.name].append(run)
    found: Figures = {
        "benchmark": "features",
        "load": shape,
        "repeats": repeats,
        "event_bytes": round(size),
        "engines": {engine.name: _summary(engine, counts[engine.name], runs[engine.name]) for engine in chosen},
    }
    found["ratios"] = ratios(found["engines"])
    if barriers:
        found["barriers"] = await _barriers(bootstrap, barriers, max(BARRIER_EVENTS, events // 2), shape, repeats, progress)
    return found


async def footfall_rate(bootstrap: str, *, shape: Shape, progress: Progress, events: int = RATE_EVENTS) -> float:
    """Measure Footfall's worker once on `events` events and return its events/s."""
    progress(f"footfall: one run, publishing {events:,} events")
    async with published(bench_settings(bootstrap), load(events, shape=shape)) as given:
        run = await _run(ENGINES["footfall"], given, run_settings(given.settings))
    progress(f"footfall: {_line(run.window)}")
    return run.window.events_per_second


def ratios(engines: Figures) -> dict[str, float]:
    """Return Footfall's median rate divided by each other engine's; empty if Footfall did not run."""
    if "footfall" not in engines:
        return {}
    ours = engines["footfall"]["events_per_second"]["median"]
    return {
        name: round(ours / found["events_per_second"]["median"], 2) for name, found in engines.items() if name != "footfall"
    }


async def _run(engine: Engine, given: Published, settings: Settings) -> Run:
    await apply(settings)
    async with Running(engine, settings) as running:
        window = await measure([running], given.count, seconds=90 + given.count / 500)
        barrier = barrier_figures(await asyncio.to_thread(running.metrics), given.count)
    requests = await read_requests(settings)
    if requests.distinct != given.due:
        raise RunError(
            f"engine {engine.name}: found {requests.distinct} distinct score requests, expected the {given.due} of an "
            "offline fold: the engine did not do the same work"
        )
    return Run(window, given.due / given.count, requests.size_bytes / given.count, barrier)


def barrier_figures(metrics: dict[str, float], events: int) -> Figures:
    """Turn a worker's /metrics after `events` events into barrier figures; empty for an engine without them."""
    barriers = metrics.get("footfall_barrier_seconds_count", 0.0)
    if not barriers:
        return {}
    rows = metrics["footfall_rows_written_total"]
    written = metrics["footfall_row_bytes_written_total"]
    return {
        "barriers": round(barriers),
        "barrier_ms": round(metrics["footfall_barrier_seconds_sum"] / barriers * 1000, 1),
        "events_per_barrier": round(events / barriers),
        "rows_per_barrier": round(rows / barriers, 1),
        "rows_per_event": round(rows / events, 4),
        "row_bytes": round(written / rows),
        "row_bytes_per_event": round(written / events, 1),
    }


def _summary(engine: Engine, count: int, runs: Sequence[Run]) -> Figures:
    return {
        "version": engine.version(),
        "guarantee": engine.guarantee,
        "job": engine.job,
        "events": count,
        "events_per_second": spread([run.window.events_per_second for run in runs]),
        "due": round(sum(run.due for run in runs) / len(runs), 4),
        "request_bytes_per_event": round(sum(run.request_bytes for run in runs) / len(runs), 1),
        "events_per_worker_core_second": spread(
            [run.window.events_per_second / run.window.worker_cores for run in runs if run.window.worker_cores] or [0.0]
        ),
        "worker_cores": spread([run.window.worker_cores for run in runs], 2),
        "machine_cores": spread([run.window.machine_cores for run in runs], 2),
        **({"barrier": runs[-1].barrier} if runs[-1].barrier else {}),
    }


async def _barriers(
    bootstrap: str, intervals: Sequence[int], events: int, shape: Shape, repeats: int, progress: Progress
) -> list[Figures]:
    footfall = ENGINES["footfall"]
    runs: dict[int, list[Run]] = {interval: [] for interval in intervals}
    crashes: dict[int, Figures] = {}
    for repeat in range(repeats):
        progress(f"barriers: repeat {repeat + 1} of {repeats}, publishing {events:,} events")
        async with published(bench_settings(bootstrap), load(events, shape=shape, seed=repeat + 1)) as given:
            for interval in intervals:
                run = await _run(footfall, given, run_settings(given.settings, barrier_ms=interval))
                runs[interval].append(run)
                progress(f"barriers: {interval} ms, {_line(run.window)}")
                if repeat == 0:
                    crashes[interval] = await _crash(given, interval)
                    progress(f"barriers: {interval} ms, uncommitted at each kill: {crashes[interval]['uncommitted_at_kill']}")
    return [
        {
            "interval_ms": interval,
            "events_per_second": spread([run.window.events_per_second for run in runs[interval]]),
            "request_bytes_per_event": round(runs[interval][-1].request_bytes, 1),
            **runs[interval][-1].barrier,
            **crashes[interval],
        }
        for interval in intervals
    ]


async def _crash(given: Published, interval: int) -> Figures:
    """Kill -9 a worker at several points of one backlog; return what each kill left uncommitted, and check the result."""
    settings = run_settings(given.settings, barrier_ms=interval, session_timeout_seconds=SESSION_TIMEOUT_SECONDS)
    await apply(settings)
    uncommitted = []
    async with Running(ENGINES["footfall"], settings) as running:
        for kill in range(KILLS):
            await until_committed(running, given.count * (kill + 1) // (KILLS + 1), seconds=120, poll_seconds=0.01)
            running.process.kill()
            running.process.wait()
            requests = await read_requests(settings)
            running.start()
            committed = await running.offsets()  # the next process resumes here
            uncommitted.append(given.folded_beyond(committed, requests))
        await measure([running], given.count, seconds=120 + given.count / 500)
    requests = await read_requests(settings)
    if requests.distinct != given.due:
        raise RunError(
            f"after {KILLS} kills: found {requests.distinct} distinct score requests, expected the {given.due} of an "
            "offline fold"
        )
    return {"uncommitted_at_kill": uncommitted, "repeated_requests": len(requests.found) - requests.distinct}


def _line(window: Window) -> str:
    return (
        f"{window.events_per_second:,.0f} events/s, worker {window.worker_cores:.2f} cores, machine {window.machine_cores:.2f}"
    )
