"""Read and write report.json: the metrics of an evaluation, with intervals and numbers of examples.

footfall evaluate writes it, beside an HTML page of the same report. footfall report diff compares two of them. For
promotion, verdict.py reads only the verdict. Start at Report.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec
import orjson
from msgspec import Struct
from msgspec.structs import asdict

from models.evaluation.bootstrap import Interval
from schemas.errors import EvaluationError

FORMAT_VERSION = 1
REPORT, PAGE = "report.json", "report.html"
LOWER_IS_BETTER = frozenset({"brier", "ece", "mae"})
Status = Literal["beaten", "ahead", "behind", "lost"]


class Scorer(Struct, frozen=True):
    """Metrics of one scorer, or a note on why it has none."""

    metrics: dict[str, Interval] = {}
    note: str | None = None


class Part(Struct, frozen=True):
    """One slice of the test examples: the served scorer and the best baseline by the head's `parts_measure`."""

    by: str
    name: str
    n: int
    positives: int
    served: Interval
    baseline: Interval
    difference: Interval


class Mistake(Struct, frozen=True):
    """One confident mistake of the served scorer; the user is hashed and a text is cut."""

    user: str
    said: str
    was: str
    facts: str


class Head(Struct, frozen=True, kw_only=True):
    """One head, or one horizon of churn; `differences` are the served scorer minus each other one, pair by pair."""

    head: str
    horizon_days: int | None = None
    n: int
    positives: int
    users: int
    served: str
    measures: tuple[str, ...]
    scorers: dict[str, Scorer]
    differences: dict[str, dict[str, Interval]]
    parts_measure: str = ""
    parts: list[Part] = []
    mistakes: list[Mistake] = []
    curves: dict[str, Any] = {}
    notes: list[str] = []

    @property
    def title(self) -> str:
        """Return the name of the head with its horizon."""
        return self.head if self.horizon_days is None else f"{self.head} {self.horizon_days} d"


class Against(Struct, frozen=True):
    """The served scorer against one baseline by one measure; `beaten` and `lost` are beyond noise."""

    baseline: str
    measure: str
    status: Status
    difference: Interval


class Verdict(Struct, frozen=True):
    """Whether the served scorer may be promoted for one head; `beaten_by` names the baselines that win."""

    wins: bool
    beaten_by: list[str]
    text: str
    against: list[Against] = []


class Report(Struct, frozen=True, kw_only=True):
    """The whole report.json; `settings` say how it was measured, `dataset` and `model` say what was measured."""

    model_version: str
    data_fingerprint: str
    command: str
    created_at: str
    verdict: dict[str, Verdict]
    heads: list[Head]
    settings: dict[str, Any]
    model: dict[str, Any] = {}
    dataset: dict[str, Any] = {}
    few_labels: list[dict[str, float]] = []
    format_version: int = FORMAT_VERSION


def write_report(folder: Path, report: Report) -> None:
    """Write report.json atomically, by renaming; facts and curves may hold numpy numbers and arrays, NaN becomes null."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{REPORT}.partial"
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    partial.write_bytes(orjson.dumps(report, default=asdict, option=options))
    partial.replace(folder / REPORT)


def read_report(path: Path) -> Report:
    """Read a report.json, given its path or its folder.

    Raises:
        EvaluationError: there is no report, or its format is different.
    """
    path = path / REPORT if path.is_dir() else path
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except OSError as error:
        raise EvaluationError(
            f"found no report at {path} ({error}): create one with footfall evaluate MODEL DATASET --out FOLDER"
        ) from error
    except msgspec.DecodeError as error:
        raise EvaluationError(f"{path} is not a report ({error}): create it again with footfall evaluate") from error
    if report.format_version != FORMAT_VERSION:
        raise EvaluationError(
            f"{path} has format {report.format_version}, expected {FORMAT_VERSION}: run footfall evaluate again"
        )
    return report
