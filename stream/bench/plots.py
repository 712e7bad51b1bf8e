"""Draw benchmark results as SVG plots; the same figures give the same bytes. Start at draw."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "footfall"

from matplotlib import pyplot  # noqa: E402, after the backend is chosen

from stream.bench.figures import Figures  # noqa: E402

WIDTH, HEIGHT = 7.0, 3.4  # inches
COLOUR = "#31688e"


def draw(folder: Path, found: Figures) -> list[Path]:
    """Draw the plot of one result into `folder`; some benchmarks have none."""
    if found["benchmark"] not in ("features", "latency"):
        return []
    figure, axes = pyplot.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
    try:
        (_rates if found["benchmark"] == "features" else _latencies)(axes, found)
        path = folder / f"{found['benchmark']}.svg"
        figure.savefig(path, metadata={"Date": None})
        return [path]
    finally:
        pyplot.close(figure)


def _rates(axes: Any, found: Figures) -> None:
    """Draw a bar for each engine's median, with an error bar from minimum to maximum."""
    names = list(found["engines"])
    rates = [found["engines"][name]["events_per_second"] for name in names]
    middle = [rate["median"] for rate in rates]
    axes.barh(
        names,
        middle,
        xerr=[[r["median"] - r["min"] for r in rates], [r["max"] - r["median"] for r in rates]],
        color=COLOUR,
        ecolor="black",
        capsize=3,
    )
    for place, rate in enumerate(middle):
        axes.annotate(f"  {rate:,}", (rates[place]["max"], place), va="center")
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel("events/s of one worker process, same fold")


def _latencies(axes: Any, found: Figures) -> None:
    """Draw the histogram on a logarithmic axis, with the percentiles as lines."""
    edges = [edge for edge, _ in found["histogram_ms"]]
    ratio = 10**0.1
    axes.bar(
        [edge / ratio for edge in edges],
        [count for _, count in found["histogram_ms"]],
        width=[edge - edge / ratio for edge in edges],
        align="edge",
        color=COLOUR,
    )
    for name in ("p50", "p90", "p99", "p99.9"):
        at = found["latency_ms"][name]
        axes.axvline(at, color="black", linewidth=0.8, linestyle="--")
        axes.annotate(f"{name} {at:g}", (at, axes.get_ylim()[1]), rotation=90, va="top", ha="right", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel(f"ms from event to score request at {found['rate']:,} events/s")
    axes.set_ylabel("score requests")
