"""Define `footfall bench …`, whose commands benchmark this machine and can record the result in a RESULTS.md.

stream/bench/ defines what is measured, and how. Start at features.
"""

import asyncio
import json
import shlex
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Run a benchmark on this machine. Needs Kafka (KAFKA_BOOTSTRAP_SERVERS).")

Kafka = Annotated[str, typer.Option("--kafka", envvar="KAFKA_BOOTSTRAP_SERVERS", help="Bootstrap servers of the broker.")]
Shape = Annotated[str, typer.Option("--load", help="sessions (40 events of one user) or independent (a user drawn per event).")]
Repeats = Annotated[int, typer.Option(help="Number of repeats; the median is reported.", min=1)]
Record = Annotated[Path | None, typer.Option(help="Folder to write RESULTS.md and plots to.")]
Broker = Annotated[str, typer.Option(envvar="FOOTFALL_BENCH_BROKER", help="Broker name and version to record with the result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]


@app.command()
def features(
    kafka: Kafka,
    engines: Annotated[str, typer.Option(help="Engines to compare, comma-separated.")] = "footfall,stock-faust,quix,bytewax",
    events: Annotated[
        int, typer.Option(help="Events that Footfall reads per repeat; other engines read a fraction.", min=10_000)
    ] = 600_000,
    load: Shape = "sessions",
    repeats: Repeats = 3,
    barriers: Annotated[str, typer.Option(help="Barrier intervals to compare, in ms, comma-separated.")] = "100,200,500",
    record: Record = None,
    broker: Broker = "",
    as_json: AsJson = False,
) -> None:
    """Measure events/s of the features role with durable rows, and of the same fold in other engines."""
    from stream.bench.engines import ENGINES
    from stream.bench.features import bench_features

    chosen = _choices("--engines", engines, list(ENGINES))
    intervals = [_milliseconds(interval) for interval in barriers.split(",") if interval]
    work = bench_features(
        kafka,
        engines=chosen,
        events=events,
        shape=_shape(load),
        repeats=repeats,
        barriers=intervals,
        progress=_progress,
    )
    _finish(work, record=record, broker=broker, as_json=as_json)


@app.command()
def restore(
    kafka: Kafka,
    rows: Annotated[int, typer.Option(help="User rows in the changelog.", min=1_000)] = 1_000_000,
    repeats: Repeats = 3,
    record: Record = None,
    broker: Broker = "",
    as_json: AsJson = False,
) -> None:
    """Measure how long a worker takes to restore from its changelog, and to commit again after a kill -9."""
    from stream.bench.restore import bench_restore

    _finish(bench_restore(kafka, rows=rows, repeats=repeats, progress=_progress), record=record, broker=broker, as_json=as_json)


@app.command()
def takeover(
    kafka: Kafka,
    rows: Annotated[int, typer.Option(help="User rows in the changelog.", min=1_000)] = 1_000_000,
    rate: Annotated[float, typer.Option(help="Events/s sent meanwhile.", min=50)] = 600.0,
    repeats: Repeats = 3,
    record: Record = None,
    broker: Broker = "",
    as_json: AsJson = False,
) -> None:
    """Measure pauses: after kill -9 without and with a standby, and in a rolling restart of three workers."""
    from stream.bench.takeover import bench_takeover

    work = bench_takeover(kafka, rows=rows, rate=rate, repeats=repeats, progress=_progress)
    _finish(work, record=record, broker=broker, as_json=as_json)


@app.command()
def latency(
    kafka: Kafka,
    rate: Annotated[float, typer.Option(help="Events/s to send; 0 sends half of the measured throughput.", min=0)] = 0.0,
    seconds: Annotated[float, typer.Option(help="Seconds to measure.", min=1)] = 30.0,
    warm_up: Annotated[float, typer.Option(help="Seconds of warm-up before that, not measured.", min=0)] = 10.0,
    load: Shape = "sessions",
    barrier_ms: Annotated[int, typer.Option(help="Barrier interval, in ms.", min=5)] = 200,
    record: Record = None,
    broker: Broker = "",
    as_json: AsJson = False,
) -> None:
    """Measure latency under open load, from an event's scheduled send time to the receipt of its score request."""
    from stream.bench.features import footfall_rate
    from stream.bench.latency import bench_latency

    shape = _shape(load)

    async def measure() -> dict[str, Any]:
        chosen = rate or 0.5 * await footfall_rate(kafka, shape=shape, progress=_progress)
        return await bench_latency(
            kafka,
            rate=chosen,
            seconds=seconds,
            warm_up_seconds=warm_up,
            shape=shape,
            barrier_ms=barrier_ms,
            progress=_progress,
        )

    _finish(measure(), record=record, broker=broker, as_json=as_json)


@app.command()
def scaling(
    kafka: Kafka,
    events: Annotated[int, typer.Option(help="Events per run.", min=20_000)] = 600_000,
    load: Shape = "sessions",
    repeats: Repeats = 3,
    record: Record = None,
    broker: Broker = "",
    as_json: AsJson = False,
) -> None:
    """Measure events/s of one worker and of two workers that share eight partitions."""
    from stream.bench.scaling import bench_scaling

    work = bench_scaling(kafka, events=events, shape=_shape(load), repeats=repeats, progress=_progress)
    _finish(work, record=record, broker=broker, as_json=as_json)


@app.command()
def backlog(
    kafka: Kafka,
    dense: Annotated[int, typer.Option(help="Events in the dense day.", min=10_000)] = 1_000_000,
    sparse: Annotated[int, typer.Option(help="Events in the sparse day.", min=1_000)] = 20_000,
    repeats: Repeats = 3,
    record: Record = None,
    broker: Broker = "",
    as_json: AsJson = False,
) -> None:
    """Measure events/s of one worker that reads a day's backlog, once with dense and once with sparse event time."""
    from stream.bench.backlog import bench_backlog

    work = bench_backlog(kafka, dense=dense, sparse=sparse, repeats=repeats, progress=_progress)
    _finish(work, record=record, broker=broker, as_json=as_json)


def _finish(work: Coroutine[Any, Any, dict[str, Any]], *, record: Path | None, broker: str, as_json: bool) -> None:
    from stream.bench.engines import ROOT
    from stream.bench.figures import machine
    from stream.bench.results import record as write
    from stream.bench.results import section

    at = machine(ROOT, broker=broker)  # taken before the run, so that it names the measured commit
    found = asyncio.run(work) | {"machine": at}
    command = shlex.join(["footfall", *sys.argv[1:]])
    if record is not None:
        _progress(f"written to {write(record, found, command)}")
    typer.echo(json.dumps(found) if as_json else section(found, command, []))


def _progress(line: str) -> None:
    typer.echo(line, err=True)


def _shape(given: str) -> Any:
    from stream.bench.load import SHAPES

    return _choices("--load", given, list(SHAPES))[0]


def _choices(flag: str, given: str, known: list[str]) -> list[str]:
    chosen = [name.strip() for name in given.split(",") if name.strip()]
    if not chosen or set(chosen) - set(known):
        raise typer.BadParameter(f"found {given!r}, expected one or more of {', '.join(known)}", param_hint=flag)
    return list(dict.fromkeys(chosen))


def _milliseconds(given: str) -> int:
    if not given.strip().isdigit():
        raise typer.BadParameter(f"found {given!r}, expected milliseconds", param_hint="--barriers")
    return int(given)
