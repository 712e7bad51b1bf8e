"""Write a benchmark's result into its own section of RESULTS.md, between its markers, and keep the rest unchanged.

A section names the machine, the commit, the versions and the command that repeats it. Start at record.
"""

import json
from collections.abc import Callable
from pathlib import Path

from stream.bench.figures import Figures

RESULTS = "RESULTS.md"
HEADER = "# Results\n"


def record(folder: Path, found: Figures, command: str) -> Path:
    """Write a result's section of RESULTS.md in `folder`, its JSON and its plots; return the path of RESULTS.md."""
    from stream.bench.plots import draw

    name = found["benchmark"]
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    (folder / "plots" / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    plots = [path.relative_to(folder) for path in draw(folder / "plots", found)]
    path = folder / RESULTS
    text = path.read_text() if path.exists() else HEADER
    path.write_text(with_section(text, name, section(found, command, [str(plot) for plot in plots])))
    return path


def with_section(text: str, name: str, body: str) -> str:
    """Insert a section into a document: replace the one of that name, or append it."""
    begin, end = f"<!-- bench {name}: written by the command -->", f"<!-- end of bench {name} -->"
    block = f"{begin}\n{body.strip()}\n{end}\n"
    if begin not in text or f"{end}\n" not in text:
        return f"{text.rstrip()}\n\n{block}"
    before, rest = text.split(begin, 1)
    return before + block + rest.split(f"{end}\n", 1)[1]


def section(found: Figures, command: str, plots: list[str]) -> str:
    """Render one result as Markdown."""
    at = found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in at["versions"].items())
    lines = [
        f"## footfall bench {found['benchmark']}",
        "",
        f"`{command}`",
        "",
        f"{at['cores']} cores ({at['cpu']}), {at['system']}; broker ({at['broker']}), engine and load on this machine. "
        f"Python {at['python']}, {versions}. Commit {at['commit']}, {at['date']}.",
        "",
        *RENDERERS[found["benchmark"]](found),
    ]
    for plot in plots:
        lines += ["", f"![{Path(plot).stem}]({plot})"]
    return "\n".join(lines)


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Render a Markdown table."""
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def of(spread: Figures, unit: str = "") -> str:
    """Render a spread as median (minimum to maximum)."""
    return f"{spread['median']:,}{unit} ({spread['min']:,} to {spread['max']:,})"


def _features(found: Figures) -> list[str]:
    engines = found["engines"]
    lines = [
        f"Load `{found['load']}`, {found['event_bytes']} bytes per event, {found['repeats']} repeats, runs interleaved. A "
        "rate is the median (minimum to maximum) of events per second between two commits, at 10 % and at 95 % of the events. "
        "Every run sent exactly the score requests of an offline fold. Cores are mean busy cores in that time: the worker's, "
        "and the whole machine's (broker and measurement included).",
        "",
        *table(
            [
                "engine",
                "events/s",
                "Footfall is × faster",
                "events",
                "score requests / events",
                "worker cores",
                "machine cores",
                "events per core second",
            ],
            [
                [
                    f"{name} ({engine['version']})",
                    of(engine["events_per_second"]),
                    str(found["ratios"].get(name, "")),
                    f"{engine['events']:,}",
                    f"{engine['due']:.1%}",
                    str(engine["worker_cores"]["median"]),
                    str(engine["machine_cores"]["median"]),
                    f"{engine['events_per_worker_core_second']['median']:,}",
                ]
                for name, engine in engines.items()
            ],
        ),
        "",
        *table(["engine", "guarantee", "job"], [[name, e["guarantee"], e["job"]] for name, e in engines.items()]),
    ]
    if "barriers" in found:
        lines += ["", *_barriers(found["barriers"])]
    return lines


def _barriers(barriers: list[Figures]) -> list[str]:
    return [
        "Footfall by barrier interval. Bytes are of changelog rows and of score requests, before compression by the broker. "
        "Uncommitted events are those to fold again after a kill -9 in mid-backlog, as far as score requests show. Repeated "
        "score requests are the duplicates from all kills of a run.",
        "",
        *table(
            [
                "interval",
                "events/s",
                "barrier time",
                "events per barrier",
                "rows per event",
                "row bytes",
                "row bytes per event",
                "request bytes per event",
                "uncommitted at each kill",
                "repeated",
            ],
            [
                [
                    f"{barrier['interval_ms']} ms",
                    of(barrier["events_per_second"]),
                    f"{barrier['barrier_ms']} ms",
                    f"{barrier['events_per_barrier']:,}",
                    str(barrier["rows_per_event"]),
                    str(barrier["row_bytes"]),
                    str(barrier["row_bytes_per_event"]),
                    str(barrier["request_bytes_per_event"]),
                    ", ".join(f"{count:,}" for count in barrier["uncommitted_at_kill"]),
                    f"{barrier['repeated_requests']:,}",
                ]
                for barrier in barriers
            ],
        ),
    ]


def _latency(found: Figures) -> list[str]:
    names = ["p50", "p90", "p99", "p99.9", "mean", "max", "count"]
    return [
        f"Open load `{found['load']}` of {found['rate']:,} events/s for {found['seconds']:g} s after "
        f"{found['warm_up_seconds']:g} s of warm-up, barrier interval {found['barrier_ms']} ms. Latency is in ms from an "
        "event's scheduled send time to the receipt of its score request by our own consumer, and includes the sender's delay. "
        f"Mean busy cores: {found['machine_cores']} of the machine, {found['worker_cores']} of them the worker's.",
        "",
        *table(
            ["", *names],
            [
                ["event to score request", *(f"{found['latency_ms'][name]:,}" for name in names)],
                ["of which sender delay", *(f"{found['sender_late_ms'][name]:,}" for name in names)],
            ],
        ),
    ]


def _restore(found: Figures) -> list[str]:
    return [
        f"{found['rows']:,} rows of {found['row_bytes']} bytes (key included), {found['repeats']} repeats.",
        "",
        *table(
            ["measure", "median (minimum to maximum)"],
            [
                ["rows restored per second", of(found["rows_per_second"])],
                ["time to read the changelog", of(found["restore_seconds"], " s")],
                ["process start to ready", of(found["ready_seconds"], " s")],
                ["resident memory", of(found["memory_mb"], " MB")],
                ["memory per user beyond its row", of(found["memory_bytes_per_row_beyond_it"], " B")],
                [
                    f"kill -9 to the next commit (session timeout {found['session_timeout_seconds']:g} s)",
                    of(found["kill_to_commit_seconds"], " s"),
                ],
            ],
        ),
    ]


def _takeover(found: Figures) -> list[str]:
    return [
        f"{found['rows']:,} rows of {found['row_bytes']} bytes, {found['partitions']} partitions, {found['rate']:g} events/s "
        f"meanwhile; session timeout {found['session_timeout_seconds']:g} s. The broker's group and committed offsets are "
        f"sampled every {found['sample_seconds'] * 1000:g} ms. Detection ends when the broker removes the killed worker, the "
        "takeover when all of its partitions have commits again.",
        "",
        *table(
            [f"kill -9 of one of two workers, {found['repeats']} times", "detection", "takeover", "longest pause"],
            [
                [
                    f"{name} standbys",
                    of(run["detection_seconds"], " s"),
                    of(run["takeover_seconds"], " s"),
                    of(run["pause_seconds"], " s"),
                ]
                for name, run in found["kills"].items()
            ],
        ),
        "",
        *table(
            ["rolling restart of three workers", "longest pause at each restart", "longest"],
            [
                [name, ", ".join(f"{pause:g} s" for pause in run["pause_seconds"]), f"{run['longest_pause_seconds']:g} s"]
                for name, run in found["restarts"].items()
            ],
        ),
    ]


def _scaling(found: Figures) -> list[str]:
    return [
        f"Load `{found['load']}`, {found['events']:,} events on {found['partitions']} partitions, {found['repeats']} repeats.",
        "",
        *table(
            ["workers", "events/s", "worker cores", "machine cores"],
            [
                [name, of(run["events_per_second"]), of(run["worker_cores"]), of(run["machine_cores"])]
                for name, run in found["workers"].items()
            ],
        ),
        "",
        f"Two workers are {found['ratio']} times as fast as one.",
    ]


def _backlog(found: Figures) -> list[str]:
    return [
        f"A day of events (load `independent`, seven topics, 4 partitions) published before the worker starts, "
        f"{found['repeats']} repeats. Seconds run from ready until all is committed. Every run sent exactly the score requests "
        "of an offline fold. Held records and skew are the maxima from /metrics in the last run.",
        "",
        *table(
            [
                "event time",
                "events",
                "events/s",
                "seconds",
                "events per chunk",
                "chunks per flush",
                "flushes",
                "held records",
                "skew",
            ],
            [
                [
                    name,
                    f"{day['events']:,}",
                    of(day["events_per_second"]),
                    of(day["seconds"]),
                    str(day["events_per_chunk"]),
                    str(day["chunks_per_flush"]),
                    str(day["flushes"]),
                    f"{day['most_held_records']:,}",
                    f"{day['largest_skew_hours']} h",
                ]
                for name, day in found["days"].items()
            ],
        ),
    ]


RENDERERS: dict[str, Callable[[Figures], list[str]]] = {
    "backlog": _backlog,
    "features": _features,
    "latency": _latency,
    "restore": _restore,
    "scaling": _scaling,
    "takeover": _takeover,
}
