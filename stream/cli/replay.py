"""Define `footfall replay LOG --out DIR`, which runs a log through all roles offline, or verifies recorded outputs.

stream/offline/ does the work; this module parses options and prints the summary. Start at replay_command.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import FootfallError, SettingsError
from stream.cli.answer import fail, print_json
from stream.cli.options import AsJson, with_settings
from stream.process.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from models.serving.scorer import Scorer

EXIT_MISMATCH = 3


@with_settings
def replay_command(
    log: Annotated[Path, typer.Argument(help="Directory of an event log.")],
    out: Annotated[Path, typer.Option("--out", help="Directory to write; must be new or empty.")],
    settings: Settings,
    no_score: Annotated[bool, typer.Option("--no-score", help="Stop at the score requests; needs no model.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Recompute every score in a recorded log; exit code 3 if one differs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Replay a log through all roles into Parquet files, or verify a live run's recorded outputs against its events.

    Writes score_requests, signals, decisions, dead_letters and rows; with --verify, verification with one row per request.
    """
    from rich.console import Console

    from schemas.errors import LogError

    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    try:
        if verify:
            _verify(log, out, settings, console, no_score, as_json)
        else:
            _replay(log, out, settings, console, no_score, as_json)
    except LogError as error:
        fail(error)


def _replay(log: Path, out: Path, settings: Settings, console: "Console", no_score: bool, as_json: bool) -> None:
    from rich.progress import track

    from schemas.topics import SOURCES
    from stream.logs.event_log import read_log, read_manifest
    from stream.offline.log_order import in_fold_order
    from stream.offline.replay_files import refuse_used, write_replay
    from stream.offline.replay_log import Replay, settings_of_log

    manifest = read_manifest(log)
    refuse_used(out)
    scorer = None if no_score else _load_scorer(settings)
    settings = settings_of_log(settings, manifest)
    replay = Replay(settings, partitions=settings.partition_count, topic_ids=manifest.topic_ids)
    total, started = sum(manifest.events.get(kind, 0) for kind in SOURCES), time.monotonic()
    events = track(
        in_fold_order(read_log(log)), "replaying", total, console=console, disable=not console.is_terminal, transient=True
    )
    summary = write_replay(replay, events, scorer, out)
    seconds = time.monotonic() - started
    totals = summary.totals
    console.print(
        f"{totals.events_in} events = {totals.applied} applied + {totals.dead_lettered} dead letters + "
        f"{summary.declared_dropped} late or duplicate; {summary.users} users; {summary.outputs}"
    )
    console.print(f"{out}: {seconds:.1f} s, {total / seconds:.0f} events per second")
    if as_json:
        print_json(summary)


def _verify(log: Path, out: Path, settings: Settings, console: "Console", no_score: bool, as_json: bool) -> None:
    from rich.progress import Progress

    from stream.offline.verification import summary_tables, write_verification

    scorer = None if no_score else _load_scorer(settings)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("verifying", total=None)
        found = write_verification(
            log, settings, scorer, out, lambda done, total: progress.update(task, completed=done, total=total)
        )
    _print_tables(console, summary_tables(found))
    if not found.equal and not found.mismatched:
        console.print(f"nothing in {log} could be verified: record the topics from their first offset")
    if as_json:
        print_json(found)
    if not found.agrees:
        raise typer.Exit(EXIT_MISMATCH)


def _print_tables(console: "Console", tables: dict[str, list[tuple[str, str]]]) -> None:
    from rich.table import Table

    for title, rows in tables.items():
        table = Table(title=title, title_justify="left", show_header=False)
        for name, value in rows:
            table.add_row(name, value)
        console.print(table)


def _load_scorer(settings: Settings) -> "Scorer":
    from models.serving.scorer import Scorer

    if not settings.checkpoint.is_dir():
        raise SettingsError(
            f"setting checkpoint (FOOTFALL_CHECKPOINT): found no folder {settings.checkpoint}, expected a model: run "
            "`footfall train`, or replay with --no-score"
        )
    try:
        return Scorer.load(settings.checkpoint, threads=settings.model_threads)
    except (FootfallError, ValueError) as error:  # changed files, another feature spec, or a registry without a serving model
        fail(error)
