"""`footfall replay LOG --out DIR`: what the live roles would make of a log, without a broker. Start at replay_command."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.options import AsJson, with_settings
from stream.settings import Settings, SettingsError

if TYPE_CHECKING:
    from models.scorer import Scorer


@with_settings
def replay_command(
    log: Annotated[Path, typer.Argument(help="Directory of an event log.")],
    out: Annotated[Path, typer.Option("--out", help="Directory to write; must be new or empty.")],
    settings: Settings,
    no_score: Annotated[bool, typer.Option("--no-score", help="End at the score requests; needs no model.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replay a log through all roles: signals, decisions, dead letters, rows and a summary as files."""
    import msgspec
    from rich.console import Console
    from rich.progress import track

    from schemas.topics import SOURCES
    from stream.event_log import read_log, read_manifest
    from stream.replay import Replay
    from stream.replayed import write_replay

    manifest = read_manifest(log)
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    scorer = None if no_score else _load_scorer(settings)
    replay = Replay(settings, partitions=next(iter(settings.topics().values())).partitions)
    total, started = sum(manifest.events.get(kind, 0) for kind in SOURCES), time.monotonic()
    events = track(read_log(log), "replaying", total, console=console, disable=not console.is_terminal, transient=True)
    summary = write_replay(replay, events, scorer, out)
    seconds = time.monotonic() - started
    totals = summary.totals
    console.print(
        f"{totals.events_in} events = {totals.applied} applied + {totals.dead_lettered} dead letters + "
        f"{summary.declared_dropped} late or duplicate; {summary.users} users; {summary.outputs}"
    )
    console.print(f"{out}: {seconds:.1f} s, {total / seconds:.0f} events a second")
    if as_json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")


def _load_scorer(settings: Settings) -> "Scorer":
    from models.scorer import Scorer

    if not settings.checkpoint.is_dir():
        raise SettingsError(
            f"setting checkpoint (FOOTFALL_CHECKPOINT): found no folder {settings.checkpoint}, expected a model: run "
            "`footfall train`, or replay with --no-score"
        )
    return Scorer.load(settings.checkpoint, threads=settings.model_threads)
