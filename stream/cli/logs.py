"""`footfall simulate` and `footfall import`: make an event log, or read foreign files into one.

Parses and delegates: a summary for people goes to stderr, with --json the facts go to stdout. Bad input ends with
code 2 before anything is written. Start at app.
"""

import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from stream.event_log import ImportCounts, LoggedEvent, LogManifest

TRUTH = "truth.json"

app = typer.Typer(no_args_is_help=True)
import_app = typer.Typer(name="import", no_args_is_help=True, help="Read foreign event files into an event log.")
app.add_typer(import_app)

Out = Annotated[Path, typer.Option("--out", help="Directory to write; must be new or empty.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]


@app.command()
def simulate(
    out: Out,
    seed: Annotated[int, typer.Option(help="Equal seeds make equal logs.")] = 1,
    shoppers: Annotated[int, typer.Option(help="How many people shop.")] = 300,
    days: Annotated[int, typer.Option(help="Length of the period.")] = 60,
    start: Annotated[str, typer.Option(help="First day, YYYY-MM-DD in UTC.")] = "2026-01-01",
    late: Annotated[float, typer.Option(help="Fraction of events that arrive late.")] = 0.0,
    duplicates: Annotated[float, typer.Option(help="Fraction of events that arrive twice.")] = 0.0,
    malformed: Annotated[float, typer.Option(help="Fraction of events to add a malformed record for.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Make a shop's event log with known truth: interests, churn dates and injected dirt, in truth.json beside it."""
    import msgspec

    from stream.simulate import simulate as make_events
    from stream.simulate_dirt import truth
    from stream.simulate_shopper import SimulatorConfig

    console = _console()
    try:
        config = SimulatorConfig(
            seed=seed,
            shoppers=shoppers,
            days=days,
            start_ms=int(datetime.strptime(start, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000),
            late=late,
            duplicates=duplicates,
            malformed=malformed,
        )
        _refuse_used(out)
        with console.status("drawing events"):
            events = make_events(config)
        manifest = _write(console, out, [event.logged for event in events], f"footfall simulate, seed {seed}", None)
    except (ValueError, OSError) as error:
        _fail(error)
    known = truth(config, events)
    (out / TRUTH).write_bytes(msgspec.json.encode(known) + b"\n")
    _summarise(console, out, manifest)
    console.print(
        f"truth: {len(known.shoppers)} shoppers, {known.churned} churn within the period; dirt {known.dirt or 'none'}"
    )
    if as_json:
        _print_json({"log": str(out), "manifest": manifest, "churned": known.churned, "dirt": known.dirt})


@import_app.command("online-retail")
def online_retail(
    directory: Annotated[Path, typer.Argument(help="Directory of the day files of UCI Online Retail.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Import UCI Online Retail: purchases, returns and derived visits, in GBP."""
    from stream.importers.online_retail import SOURCE, import_online_retail

    _import(import_online_retail, directory, out, SOURCE, as_json)


@import_app.command("taobao")
def taobao(
    file: Annotated[Path, typer.Argument(help="UserBehavior.csv of the Taobao set.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Import Taobao user behaviour: browses, clicks and purchases whose price is unknown (0 CNY)."""
    from stream.importers.taobao import SOURCE, import_taobao

    _import(import_taobao, file, out, SOURCE, as_json)


def _import(
    read: "Callable[[Path], tuple[list[LoggedEvent], ImportCounts]]", path: Path, out: Path, source: str, as_json: bool
) -> None:
    console = _console()
    try:
        _refuse_used(out)
        with console.status("reading"):
            events, counts = read(path)
        manifest = _write(console, out, events, source, counts)
    except (ValueError, OSError) as error:
        _fail(error)
    _summarise(console, out, manifest)
    kept, dropped = sum(counts.lines_kept.values()), sum(counts.lines_dropped.values())
    console.print(f"lines: {counts.lines_in} in = {kept} kept + {dropped} dropped {counts.lines_dropped}; notes {counts.notes}")
    if as_json:
        _print_json({"log": str(out), "manifest": manifest})


def _refuse_used(out: Path) -> None:
    """Say at once what write_log would say after the work."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty directory: choose another or delete it")


def _write(
    console: "Console", out: Path, events: "list[LoggedEvent]", source: str, imports: "ImportCounts | None"
) -> "LogManifest":
    from rich.progress import track

    from stream.event_log import write_log

    tracked: Iterable[LoggedEvent] = track(events, "writing", console=console, disable=not console.is_terminal, transient=True)
    return write_log(out, tracked, source=source, imports=imports)


def _summarise(console: "Console", out: Path, manifest: "LogManifest") -> None:
    total = sum(manifest.events.values())
    console.print(
        f"{out}: {total} events {manifest.events} from {_day(manifest.first_record_ms)} to {_day(manifest.last_record_ms)}"
    )


def _day(record_ms: int | None) -> str:
    return "-" if record_ms is None else f"{datetime.fromtimestamp(record_ms / 1000, UTC):%Y-%m-%d %H:%M}"


def _print_json(result: dict[str, object]) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(2)
