"""Promote a checkpoint to serve in production, or refuse with a named reason.

A model must be intact, beat every baseline in its evaluation report, and pass the checks of golden users. Golden users are
invented shoppers whose correct scores are obvious. Only a stated reason replaces a report. Start at promote.
"""

from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from models.evaluation.report_document import REPORT
from models.evaluation.verdict import EVALUATE, read_verdict
from models.serving.checkpoint import load_checkpoint
from models.serving.golden_checks import Finding
from models.serving.golden_users import Golden
from models.serving.load_scorer import load_scorer
from models.serving.registry import Production, Registry
from schemas.errors import EvaluationError, ModelError, PromotionRefused
from stream.offline.golden_replay import check_golden


class RefusalReason(StrEnum):
    """Why a model is not promoted."""

    UNUSABLE = "unusable"  # altered, built by another feature spec, or without the horizon that signals need
    NO_REPORT = "no_report"
    BAD_REPORT = "bad_report"
    BASELINE_WINS = "baseline_wins"
    GOLDEN_USER = "golden_user"


class Promoted(Struct, frozen=True, kw_only=True):
    """The result of a promotion."""

    model_version: str
    production: Production
    findings: list[Finding]


def promote(
    registry: Registry,
    model: str,
    golden: Golden,
    *,
    at: str,
    command: str,
    report: Path | None = None,
    without_report: str | None = None,
) -> Promoted:
    """Make a registry version, or a checkpoint folder that is then added to the registry, the production model.

    `report` replaces the report kept beside the model. `without_report` is the reason why none is needed; a report that
    exists, or is passed, is checked all the same.

    Raises:
        PromotionRefused: the previous model keeps serving, and the registry is unchanged.
        RegistryError: there is no such model, or production.json cannot be used.
    """
    try:
        outside = model not in registry.versions() and Path(model).is_dir()
        folder = Path(model) if outside else registry.checkpoint(model)
        version = load_checkpoint(folder).manifest.model_version
        kept = registry.folder / version / REPORT  # exists if the version was added before
        own = folder / REPORT
        path = report or (own if own.is_file() or not kept.is_file() else kept)
        _check_report(path, version, without_report if report is None else None)
        judged = None if report is None else report.read_bytes()  # adding the folder may overwrite it
        findings = check_golden(load_scorer(folder), golden)
    except ModelError as error:
        raise PromotionRefused(RefusalReason.UNUSABLE, str(error)) from error
    if failed := [finding for finding in findings if finding.outcome == "failed"]:
        shown = "; ".join(f"{finding.story}: expected {finding.rule}, found {finding.found}" for finding in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise PromotionRefused(RefusalReason.GOLDEN_USER, f"{shown}{more}: see footfall models check {model}")
    registry.production()  # raises before anything is written if nothing can be promoted
    try:
        if outside:
            registry.add(folder)
    except ModelError as error:
        raise PromotionRefused(RefusalReason.UNUSABLE, str(error)) from error
    if judged is not None:
        kept.write_bytes(judged)
    production = registry.promote(version, at=at, command=command, without_report=without_report)
    return Promoted(model_version=version, production=production, findings=findings)


def _check_report(path: Path, version: str, without_report: str | None) -> None:
    try:
        report = read_verdict(path, version)
    except EvaluationError as error:
        raise PromotionRefused(RefusalReason.BAD_REPORT, str(error)) from error
    if report is None:
        if without_report is None:
            raise PromotionRefused(
                RefusalReason.NO_REPORT,
                f"found no {path}, expected the report of {version}: {EVALUATE}, or promote it with --force REASON and no "
                "--report",
            )
        return
    if lost := report.lost_heads():
        raise PromotionRefused(
            RefusalReason.BASELINE_WINS,
            f"{'; '.join(lost)}: train another model, or promote one that no baseline beats",
        )
