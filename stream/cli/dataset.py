"""Define `footfall dataset LOG`, which cuts a log into labelled examples, and `footfall dataset lint`, which finds leaks.

stream/offline/build_dataset.py cuts the log, models/data/leakage.py finds leaks. The summary goes to stderr, and with --json
the manifest or the verdict goes to stdout. Bad input exits with code 2, a leak with code 3. Start at cut_command.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from schemas.errors import FootfallError
from stream.cli.answer import fail, print_json
from stream.cli.options import AsJson, with_settings
from stream.cli.slices import milliseconds, periods_from
from stream.process.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from models.data.dataset_files import DatasetManifest
    from models.data.examples import Example, ReviewExample
    from models.data.leakage import Verdict
    from stream.logs.event_log import LogManifest
    from stream.offline.build_dataset import Plan


class CutUnlessNamed(TyperGroup):
    """A command group that defaults to `cut`, so that `footfall dataset LOG` cuts a log."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `cut` where no command is named."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["cut", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=CutUnlessNamed, no_args_is_help=True, help="Labelled examples for training and evaluation.")


@app.command("cut")
@with_settings
def cut_command(
    log: Annotated[Path, typer.Argument(help="Directory of an event log.")],
    out: Annotated[Path, typer.Option("--out", help="Directory to write; must be new or empty.")],
    settings: Settings,
    shares: Annotated[
        str, typer.Option(help="Fractions of the log's time span: train, validation, calibration, test.")
    ] = "0.5,0.1,0.15,0.25",
    split: Annotated[
        str | None, typer.Option(metavar="DATE,DATE,DATE[,DATE]", help="End of each slice in UTC, instead of --shares.")
    ] = None,
    embargo_days: Annotated[
        float, typer.Option(min=0, help="Gap between slices, in days. Optional: labels never cross a slice's end.")
    ] = 0.0,
    cut: Annotated[
        list[str] | None,
        typer.Option("--cut", metavar="DATE", help="Sample each user of the slice once, at this time; repeatable."),
    ] = None,
    landmarks: Annotated[int, typer.Option(min=0, help="Random landmarks per user and slice.")] = 4,
    at_events: Annotated[int, typer.Option(min=0, help="Landmarks at scored events, per user and slice.")] = 4,
    max_examples: Annotated[int, typer.Option(min=1, help="Maximum examples in total, not counting those at cuts.")] = 40_000,
    before_last_item: Annotated[
        bool,
        typer.Option("--before-last-item", help="Put the only landmark just before each user's last item in a slice."),
    ] = False,
    eligible: Annotated[
        Literal["seen", "purchase"], typer.Option(help="Users to include: all with an event, or only buyers.")
    ] = "seen",
    users: Annotated[
        list[str] | None,
        typer.Option("--users", metavar="PATTERN", help="Keep only users whose ids match, such as 'shop-a-*'; repeatable."),
    ] = None,
    returns: Annotated[
        Literal["any", "purchase"], typer.Option("--return", help="What counts as a return: any activity, or a purchase.")
    ] = "any",
    item_days: Annotated[
        float | None, typer.Option(min=0, help="Label horizon for next items, in days. Default: until the slice ends.")
    ] = None,
    sight_days: Annotated[
        float,
        typer.Option(min=0, help="Label fewer than ten next interactions only if this many days were observed."),
    ] = 14.0,
    cluster_categories: Annotated[
        int, typer.Option(min=0, help="Cluster titles into this many categories, for items without one; fitted on train.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed, log and options give the same rows.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Cut a log into labelled examples: churn, next interactions and reviews, split by time.

    Labels use only events after the landmark and before the end of its slice, so no label reaches into a later slice.
    """
    import time

    from models.data.labels import Labelling
    from models.data.landmarks import Sampling
    from stream.logs.event_log import read_manifest
    from stream.offline.build_dataset import Plan

    console, started = _console(), time.monotonic()
    try:
        _refuse_used(out)
        manifest = read_manifest(log)
        plan = Plan(
            periods=periods_from(manifest, shares, split, embargo_days),
            sampling=Sampling(
                seed=seed,
                landmarks=0 if before_last_item else landmarks,
                at_events=0 if before_last_item else at_events,
                max_examples=max_examples,
                cuts_ms=tuple(milliseconds(date) for date in cut or ()),
                before_last_item=before_last_item,
                eligible=eligible,
                users=tuple(users or ()),
            ),
            labelling=Labelling(returns=returns, sight_days=sight_days, item_days=item_days),
            cluster_categories=cluster_categories,
        )
        written = _write(console, log, out, settings, plan, manifest, embargo_days)
    except (FootfallError, ValueError, OSError) as error:
        fail(error)
    _summarise(console, out, written, time.monotonic() - started)
    if as_json:
        print_json(written)


def _write(
    console: "Console", log: Path, out: Path, settings: Settings, plan: "Plan", log_manifest: "LogManifest", embargo_days: float
) -> "DatasetManifest":
    import msgspec
    from rich.progress import Progress

    from models.data.dataset_counts import count_examples, count_reviews
    from models.data.dataset_files import DatasetManifest, write_examples, write_manifest
    from models.data.labels import HORIZONS_DAYS
    from models.features.spec import FEATURE_SPEC
    from stream.logs.event_log import read_log
    from stream.offline.build_dataset import cut_dataset
    from stream.offline.log_order import in_fold_order
    from stream.offline.replay_log import settings_of_log

    sources, settings = read_log(log), settings_of_log(settings, log_manifest)
    total = sources.expected()
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        events = progress.track(in_fold_order(sources), total, description="reading")
        folding = progress.add_task("folding", total=None)
        found = cut_dataset(
            events,
            settings,
            plan,
            expected=total,
            progress=lambda done, buckets: progress.update(folding, completed=done, total=buckets),
        )
    if not found.examples and not found.reviews:
        raise ValueError(f"found no users to label in {log}: increase --landmarks, or choose other slices or another log")
    write_examples(out, found.examples, found.reviews, found.categories)
    manifest = DatasetManifest(
        source=log_manifest.source,
        fingerprint=found.fingerprint,
        spec_version=FEATURE_SPEC.version,
        feature_names=FEATURE_SPEC.names,
        periods=plan.periods,
        embargo_days=embargo_days,
        sampling=plan.sampling,
        labelling=plan.labelling,
        cluster_categories=plan.cluster_categories,
        horizons_days=HORIZONS_DAYS,
        counts=count_examples(found.examples, HORIZONS_DAYS),
        reviews=count_reviews(found.reviews),
        reviews_left_out=found.reviews_left_out,
        refused=found.refused,
    )
    verdict = _lint(console, log, settings, manifest, found.examples, found.reviews, found.categories)
    if verdict.leaks:
        _refuse_leaks(verdict, f"{out} has no manifest: fix the code that computes the column, then cut into a new directory")
    manifest = msgspec.structs.replace(manifest, lint=msgspec.to_builtins(verdict))
    write_manifest(out, manifest)
    return manifest


@app.command("lint")
@with_settings
def lint_command(
    dataset: Annotated[Path, typer.Argument(help="Directory of a dataset.")],
    settings: Settings,
    log: Annotated[
        Path | None, typer.Option("--log", help="The log it was cut from, to recompute a sample of examples.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search a dataset for leaks: by prefix (with --log), label overlap, identity and split. Exit code 3: found a leak."""
    from models.data.dataset_files import read_categories, read_examples, read_manifest, read_reviews

    console = _console()
    try:
        manifest, categories = read_manifest(dataset), read_categories(dataset)
        with console.status("reading"):
            examples, reviews = read_examples(dataset), read_reviews(dataset)
        verdict = _lint(console, log, settings, manifest, examples, reviews, categories)
    except (FootfallError, ValueError, OSError) as error:
        fail(error)
    if as_json:
        print_json(verdict)
    if verdict.leaks:
        _refuse_leaks(verdict, "train no model on this dataset")
    console.print(f"no leaks found; searched {verdict.searched}" + ("" if log else "; add --log to search by prefix too"))


def _lint(
    console: "Console",
    log: Path | None,
    settings: Settings,
    manifest: "DatasetManifest",
    examples: "Sequence[Example]",
    reviews: "Sequence[ReviewExample]",
    categories: "Mapping[str, str]",
) -> "Verdict":
    from rich.progress import track

    from models.data.leakage import lint
    from stream.logs.event_log import read_log, read_manifest
    from stream.offline.dataset_prefix import rebuild_examples
    from stream.offline.log_order import in_fold_order
    from stream.offline.replay_log import settings_of_log

    again = None
    if log is not None:
        log_manifest = read_manifest(log)
        total = sum(log_manifest.events.values())
        events = track(
            in_fold_order(read_log(log)),
            "searching for leaks",
            total,
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        again = rebuild_examples(
            events,
            settings_of_log(settings, log_manifest),
            examples,
            periods=manifest.periods,
            labelling=manifest.labelling,
            categories=categories,
            seed=manifest.sampling.seed,
            fingerprint=manifest.fingerprint,
        )
    return lint(examples, reviews, names=manifest.feature_names, periods=manifest.periods, again=again)


def _refuse_leaks(verdict: "Verdict", remedy: str) -> NoReturn:
    for leak in verdict.leaks:
        typer.echo(f"leak ({leak.check}): {leak.column}: {leak.detail}", err=True)
    typer.echo(f"error: found {len(verdict.leaks)} leaks, expected none: {remedy}", err=True)
    raise typer.Exit(3)


def _summarise(console: "Console", out: Path, manifest: "DatasetManifest", seconds: float) -> None:
    from models.data.landmarks import to_the_minute

    for period in manifest.periods:
        found, reviews = manifest.counts[period.slice.value], manifest.reviews[period.slice.value]
        churn = ", ".join(f"{days} {of['churned']:.3f} of {of['known']}" for days, of in found["churn"].items())
        console.print(
            f"{period.slice.value:<11} {to_the_minute(period.start_ms)} to {to_the_minute(period.end_ms)}: "
            f"{found['examples']} examples "
            f"({found['at_events']} at events) of {found['users']} users; churned within {churn or '- unknown'}; "
            f"{found['with_categories']} with next categories, {found['with_items']} with next items; "
            f"{reviews['reviews']} reviews ({reviews['positive']} positive, {reviews['negative']} negative)"
        )
    if manifest.refused:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(manifest.refused.items()))
        console.print(f"events that every role refuses: {reasons}; list them with footfall replay LOG --no-score --out DIR")
    console.print(f"{out}: {seconds:.1f} s")


def _refuse_used(out: Path) -> None:
    """Refuse a non-empty directory before the work, with the error that writing would raise after it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty directory: choose another or delete it")


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
