"""Define `footfall features select`, which ranks features by how well they predict a label, as a table, CSV and plot.

models/data/feature_selection.py computes the ranking. The table goes to stderr, and with --json the ranking goes to stdout.
Start at select_command.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import FootfallError
from stream.cli.options import AsJson

if TYPE_CHECKING:
    from models.data.feature_selection import Ranking

SHOWN = 25

app = typer.Typer(no_args_is_help=True, help="Rank features by how well they predict a label.")


@app.callback()
def _features() -> None:
    """Keep `select` a named subcommand while it is the only one."""


@app.command("select")
def select_command(
    dataset: Annotated[Path, typer.Argument(help="Directory of a dataset.")],
    label: Annotated[
        str | None,
        typer.Option(help="Label to rank by, such as churned.30d or next_category.NAME. Default: the longest known horizon."),
    ] = None,
    bootstraps: Annotated[int, typer.Option(min=1, help="Bootstrap samples of users that stability is computed over.")] = 20,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed and dataset give the same ranking.")] = 1,
    out: Annotated[Path | None, typer.Option("--out", help="Directory for features.csv and features.png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank features by mutual information, permutation importance and stability over samples of users."""
    import msgspec
    from rich.console import Console

    from models.data.dataset_files import read_examples, read_manifest
    from models.data.examples import Slice
    from models.data.feature_selection import rank_features
    from models.data.feature_table import table_of

    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    try:
        manifest = read_manifest(dataset)
        with console.status("ranking"):
            examples = read_examples(dataset, (Slice.TRAIN, Slice.VALIDATION, Slice.CALIBRATION))
            ranking = rank_features(table_of(examples, manifest.feature_names), label=label, bootstraps=bootstraps, seed=seed)
        if out is not None:
            _write(out, ranking)
    except (FootfallError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    _show(console, ranking)
    if as_json:
        sys.stdout.write(msgspec.json.encode(ranking).decode() + "\n")


def _show(console, ranking: "Ranking") -> None:  # type: ignore[no-untyped-def]  # rich is imported by the command
    from rich.table import Column, Table

    names = ("information (nats)", "AUC lost if shuffled", "stability", "mean rank")
    table = Table(Column("feature", no_wrap=True), *names, box=None, pad_edge=False)
    for found in ranking.features[:SHOWN]:
        table.add_row(
            found.name,
            f"{found.mutual_information:.4f}",
            f"{found.permutation:+.4f}",
            f"{found.stability:.2f}",
            f"{found.mean_rank:.1f}",
        )
    console.print(table)
    console.print(
        f"{ranking.label}: {ranking.train_examples} train examples, AUC {ranking.auc:.3f} on {ranking.later_examples} of "
        f"{ranking.later_slice}; first {min(SHOWN, len(ranking.features))} of {len(ranking.features)} features shown"
    )


def _write(out: Path, ranking: "Ranking") -> None:
    import csv

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    out.mkdir(parents=True, exist_ok=True)
    columns = ranking.features[0].__struct_fields__
    with (out / "features.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows([getattr(found, column) for column in columns] for found in ranking.features)
    shown = ranking.features[SHOWN - 1 :: -1] if len(ranking.features) >= SHOWN else ranking.features[::-1]
    figure, axes = pyplot.subplots(1, 3, sharey=True, figsize=(12, 0.28 * len(shown) + 1.5))
    titles = {"mutual_information": "mutual information (nats)", "permutation": "AUC lost", "stability": "stability"}
    for axis, (column, title) in zip(axes, titles.items(), strict=True):
        axis.barh([found.name for found in shown], [getattr(found, column) for found in shown], color="#3b6ea5")
        axis.set_title(title)
    figure.suptitle(f"{ranking.label}, best {len(shown)} of {len(ranking.features)} features")
    figure.tight_layout()
    figure.savefig(out / "features.png", dpi=110)
    pyplot.close(figure)
