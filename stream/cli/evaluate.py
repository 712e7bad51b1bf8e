"""Define `footfall evaluate`, which compares a model with every baseline and writes report.json and report.html.

models/evaluation/evaluate_model.py does the comparison. Progress and a summary go to stderr, and with --json the verdict goes
to stdout. Start at evaluate_command.
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import FootfallError
from stream.cli.answer import fail
from stream.cli.options import AsJson

if TYPE_CHECKING:
    from rich.console import Console

    from models.evaluation.candidates import Candidate
    from models.evaluation.report_document import Report


def evaluate_command(
    model: Annotated[Path, typer.Argument(help="Checkpoint from footfall train, or folder from footfall train texts.")],
    dataset: Annotated[Path, typer.Argument(help="Directory of a dataset from footfall dataset.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for report.json and report.html; use MODEL so that it can be promoted.")
    ],
    beside: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Another checkpoint to compare with, such as one before tuning; repeatable."),
    ] = None,
    replicates: Annotated[int, typer.Option(min=20, help="Bootstrap replicates (draws of users) per interval.")] = 300,
    grace_days: Annotated[
        int, typer.Option(min=1, help="Days of inactivity to which the lead time of alerts is measured.")
    ] = 30,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed draws the same users.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="torch threads; default: torch's own choice.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a model with every baseline on the test slice, and report the winner for each head.

    Baselines are fitted on the train and validation slices. Every metric has a bootstrap interval over whole users.
    """
    import msgspec
    from rich.console import Console

    from models.evaluation.report_document import PAGE, REPORT, write_report
    from models.evaluation.report_page import render

    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    options = {"--replicates": replicates, "--grace-days": grace_days, "--seed": seed}
    parts = ["footfall", "evaluate", str(model), str(dataset), "--out", str(out)]
    parts += [part for given in beside or () for part in ("--beside", given)]
    command = shlex.join(parts + [str(part) for option in options.items() for part in option])
    try:
        others = dict(_named(given) for given in beside or ())
        report = _measure(console, model, dataset, others, command, replicates, grace_days, seed, threads)
        with console.status("writing the report"):
            write_report(out, report)
            (out / PAGE).write_text(render(report), encoding="utf-8")
    except (FootfallError, ValueError, OSError) as error:
        fail(error)
    _summarise(console, report, out / PAGE)
    if all(verdict.wins for verdict in report.verdict.values()):
        console.print(f"next: footfall models promote {model}" + ("" if out == model else f" --report {out / REPORT}"))
    if as_json:
        found = {"out": str(out), "model_version": report.model_version, "verdict": report.verdict}
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")


def _measure(
    console: "Console",
    model: Path,
    dataset: Path,
    others: dict[str, Path],
    command: str,
    replicates: int,
    grace_days: int,
    seed: int,
    threads: int | None,
) -> "Report":
    from datetime import UTC, datetime

    import msgspec

    from models.data.dataset_files import read_categories, read_examples, read_manifest, read_reviews
    from models.evaluation.candidates import Setup
    from models.evaluation.evaluate_model import FITTED_ON, evaluate
    from models.evaluation.report_document import Report
    from models.evaluation.served_scores import FEW_LABELS, SERVED, few_labels_points, load_candidates

    manifest, clusters = read_manifest(dataset), read_categories(dataset)
    with console.status("reading the dataset"):
        examples, reviews = read_examples(dataset), read_reviews(dataset)
    horizons, returns = manifest.horizons_days, manifest.labelling.returns
    with console.status("scoring the test slice"):
        loaded = load_candidates(model, examples, reviews, horizons, returns, threads=threads)
        candidates: dict[str, Candidate] = dict(loaded.candidates)
        for name, folder in others.items():
            candidates[name] = load_candidates(folder, examples, reviews, horizons, returns, threads=threads).candidates[SERVED]
    setup = Setup(served=SERVED, replicates=replicates, seed=seed, grace_days=grace_days)
    with console.status("fitting baselines and measuring"):
        found = evaluate(examples, reviews, candidates, horizons, clusters, setup)
    few = model / FEW_LABELS
    return Report(
        model_version=loaded.model_version,
        data_fingerprint=manifest.fingerprint,
        command=command,
        created_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        verdict=found.verdict,
        heads=found.heads,
        settings={
            "replicates": replicates,
            "seed": seed,
            "grace_days": grace_days,
            "baselines_fitted_on": ", ".join(FITTED_ON),
            "beside": {name: str(folder) for name, folder in others.items()},
        },
        model=loaded.facts,
        dataset={
            "source": manifest.source,
            "spec_version": manifest.spec_version,
            "slices": ", ".join(
                f"{name} {count['examples']} examples of {count['users']} users" for name, count in manifest.counts.items()
            ),
            "reviews": ", ".join(f"{name} {count['reviews']}" for name, count in manifest.reviews.items()),
            "return": returns,
            "embargo": manifest.embargo,
        },
        few_labels=few_labels_points(msgspec.json.decode(few.read_bytes())) if few.is_file() else [],
    )


def _named(given: str) -> tuple[str, Path]:
    name, is_given, folder = given.partition("=")
    if not is_given or not name or not folder:
        raise ValueError(f"found --beside {given!r}, expected NAME=FOLDER such as 'before fine-tuning=models/first'")
    return name, Path(folder)


def _summarise(console: "Console", report: "Report", page: Path) -> None:
    for head in report.heads:
        measure = head.measures[0]
        reached = [
            f"{name.replace('_', ' ')} {scorer.metrics[measure].value:.4f}"
            for name, scorer in head.scorers.items()
            if measure in scorer.metrics and scorer.metrics[measure].value is not None
        ]
        console.print(f"{head.title}: {head.n} examples; {measure}: " + ", ".join(reached))
    for name, verdict in report.verdict.items():
        console.print(f"{name}: {verdict.text}")
    console.print(f"{page}: written")
