"""Compute a benchmark's statistics (spreads of repeats, latency percentiles), and describe machine, commit and versions.

Start at spread and percentiles.
"""

import datetime
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
BUCKETS_PER_DECADE = 10
PACKAGES = ("faust-streaming", "aiokafka", "msgspec", "cramjam", "numpy")

Figures = dict[str, Any]


def spread(values: Sequence[float], digits: int = 0) -> Figures:
    """Return the median, minimum, maximum and all values of some repeats, rounded to `digits`."""
    rounded = [round(value, digits) if digits else round(value) for value in values]
    middle = statistics.median(values)
    return {
        "median": round(middle, digits) if digits else round(middle),
        "min": min(rounded),
        "max": max(rounded),
        "runs": rounded,
    }


def percentiles(values: Sequence[float], digits: int = 2) -> Figures:
    """Return nearest-rank percentiles, mean and maximum of all values, exact rather than from buckets.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("found no values, expected at least one: nothing was measured")
    ranked = sorted(values)
    found: Figures = {
        f"p{rank:g}": round(ranked[max(0, math.ceil(len(ranked) * rank / 100) - 1)], digits) for rank in PERCENTILES
    }
    return found | {"mean": round(statistics.fmean(ranked), digits), "max": round(ranked[-1], digits), "count": len(ranked)}


def histogram(values: Sequence[float]) -> list[tuple[float, int]]:
    """Count values in logarithmic buckets, ten per decade: (upper edge, count), including empty buckets in between."""
    places = [math.ceil(math.log10(max(value, 1e-3)) * BUCKETS_PER_DECADE) for value in values]
    if not places:
        return []
    counts = dict.fromkeys(range(min(places), max(places) + 1), 0)
    for place in places:
        counts[place] += 1
    return [(round(10 ** (place / BUCKETS_PER_DECADE), 4), count) for place, count in counts.items()]


def machine(folder: Path, *, broker: str = "") -> Figures:
    """Describe this machine, the commit in `folder`, the versions and the time (UTC)."""
    return {
        "cores": os.cpu_count(),
        "cpu": cpu_model(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "python": platform.python_version(),
        "broker": broker or "Kafka, version not given",
        "commit": commit(folder),
        "versions": {name: version(name) for name in PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def cpu_model() -> str:
    """Return the CPU model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit(folder: Path) -> str:
    """Return the commit of a checkout, marked if the sources have changes; "unknown" outside a checkout."""
    try:
        name = _git(folder, "rev-parse", "--short", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", "schemas", "models", "stream")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name} with changes" if changed else name


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()
