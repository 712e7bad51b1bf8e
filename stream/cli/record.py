"""Define `footfall record`, which records a broker's topics into an event log. Start at record_command."""

import asyncio
import signal
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import FootfallError
from stream.cli.answer import fail, print_json
from stream.cli.log_output import Out, stderr_console, summarise
from stream.cli.options import AsJson, with_settings
from stream.process.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from stream.logs.event_log import LogManifest

SHOWN_EVERY_SECONDS = 0.2


@with_settings
def record_command(
    out: Out,
    settings: Settings,
    kinds: Annotated[
        str | None, typer.Option(help="Topic kinds, comma-separated; default: sources and Footfall's outputs.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Earliest time to record, ISO 8601, default UTC; default: all.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Continue past the current end offsets, until Ctrl-C or --seconds.")
    ] = False,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop after this many seconds.")] = None,
    as_json: AsJson = False,
) -> None:
    """Record topics with partitions, offsets and headers; by default up to the current end offsets."""
    from schemas.errors import BrokerError
    from stream.logs.event_log import refuse_used

    try:
        wanted, since_ms = _kinds(kinds), _since_ms(since)
        refuse_used(out)
    except (FootfallError, ValueError) as error:
        fail(error)
    console = stderr_console()
    try:
        manifest = asyncio.run(_record(console, settings, wanted, out, since_ms, follow, seconds))
    except BrokerError as error:
        fail(error)
    summarise(console, out, manifest)
    if later := sorted({part.topic for part in manifest.recorded if part.first > 0}):
        console.print(f"starts after the first record of {', '.join(later)}: results of earlier records cannot be verified")
    if as_json:
        print_json({"log": str(out), "manifest": manifest})


def _kinds(text: str | None) -> list[str]:
    from stream.logs.event_log import KINDS

    kinds = list(KINDS) if text is None else [kind.strip() for kind in text.split(",")]
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"found --kinds {', '.join(unknown)}, expected one or more of {', '.join(KINDS)}")
    return list(dict.fromkeys(kinds))


def _since_ms(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"found --since {text!r}, expected a time such as 2026-01-31T08:00") from error
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


async def _record(
    console: "Console",
    settings: Settings,
    kinds: list[str],
    out: Path,
    since_ms: int | None,
    follow: bool,
    seconds: float | None,
) -> "LogManifest":
    from rich.progress import Progress

    from stream.logs.event_log import LogWriter
    from stream.operate.record_topics import Recorded, record

    stop, recorded = asyncio.Event(), Recorded()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with LogWriter(out) as writer, Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("recording", total=None)

        async def show() -> None:
            while True:
                total = None if follow else recorded.expected
                progress.update(task, completed=recorded.passed, total=total, description=f"recording {dict(recorded.events)}")
                await asyncio.sleep(SHOWN_EVERY_SECONDS)

        showing = asyncio.create_task(show())
        stopping = asyncio.create_task(_stop_after(seconds, stop))
        try:
            parts = await record(settings, kinds, writer, since_ms=since_ms, follow=follow, stop=stop, recorded=recorded)
        finally:
            showing.cancel()
            stopping.cancel()
        progress.update(task, description="sorting", total=None)
        return writer.finish(source=f"footfall record, {settings.kafka_bootstrap_servers}", recorded=parts)


async def _stop_after(seconds: float | None, stop: asyncio.Event) -> None:
    with suppress(asyncio.CancelledError):
        if seconds is not None:
            await asyncio.sleep(seconds)
            stop.set()
