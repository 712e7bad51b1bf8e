"""Measure one run between two commits: events/s, and busy cores of the workers and the machine.

The first tenth of the events is warm-up, and the last twentieth is left out. Both ends of the window are commits in the
broker (or in a recovery store). Otherwise an engine that commits once per second could look slower than one that commits
five times per second. Start at measure.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from schemas.errors import RunError
from stream.bench.engines import CLOCK_TICKS, Running

POLL_SECONDS = 0.05
WARM_UP, END = 0.1, 0.95  # of the events; both ends are inside the run, so that a similar backlog is in flight at both commits


class Window(Struct, frozen=True):
    """A run's rate, the seconds of its window, and the mean busy cores of the workers and of the machine."""

    events_per_second: float
    seconds: float
    worker_cores: float
    machine_cores: float


class _Sample(Struct, frozen=True):
    at: float
    committed: int
    worker: float
    machine: float


async def measure(workers: Sequence[Running], total: int, *, seconds: float) -> Window:
    """Measure workers of one group until `total` events are committed; the first worker reads the group's offsets.

    Raises:
        RunError: a worker exited, or they did not finish within `seconds`.
    """
    deadline, committed = time.monotonic() + seconds, 0
    first: _Sample | None = None
    last: _Sample | None = None
    while time.monotonic() < deadline:
        committed = await workers[0].committed()
        if first is None and committed >= total * WARM_UP:
            first = _sample(workers, committed)
        elif first is not None and last is None and committed >= total * END and committed > first.committed:
            last = _sample(workers, committed)
        if committed >= total:
            if first is None or last is None:
                name = workers[0].engine.name
                raise RunError(
                    f"engine {name}: found all {total} events in one commit, expected several commits: use more events"
                )
            return _between(first, last)
        await asyncio.sleep(POLL_SECONDS)
    raise _not_done(workers[0], committed, total, seconds)


async def until_committed(worker: Running, total: int, *, seconds: float, poll_seconds: float = POLL_SECONDS) -> int:
    """Wait until at least `total` events are committed and return how many are.

    Raises:
        RunError: the worker exited, or did not commit them within `seconds`.
    """
    deadline, committed = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        committed = await worker.committed()
        if committed >= total:
            return committed
        await asyncio.sleep(poll_seconds)
    raise _not_done(worker, committed, total, seconds)


def _not_done(worker: Running, committed: int, total: int, seconds: float) -> RunError:
    return RunError(
        f"engine {worker.engine.name}: found {committed} of {total} events committed after {seconds:.0f} s, expected all: "
        f"{worker.last_log_lines()}"
    )


def _sample(workers: Sequence[Running], committed: int) -> _Sample:
    return _Sample(time.monotonic(), committed, sum(worker.cpu_seconds() for worker in workers), machine_seconds())


def _between(first: _Sample, last: _Sample) -> Window:
    passed = last.at - first.at
    return Window(
        events_per_second=(last.committed - first.committed) / passed,
        seconds=passed,
        worker_cores=(last.worker - first.worker) / passed,
        machine_cores=(last.machine - first.machine) / passed,
    )


def machine_seconds() -> float:
    """Return the busy CPU seconds of the whole machine; 0 without /proc."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, interrupts, soft = (int(field) for field in fields[:7])
    return (user + nice + system + interrupts + soft) / CLOCK_TICKS
