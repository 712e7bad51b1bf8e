"""Define `footfall report diff A B`, which compares two reports from footfall evaluate. Start at diff_command."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.options import AsJson

if TYPE_CHECKING:
    from models.evaluation.bootstrap import Interval
    from models.evaluation.report_diff import ReportDiff

app = typer.Typer(no_args_is_help=True, help="Compare reports from footfall evaluate.")


@app.callback()
def _report() -> None:
    """Keep `diff` a named subcommand while it is the only one."""


@app.command("diff")
def diff_command(
    a: Annotated[Path, typer.Argument(help="A report.json, or the folder that holds one.")],
    b: Annotated[Path, typer.Argument(help="Another report, such as of a later model.")],
    every: Annotated[bool, typer.Option("--all", help="Show metrics of every scorer, not only the served model.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the metrics of two reports, and mark changes whose 95 % intervals do not overlap."""
    import msgspec

    from models.evaluation.report_diff import diff_reports
    from models.evaluation.report_document import read_report
    from schemas.errors import EvaluationError

    try:
        found = diff_reports(read_report(a), read_report(b))
    except EvaluationError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        _show(found, every)


def _show(found: "ReportDiff", every: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
    console.print(f"A {found.a}\nB {found.b}", markup=False)
    if not found.same_data:
        console.print("the reports are of different data or cuts: a change may come from the data", markup=False)
    for head, (first, second) in found.verdicts.items():
        console.print(f"{head}: winner {first or '-'} in A, {second or '-'} in B", markup=False)
    table = Table(box=None, pad_edge=False)
    for column in ("head", "scorer", "metric", "A", "B", "B - A", "change"):
        table.add_column(column, justify="left" if column in ("head", "scorer", "metric", "change") else "right")
    for one in found.changes:
        if every or one.scorer == "served":
            difference = "-" if one.difference is None else f"{one.difference:+.4f}"
            table.add_row(one.head, one.scorer, one.metric, _span(one.a), _span(one.b), difference, one.change)
    console.print(table)


def _span(found: "Interval | None") -> str:
    if found is None or found.value is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.value:.4f}"
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"
