"""Define `footfall models ls|show|check|add|promote|rollback`, the commands of the model registry.

Results go to stdout, as tables or with --json as JSON; notes go to stderr. Wrong input exits with code 2, a refused model
with code 3. Start at app.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import FootfallError
from stream.cli.answer import print_json
from stream.cli.model_tables import model_facts, print_findings, print_manifest, print_models, print_verdict
from stream.cli.options import AsJson, with_settings
from stream.cli.show import print_table
from stream.process.settings import Settings

if TYPE_CHECKING:
    from models.serving.golden_users import Golden
    from models.serving.registry import Registry

EXIT_USAGE, EXIT_REFUSED = 2, 3

Model = Annotated[str, typer.Argument(help="A version in the registry, or a checkpoint folder.")]
GoldenFile = Annotated[
    Path | None, typer.Option("--golden", help="YAML of golden users instead of the installed golden_users.yaml.")
]

app = typer.Typer(no_args_is_help=True, help="List, check, promote and roll back models in the registry.")


@app.command("ls")
@with_settings
def ls_command(settings: Settings, as_json: AsJson = False) -> None:
    """List the registry's models with their test metrics; * marks the serving one."""
    from models.serving.registry import Registry

    registry = Registry(settings.registry)
    with _faults(as_json):
        production = registry.production()
        current = None if production is None else production.current
        models = [model_facts(registry, version, current) for version in registry.versions()]
    if as_json:
        print_json({"registry": str(registry.folder), "current": current, "models": models})
        return
    print_models(models)
    sys.stderr.write(f"{len(models)} models in {registry.folder}, serving: {current or 'none'}\n")


@app.command("show")
@with_settings
def show_command(model: Model, settings: Settings, as_json: AsJson = False) -> None:
    """Show a model's manifest, its verdict against the baselines, and when it served."""
    import msgspec

    from models.evaluation.report_document import REPORT
    from models.evaluation.verdict import read_verdict
    from models.serving.checkpoint import read_manifest
    from models.serving.registry import Registry

    registry = Registry(settings.registry)
    with _faults(as_json):
        folder = _folder(registry, model)
        manifest = read_manifest(folder)
        report = read_verdict(folder / REPORT, manifest.model_version)
        production = registry.production()
    history = [
        change for change in (production.history if production else ()) if change.model_version == manifest.model_version
    ]
    if as_json:
        verdict = None if report is None else report.verdict
        print_json({"folder": str(folder), "manifest": manifest, "verdict": verdict, "history": history})
        return
    print_manifest(folder, manifest)
    print_verdict(report)
    if history:
        sys.stdout.write("\n")
        sys.stdout.flush()
        lines = [[change.at, change.action, change.command, change.without_report or ""] for change in history]
        print_table(["at", "change", "by", "without a report because"], lines)
    sys.stdout.write(
        "\nmetrics of the test slice\n" + msgspec.json.format(msgspec.json.encode(manifest.provenance.metrics)).decode()
    )
    sys.stdout.write("\n")


@app.command("check")
@with_settings
def check_command(model: Model, settings: Settings, golden: GoldenFile = None, as_json: AsJson = False) -> None:
    """Score golden users, whose correct scores are obvious. Exit code 3: the model fails one."""
    from models.serving.golden_checks import counts
    from models.serving.load_scorer import load_scorer
    from models.serving.registry import Registry
    from stream.offline.golden_replay import check_golden

    with _faults(as_json), _busy("scoring golden users"):
        scorer = load_scorer(_folder(Registry(settings.registry), model), threads=settings.model_threads)
        findings = check_golden(scorer, _golden(golden))
    found = counts(findings)
    if as_json:
        print_json({"model_version": scorer.model_version, "counts": found, "findings": findings})
    else:
        print_findings(findings)
    sys.stderr.write(f"{scorer.model_version}: {', '.join(f'{count} {outcome}' for outcome, count in found.items())}\n")
    if found["failed"]:
        raise typer.Exit(EXIT_REFUSED)


@app.command("add")
@with_settings
def add_command(
    folder: Annotated[Path, typer.Argument(help="A checkpoint folder written by footfall train.")],
    settings: Settings,
    as_json: AsJson = False,
) -> None:
    """Copy a checkpoint folder, its report and run card into the registry. Does not change the serving model."""
    from models.serving.registry import Registry

    with _faults(as_json):
        version = Registry(settings.registry).add(folder)
    if as_json:
        print_json({"model_version": version, "registry": str(settings.registry)})
    else:
        sys.stderr.write(f"added {version} to {settings.registry}; next: footfall models promote {version}\n")


@app.command("promote")
@with_settings
def promote_command(
    model: Model,
    settings: Settings,
    golden: GoldenFile = None,
    force: Annotated[
        str | None,
        typer.Option(
            "--force",
            metavar="REASON",
            help="Promote a model without a report, and record this reason in the history. Does not override a report in "
            "which a baseline wins, nor a failed golden user.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="The report.json from footfall evaluate, if it is not in the model folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a model serve if it is intact, beats every baseline and passes golden users. Exit code 3: refused."""
    from models.serving.golden_checks import counts
    from models.serving.registry import Registry
    from stream.offline.promotion import promote

    with _faults(as_json):
        if force is not None and not force.strip():
            raise ValueError("found --force without a reason, expected one for the history, such as --force 'first model'")
        stories = _golden(golden)
        with _busy("scoring golden users"):
            promoted = promote(
                Registry(settings.registry),
                model,
                stories,
                at=_now(),
                command=_command(),
                report=report,
                without_report=force,
            )
    found = counts(promoted.findings)
    if as_json:
        print_json({"promoted": promoted.model_version, "golden_users": found, "production": promoted.production})
    else:
        facts = ", ".join(f"{count} {outcome}" for outcome, count in found.items())
        sys.stderr.write(f"{promoted.model_version} serves now (golden users: {facts}); scorers that read ")
        sys.stderr.write(f"{settings.registry} load it within seconds\n")


@app.command("rollback")
@with_settings
def rollback_command(settings: Settings, as_json: AsJson = False) -> None:
    """Make the previously promoted model serve again. Exit code 3: its files have changed since."""
    from models.serving.registry import Registry

    with _faults(as_json):
        production = Registry(settings.registry).rollback(at=_now(), command=_command())
    if as_json:
        print_json({"promoted": production.current, "production": production})
    else:
        sys.stderr.write(f"{production.current} serves again\n")


@contextmanager
def _faults(as_json: bool) -> Iterator[None]:
    """Print why a command failed in one line, and exit: 3 if a model is refused, 2 if the input is missing or wrong."""
    from schemas.errors import ModelError, PromotionRefused
    from stream.offline.promotion import RefusalReason

    try:
        yield
    except (ModelError, PromotionRefused) as error:
        reason = error.reason if isinstance(error, PromotionRefused) else RefusalReason.UNUSABLE
        if as_json:
            print_json({"refused": reason, "text": str(error)})
        sys.stderr.write(f"refused: {error}\n")
        raise typer.Exit(EXIT_REFUSED) from error
    except (FootfallError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise typer.Exit(EXIT_USAGE) from error


@contextmanager
def _busy(what: str) -> Iterator[None]:
    """Show a spinner on a terminal during work that takes seconds."""
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def _folder(registry: "Registry", model: str) -> Path:
    return Path(model) if model not in registry.versions() and Path(model).is_dir() else registry.checkpoint(model)


def _golden(path: Path | None) -> "Golden":
    from models.serving.golden_users import GOLDEN_USERS, load_golden

    return load_golden(path or GOLDEN_USERS)


def _now() -> str:
    from datetime import UTC, datetime

    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _command() -> str:
    import shlex

    return shlex.join(["footfall", *sys.argv[1:]])
