"""Read whether a baseline beats a model, from the report beside its checkpoint.

footfall evaluate writes the report: `verdict` says for every head whether the model wins, or which baselines beat it.
Start at read_verdict.
"""

from pathlib import Path

import msgspec
from msgspec import Struct

from schemas.errors import EvaluationError

EVALUATE = "run footfall evaluate on this model"


class HeadVerdict(Struct, frozen=True, kw_only=True):
    """The verdict on one head; churn is judged over all its horizons."""

    wins: bool
    beaten_by: list[str] = []
    text: str = ""


class ReportVerdict(Struct, frozen=True, kw_only=True):
    """The keys of report.json that are read here; other keys are for people and for comparisons."""

    verdict: dict[str, HeadVerdict]
    model_version: str | None = None

    def lost_heads(self) -> list[str]:
        """Describe each head that the model does not win; empty if it wins them all."""
        return [
            f"{head}: {found.text or ('beaten by ' + ', '.join(found.beaten_by))}"
            for head, found in self.verdict.items()
            if not found.wins or found.beaten_by
        ]


def read_verdict(path: Path, model_version: str) -> ReportVerdict | None:
    """Read a report; None if there is none.

    Raises:
        EvaluationError: it cannot be decoded, has no verdict, or is of another model.
    """
    try:
        report = msgspec.json.decode(path.read_bytes(), type=ReportVerdict)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise EvaluationError(f"{path}: {error}, expected a report with a verdict: {EVALUATE}") from error
    if not report.verdict:
        raise EvaluationError(f"found no verdict in {path}, expected the verdict on at least one head: {EVALUATE}")
    if report.model_version not in (None, model_version):
        raise EvaluationError(f"{path} evaluates {report.model_version}, expected {model_version}: {EVALUATE}")
    return report
