"""The report of an evaluation, beside a checkpoint → whether a baseline beats the model.

Reads what footfall evaluate writes: `verdict` says of every head whether the model wins, or which baselines beat it.
Start at read_verdict.
"""

from pathlib import Path

import msgspec
from msgspec import Struct

from schemas.errors import EvaluationError

EVALUATE = "run footfall evaluate on it"


class HeadVerdict(Struct, frozen=True, kw_only=True):
    """What an evaluation says of one head, and of one horizon of churn."""

    wins: bool
    beaten_by: list[str] = []
    text: str = ""


class Judged(Struct, frozen=True, kw_only=True):
    """What is read of report.json; other keys are for people and for comparisons."""

    verdict: dict[str, HeadVerdict]
    model_version: str | None = None

    def lost(self) -> list[str]:
        """Say for each head that a baseline wins which one does; empty where the model wins everywhere."""
        return [
            f"{head}: {found.text or ('beaten by ' + ', '.join(found.beaten_by))}"
            for head, found in self.verdict.items()
            if not found.wins or found.beaten_by
        ]


def read_verdict(path: Path, model_version: str) -> Judged | None:
    """Read a report; None where there is none.

    Raises:
        EvaluationError: it cannot be read, says nothing, or is of another model.
    """
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Judged)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise EvaluationError(f"{path}: {error}, expected a report with a verdict: {EVALUATE}") from error
    if not report.verdict:
        raise EvaluationError(f"{path} judges no head, expected one at least: {EVALUATE}")
    if report.model_version not in (None, model_version):
        raise EvaluationError(f"{path} is of {report.model_version}, expected one of {model_version}: {EVALUATE}")
    return report
