"""`footfall bench …`: measure this machine against peers running the same work in the same run."""

import asyncio
import json
import sys
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Measure this machine; needs a Kafka (KAFKA_BOOTSTRAP_SERVERS).")


@app.callback()
def _bench() -> None:
    """Keep `features` a verb of its own while it is the only one."""


@app.command()
def features(
    kafka: Annotated[str, typer.Option("--kafka", envvar="KAFKA_BOOTSTRAP_SERVERS", help="Broker to run on.")],
    events: Annotated[int, typer.Option(help="Events that Footfall reads in each repeat.", min=10_000)] = 600_000,
    twin_events: Annotated[int, typer.Option(help="Events that stock Faust reads in each repeat.", min=1_000)] = 40_000,
    repeats: Annotated[int, typer.Option(help="Repeats; the median counts.", min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")] = False,
) -> None:
    """Events/s of role features with durable rows, beside the same fold in a stock Faust agent."""
    from stream.bench import bench_features, bench_settings

    def progress(line: str) -> None:
        typer.echo(line, err=True)

    result = asyncio.run(
        bench_features(bench_settings(kafka), events=events, twin_events=twin_events, repeats=repeats, progress=progress)
    )
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for engine, rate in result["engines"].items():
        typer.echo(f"{engine:12} {rate['median']:>9,} events/s  ({rate['min']:,} to {rate['max']:,}), {rate['guarantee']}")
    typer.echo(f"{'ratio':12} {result['ratio']:>9}    {result['event_bytes']} bytes an event, {result['machine']}")
