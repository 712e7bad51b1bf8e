"""`footfall bench …`: measure this machine; each verb ends by itself and can record its result in a RESULTS.md.

Parses and delegates: what is measured, and how, is in stream/bench.
"""

import asyncio
import json
import shlex
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Measure this machine; needs a Kafka (KAFKA_BOOTSTRAP_SERVERS).")

Kafka = Annotated[str, typer.Option("--kafka", envvar="KAFKA_BOOTSTRAP_SERVERS", help="Broker to run on.")]
Shape = Annotated[str, typer.Option("--load", help="sessions (40 events of a user) or independent (a user per event).")]
Repeats = Annotated[int, typer.Option(help="Repeats; the median counts.", min=1)]
Record = Annotated[Path | None, typer.Option(help="Folder whose RESULTS.md and plots the result is written to.")]
Broker = Annotated[str, typer.Option(envvar="FOOTFALL_BENCH_BROKER", help="The broker's name and version, for the record.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")]


@app.command()
def features(
    kafka: Kafka,
    engines: Annotated[str, typer.Option(help="Engines, comma separated.")] = "footfall,stock-faust,quix,bytewax",
    events: Annotated[
        int, typer.Option(help="Events that Footfall reads in each repeat; peers a share.", min=10_000)
    ] = 600_000,
    load: Shape = "sessions",
    repeats: Repeats = 3,
    barriers: Annotated[str, typer.Option(help="Barrier intervals to compare, ms, comma separated.")] = "100,200,500",
    record: Record = None,
    broker: Broker = "",
    as_json: AsJson = False,
) -> None:
    """Events/s of role features with durable rows, beside the same fold in other engines."""
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
    """From a changelog of user rows to a ready worker, and from a kill -9 to the next commit."""
    from stream.bench.restore import bench_restore

    _finish(bench_restore(kafka, rows=rows, repeats=repeats, progress=_progress), record=record, broker=broker, as_json=as_json)


@app.command()
def latency(
    kafka: Kafka,
    rate: Annotated[float, typer.Option(help="Events/s; 0 measures the worker first and takes half.", min=0)] = 0.0,
    seconds: Annotated[float, typer.Option(help="Seconds that are measured.", min=1)] = 30.0,
    warm_up: Annotated[float, typer.Option(help="Seconds before, which are not.", min=0)] = 10.0,
    load: Shape = "sessions",
    barrier_ms: Annotated[int, typer.Option(help="Barrier interval.", min=5)] = 200,
    record: Record = None,
    broker: Broker = "",
    as_json: AsJson = False,
) -> None:
    """From the moment an event should be sent to the receipt of its score request, under open load."""
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
    events: Annotated[int, typer.Option(help="Events of each run.", min=20_000)] = 600_000,
    load: Shape = "sessions",
    repeats: Repeats = 3,
    record: Record = None,
    broker: Broker = "",
    as_json: AsJson = False,
) -> None:
    """Events/s of one and of two workers that share eight partitions."""
    from stream.bench.scaling import bench_scaling

    work = bench_scaling(kafka, events=events, shape=_shape(load), repeats=repeats, progress=_progress)
    _finish(work, record=record, broker=broker, as_json=as_json)


@app.command()
def backlog(
    kafka: Kafka,
    dense: Annotated[int, typer.Option(help="Events of the dense day.", min=10_000)] = 1_000_000,
    sparse: Annotated[int, typer.Option(help="Events of the sparse day.", min=1_000)] = 20_000,
    repeats: Repeats = 3,
    record: Record = None,
    broker: Broker = "",
    as_json: AsJson = False,
) -> None:
    """Events/s of one worker that reads a day's backlog after a stop, of dense and of sparse event time."""
    from stream.bench.backlog import bench_backlog

    work = bench_backlog(kafka, dense=dense, sparse=sparse, repeats=repeats, progress=_progress)
    _finish(work, record=record, broker=broker, as_json=as_json)


def _finish(work: Coroutine[Any, Any, dict[str, Any]], *, record: Path | None, broker: str, as_json: bool) -> None:
    from stream.bench.engines import ROOT
    from stream.bench.figures import machine
    from stream.bench.results import record as write
    from stream.bench.results import section

    at = machine(ROOT, broker=broker)  # before the run: the commit that is measured
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
        raise typer.BadParameter(f"found {given!r}, expected of {', '.join(known)}", param_hint=flag)
    return list(dict.fromkeys(chosen))


def _milliseconds(given: str) -> int:
    if not given.strip().isdigit():
        raise typer.BadParameter(f"found {given!r}, expected milliseconds", param_hint="--barriers")
    return int(given)
