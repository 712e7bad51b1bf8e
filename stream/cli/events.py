"""Define `footfall send`, which publishes a log to Kafka, and `footfall tail`, which prints a topic's records.

stream/operate/ sends and reads the records; this module parses options and prints. Start at send_command.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream.cli.options import AsJson, with_settings
from stream.process.settings import Settings

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

    from stream.operate.send_log import Sent


@with_settings
def send_command(
    log: Annotated[Path, typer.Argument(help="Directory of an event log.")],
    settings: Settings,
    speed: Annotated[str, typer.Option(help="Multiple of real time, or max.")] = "max",
    rate: Annotated[float | None, typer.Option(min=0.1, help="Events per second, instead of --speed.")] = None,
    as_json: AsJson = False,
) -> None:
    """Publish a log in order of arrival, with its original timestamps."""
    import msgspec

    sent = asyncio.run(_send(log, settings, _speed(speed), rate))
    took = f"{sent.seconds:.1f} s, {sent.total / sent.seconds if sent.seconds else 0:.0f} per second"
    sys.stderr.write(f"sent {sent.total} events in {took}: {dict(sent.events)}\n")
    if as_json:
        result = {"events": sent.events, "total": sent.total, "seconds": sent.seconds}
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


def _speed(text: str) -> float | None:
    try:
        speed = None if text == "max" else float(text)
    except ValueError:
        speed = -1.0
    if speed is not None and not 0 < speed < 1e9:
        raise typer.BadParameter(f"found {text!r}, expected a number above 0 or max", param_hint="--speed")
    return speed


async def _send(log: Path, settings: Settings, speed: float | None, rate: float | None) -> "Sent":
    from rich.console import Console
    from rich.progress import Progress

    from schemas.topics import SOURCES
    from stream.logs.event_log import read_log, read_manifest
    from stream.operate.send_log import Sent, at_once, at_rate, at_speed, check_sendable, send_events

    manifest, sent = read_manifest(log), Sent()
    if manifest.first_record_ms is None or manifest.last_record_ms is None:
        return sent
    first_ms, last_ms, now_ms = manifest.first_record_ms, manifest.last_record_ms, int(time.time() * 1000)
    counts = {kind: count for kind, count in manifest.events.items() if kind in SOURCES}
    partitions = await check_sendable(settings, list(counts), first_ms, last_ms, now_ms)
    pace = at_rate(rate) if rate is not None else at_once if speed is None else at_speed(speed, first_ms)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("sending", total=sum(counts.values()))

        async def show() -> None:
            while True:
                progress.update(task, completed=sent.total)
                await asyncio.sleep(0.2)

        showing = asyncio.create_task(show())
        try:
            await send_events(read_log(log), settings, partitions=partitions, pace=pace, sent=sent)
        finally:
            showing.cancel()
    return sent


@with_settings
def tail_command(
    topic: Annotated[str, typer.Argument(help="Name of a topic, or its kind: click, interest, purchase.dlq, …")],
    settings: Settings,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Start at the oldest record.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many records.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a topic's records as they arrive, until Ctrl-C."""
    topics = settings.topics()
    name = topics[topic].name if topic in topics else topic
    try:
        asyncio.run(_tail(settings, name, from_beginning, count, as_json))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


async def _tail(settings: Settings, topic: str, from_beginning: bool, count: int | None, as_json: bool) -> None:
    import msgspec

    from stream.operate.tail import follow

    seen = 0
    async for record in follow(settings, [topic], from_beginning=from_beginning):
        line = msgspec.json.encode(as_fields(record)).decode() if as_json else as_line(record)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        seen += 1
        if seen == count:
            return


def as_fields(record: "ConsumerRecord") -> dict[str, Any]:
    """Render a record for a program: its value as JSON if it parses, otherwise in base64."""
    import msgspec

    fields: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp,
        "key": None if record.key is None else record.key.decode(errors="replace"),
        "headers": {name: value.decode(errors="replace") for name, value in record.headers},
    }
    try:
        return fields | {"value": None if record.value is None else msgspec.json.decode(record.value)}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return fields | {"value_b64": record.value}


def as_line(record: "ConsumerRecord") -> str:
    """Render a record for a terminal: time, partition, offset, key and value, with control characters escaped."""
    from stream.process.log import UNPRINTABLE

    key, value = ("-" if part is None else part.decode(errors="backslashreplace") for part in (record.key, record.value))
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.timestamp / 1000))
    return f"{at} {record.partition}@{record.offset} {key} {value}".translate(UNPRINTABLE)
