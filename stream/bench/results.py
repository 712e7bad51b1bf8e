"""Results of benchmarks → RESULTS.md: each command writes its own section, between its markers, and leaves the rest.

A section names the machine, the commit, the versions and the command that repeats it. Start at record.
"""

import json
from collections.abc import Callable
from pathlib import Path

from stream.bench.figures import Figures

RESULTS = "RESULTS.md"
HEADER = "# Results\n"


def record(folder: Path, found: Figures, command: str) -> Path:
    """Write a result's section of RESULTS.md in `folder`, its JSON and its plots; returns the file."""
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
    """Put a section into a document: in place of the one of that name, or at the end."""
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
    """Render a Markdown table; the columns after the first are numbers or words as given."""
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def of(spread: Figures, unit: str = "") -> str:
    """Write a spread as median (least to greatest)."""
    return f"{spread['median']:,}{unit} ({spread['min']:,} to {spread['max']:,})"


def _features(found: Figures) -> list[str]:
    engines = found["engines"]
    lines = [
        f"Load `{found['load']}`, {found['event_bytes']} bytes an event, {found['repeats']} repeats, runs interleaved. Rates "
        "are median (least to greatest) of events over the seconds between two commits, at a tenth and at 95 % of them. "
        "Every run made exactly the score requests of an offline fold. Cores are those that were busy in that time: the "
        "worker's, and all of the machine's (broker and measurement included).",
        "",
        *table(
            [
                "engine",
                "events/s",
                "Footfall is × faster",
                "events",
                "due",
                "worker cores",
                "machine cores",
                "events a core second",
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
        *table(["engine", "guarantee", "the job"], [[name, e["guarantee"], e["job"]] for name, e in engines.items()]),
    ]
    if "barriers" in found:
        lines += ["", *_barriers(found["barriers"])]
    return lines


def _barriers(barriers: list[Figures]) -> list[str]:
    return [
        "Footfall by barrier interval. Bytes are of changelog rows and of score requests, before compression by the broker. "
        "Uncommitted are the events that a kill -9 in the middle of the backlog left to be folded again, as far as score "
        "requests show them; repeated are score requests that came twice for all kills of a run.",
        "",
        *table(
            [
                "interval",
                "events/s",
                "a barrier takes",
                "events a barrier",
                "rows an event",
                "row bytes",
                "row bytes an event",
                "request bytes an event",
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
        f"{found['warm_up_seconds']:g} s of warm-up, barrier {found['barrier_ms']} ms. Milliseconds from the moment an event "
        "should be sent, on a fixed schedule, to the receipt of its score request by our own consumer; the sender's own "
        "lateness is part of it. "
        f"Busy meanwhile: {found['machine_cores']} cores of the machine, {found['worker_cores']} of them the worker.",
        "",
        *table(
            ["", *names],
            [
                ["event to score request", *(f"{found['latency_ms'][name]:,}" for name in names)],
                ["of which the sender was late", *(f"{found['sender_late_ms'][name]:,}" for name in names)],
            ],
        ),
    ]


def _restore(found: Figures) -> list[str]:
    return [
        f"{found['rows']:,} rows of {found['row_bytes']} bytes (key included), {found['repeats']} repeats.",
        "",
        *table(
            ["what", "median (least to greatest)"],
            [
                ["rows restored a second", of(found["rows_per_second"])],
                ["reading the changelog", of(found["restore_seconds"], " s")],
                ["start of the process to ready", of(found["ready_seconds"], " s")],
                ["resident memory", of(found["memory_mb"], " MB")],
                ["memory a user beyond its row", of(found["memory_bytes_per_row_beyond_it"], " B")],
                [
                    f"kill -9 to the next commit (session timeout {found['session_timeout_seconds']:g} s)",
                    of(found["kill_to_commit_seconds"], " s"),
                ],
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
        f"A day of events (load `independent`, seven topics, 4 partitions) written before the worker starts, "
        f"{found['repeats']} repeats. Seconds are from ready to all committed. Every run made exactly the score requests of "
        "an offline fold. Held and skew are the most that /metrics showed in the last run.",
        "",
        *table(
            ["event time", "events", "events/s", "seconds", "events a chunk", "chunks a flush", "flushes", "held", "skew"],
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
}
