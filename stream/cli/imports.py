"""Define `footfall import …`, which reads external files into an event log.

stream/logs/importers/ reads the files. Counts go to stderr, and with --json the result goes to stdout. Bad input exits with
code 2 and leaves no log behind. Start at app.
"""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import FootfallError
from stream.cli.answer import fail, print_json
from stream.cli.log_output import Out, stderr_console, summarise, write_events
from stream.cli.options import AsJson

if TYPE_CHECKING:
    from rich.console import Console

    from stream.logs.event_log import ImportCounts, LoggedEvent, LogManifest
    from stream.logs.importers.logged_events import Samples

    Imported = tuple[Iterable[LoggedEvent], ImportCounts]

app = typer.Typer(no_args_is_help=True, help="Import external event files into an event log.")

MaybeOut = Annotated[Path | None, typer.Option("--out", help="Directory to write; must be new or empty.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count lines and show refused ones by reason; write nothing.")]


@app.command("transactions")
def transactions(
    file: Annotated[Path, typer.Argument(help="A table, .csv or .csv.gz, with columns for customer and date.")],
    out: MaybeOut = None,
    customer: Annotated[str | None, typer.Option(help="Customer column; default: detected by name.")] = None,
    date: Annotated[str | None, typer.Option(help="Date or time column.")] = None,
    item: Annotated[str | None, typer.Option(help="Item column, if any.")] = None,
    amount: Annotated[str | None, typer.Option(help="Amount column: a line total, or a unit price if named price.")] = None,
    quantity: Annotated[str | None, typer.Option(help="Quantity column, if any.")] = None,
    date_format: Annotated[str | None, typer.Option(help="iso, seconds, milliseconds or a format such as %d.%m.%Y.")] = None,
    zone: Annotated[str, typer.Option(help="Time zone of the dates.")] = "UTC",
    currency: Annotated[str | None, typer.Option(help="Currency of the amounts; default: setting reporting_currency.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Column delimiter; default: detected.")] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of the file.")] = "utf-8-sig",
    no_heading: Annotated[bool, typer.Option("--no-heading", help="The file has no header row; name columns 1, 2, …")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Import a table of customer, date and optionally item, amount, quantity, as purchases and derived visits."""
    from stream.logs.importers.transactions import TransactionOptions, choose_columns, import_transactions
    from stream.process.settings import load_settings

    console = stderr_console()
    currency = currency or load_settings().reporting_currency
    options = TransactionOptions(
        customer=customer,
        date=date,
        item=item,
        amount=amount,
        quantity=quantity,
        date_format=date_format,
        delimiter=delimiter,
        encoding=encoding,
        heading=not no_heading,
        zone=zone,
        currency=currency,
    )

    def read(samples: "Samples") -> "Imported":
        with console.status("detecting the columns"):
            chosen = choose_columns(file, options)
        console.print(
            f"found customer {chosen.customer!r}, date {chosen.date!r} ({chosen.date_format}, {zone}), item {chosen.item!r}, "
            f"amount {chosen.amount!r} ({currency}, {'unit price' if chosen.amount_is_price else 'line total'}), "
            f"quantity {chosen.quantity!r}; unused: {', '.join(chosen.unused) or 'none'}"
        )
        return import_transactions(file, options, chosen, samples)

    _import(console, read, out, f"transactions of {file.name}, amounts in {currency}", as_json, dry_run=dry_run)


@app.command("csv")
def csv(
    file: Annotated[Path, typer.Argument(help="A table, .csv or .csv.gz, one row per event or purchase line.")],
    mapping: Annotated[Path, typer.Option("--map", help="YAML file that maps the columns; see docs/how-to/.")],
    out: MaybeOut = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Import a shop's table with a YAML map of its columns."""
    from stream.logs.importers.csv_events import import_csv
    from stream.logs.importers.csv_map import load_map

    try:
        found = load_map(mapping)
    except FootfallError as error:
        fail(error)
    _import(stderr_console(), lambda samples: import_csv(file, found, samples), out, found.source, as_json, dry_run=dry_run)


@app.command("jsonl")
def jsonl(
    file: Annotated[Path, typer.Argument(help="Events as JSON lines, .jsonl or .jsonl.gz, each with a `kind`.")],
    out: MaybeOut = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Import Footfall events as JSON lines: each event's fields and its `kind`."""
    from stream.logs.importers.jsonl import import_jsonl

    source = f"JSON lines of {file.name}"
    _import(stderr_console(), lambda samples: import_jsonl(file, samples), out, source, as_json, dry_run=dry_run)


@app.command("online-retail")
def online_retail(
    directory: Annotated[Path, typer.Argument(help="Directory of UCI Online Retail's daily files.")],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Import UCI Online Retail: purchases, returns and derived visits, in GBP."""
    from stream.logs.importers.online_retail import SOURCE, import_online_retail

    _import(stderr_console(), lambda _: import_online_retail(directory), out, SOURCE, as_json)


@app.command("taobao")
def taobao(
    file: Annotated[Path, typer.Argument(help="UserBehavior.csv of the Taobao data set.")],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Import Taobao user behaviour: browses, clicks and purchases, with price unknown (0 CNY)."""
    from stream.logs.importers.taobao import SOURCE, import_taobao

    _import(stderr_console(), lambda _: import_taobao(file), out, SOURCE, as_json)


@app.command("yoochoose")
def yoochoose(
    directory: Annotated[Path, typer.Argument(help="Directory of day*_*.parquet files, sessions by day.")],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Import Yoochoose sessions: clicks and derived visits. Each session is a user; times of day are synthetic."""
    from stream.logs.importers.yoochoose import SOURCE, import_yoochoose

    _import(stderr_console(), lambda _: import_yoochoose(directory), out, SOURCE, as_json)


@app.command("zh-reviews")
def zh_reviews(
    file: Annotated[Path, typer.Argument(help="online_shopping_10_cats, .csv or .zip.")],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Import Chinese reviews of ten categories: reviews and ratings. Each is its own user; times are synthetic."""
    from stream.logs.importers.zh_reviews import SOURCE, import_zh_reviews

    _import(stderr_console(), lambda _: import_zh_reviews(file), out, SOURCE, as_json)


@app.command("gift-cards")
def gift_cards(
    file: Annotated[Path, typer.Argument(help="Gift_Cards_5.json, gzipped or not.")],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Import Amazon gift card reviews: reviews and ratings, linked by user."""
    from stream.logs.importers.gift_cards import SOURCE, import_gift_cards

    _import(stderr_console(), lambda _: import_gift_cards(file), out, SOURCE, as_json)


@app.command("best-buy")
def best_buy(
    directory: Annotated[Path, typer.Argument(help="Directory of train.csv and test.csv.")],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Import Best Buy queries: searches and the clicks that followed."""
    from stream.logs.importers.best_buy import SOURCE, import_best_buy

    _import(stderr_console(), lambda _: import_best_buy(directory), out, SOURCE, as_json)


def _import(
    console: "Console",
    read: "Callable[[Samples], Imported]",
    out: Path | None,
    source: str,
    as_json: bool,
    *,
    dry_run: bool = False,
) -> None:
    """Read events, write them unless this is a dry run, and print how many lines were kept or dropped and why."""
    from stream.logs.event_log import refuse_used

    samples: Samples = {}
    manifest: LogManifest | None = None
    try:
        if out is None and not dry_run:
            raise ValueError("found no --out, expected a directory to write to: add --out or --dry-run")
        if out is not None:
            refuse_used(out)
        with console.status("reading"):
            events, counts = read(samples)
            events = iter(events)
            first = next(events, None)
            if out is None or dry_run:
                deque(events, maxlen=0)  # reading counts them
        if out is not None and not dry_run and first is not None:
            manifest = write_events(console, out, chain([first], events), source, counts)
            summarise(console, out, manifest)
        else:
            console.print(f"nothing written; the log would hold {sum(counts.events.values())} events {counts.events}")
    except (FootfallError, ValueError, OSError) as error:
        fail(error)
    kept, dropped = sum(counts.lines_kept.values()), sum(counts.lines_dropped.values())
    console.print(f"lines: {counts.lines_in} in = {kept} kept + {dropped} dropped {counts.lines_dropped}; notes {counts.notes}")
    for derived in counts.derived:
        console.print(f"derived: {derived}")
    for reason, lines in samples.items():
        for line in lines:
            console.print(f"{reason}: {line}")
    if as_json:
        log = None if manifest is None else str(out)
        print_json({"log": log, "manifest": manifest, "imports": counts, "samples": samples})
    if first is None:
        fail(ValueError("found no line that yields an event, expected at least one: correct the file, its map or the options"))
