"""Write an event log with a progress bar, and print its summary, for every command that writes one.

Start at write_events.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from stream.logs.event_log import ImportCounts, LoggedEvent, LogManifest

Out = Annotated[Path, typer.Option("--out", help="Directory to write; must be new or empty.")]


def stderr_console() -> "Console":
    """Open a console on stderr, without styling if it is not a terminal."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def write_events(
    console: "Console", out: Path, events: "Iterable[LoggedEvent]", source: str, imports: "ImportCounts | None" = None
) -> "LogManifest":
    """Write a log with a progress bar.

    Raises:
        LogError: the directory is not empty, or the events cannot be read.
    """
    from rich.progress import track

    from stream.logs.event_log import write_log

    tracked = track(events, "writing", console=console, disable=not console.is_terminal, transient=True)
    return write_log(out, tracked, source=source, imports=imports)


def summarise(console: "Console", out: Path, manifest: "LogManifest") -> None:
    """Print what a log holds."""
    total = sum(manifest.events.values())
    console.print(
        f"{out}: {total} events {manifest.events} from {_day(manifest.first_record_ms)} to {_day(manifest.last_record_ms)}"
    )


def _day(record_ms: int | None) -> str:
    return "-" if record_ms is None else f"{datetime.fromtimestamp(record_ms / 1000, UTC):%Y-%m-%d %H:%M}"
