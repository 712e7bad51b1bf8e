"""Compare the metrics of two reports, and mark the changes that exceed the noise.

A change exceeds the noise if the two 95 % intervals do not overlap. `same_data` is false if the reports use different data.
Start at diff_reports.
"""

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from models.evaluation.bootstrap import Interval
from models.evaluation.report_document import LOWER_IS_BETTER, Head, Report

Change = Literal["better", "worse", "within noise", "only in A", "only in B", "unknown"]


class MetricChange(Struct, frozen=True):
    """One metric of one scorer in both reports."""

    head: str
    scorer: str
    metric: str
    a: Interval | None
    b: Interval | None
    difference: float | None
    change: Change


class ReportDiff(Struct, frozen=True):
    """Which models two reports evaluate, and every metric of both."""

    a: str
    b: str
    same_data: bool
    verdicts: dict[str, tuple[str | None, str | None]]
    changes: list[MetricChange]


def diff_reports(a: Report, b: Report) -> ReportDiff:
    """Compare every metric of the served scorers, and of the scorers with the same name in both reports."""
    verdicts = {head: tuple(_winner(report, head) for report in (a, b)) for head in dict.fromkeys([*a.verdict, *b.verdict])}
    return ReportDiff(
        a=a.model_version,
        b=b.model_version,
        same_data=(a.data_fingerprint, a.dataset) == (b.data_fingerprint, b.dataset),
        verdicts=verdicts,  # type: ignore[arg-type]  # two reports give two winners
        changes=list(_changes(a, b)),
    )


def _winner(report: Report, head: str) -> str | None:
    verdict = report.verdict.get(head)
    if verdict is None:
        return None
    return "model" if verdict.wins else ", ".join(verdict.beaten_by)


def _changes(a: Report, b: Report) -> Iterator[MetricChange]:
    first, second = ({head.title: head for head in report.heads} for report in (a, b))
    for title in dict.fromkeys([*first, *second]):
        metrics_a, metrics_b = _metrics(first.get(title)), _metrics(second.get(title))
        for scorer, metric in dict.fromkeys([*metrics_a, *metrics_b]):
            before, after = metrics_a.get((scorer, metric)), metrics_b.get((scorer, metric))
            yield MetricChange(title, scorer, metric, before, after, _difference(before, after), _change(metric, before, after))


def _metrics(head: Head | None) -> dict[tuple[str, str], Interval]:
    """Return every metric by scorer; the served scorer is always named `served`."""
    if head is None:
        return {}
    return {
        ("served" if name == head.served else name, metric): found
        for name, scorer in head.scorers.items()
        for metric, found in scorer.metrics.items()
    }


def _difference(a: Interval | None, b: Interval | None) -> float | None:
    if a is None or b is None or a.value is None or b.value is None:
        return None
    return round(b.value - a.value, 5)


def _change(metric: str, a: Interval | None, b: Interval | None) -> Change:
    if a is None or b is None:
        return "only in B" if a is None else "only in A"
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return "unknown"
    if a.low <= b.high and b.low <= a.high:
        return "within noise"
    return "better" if (b.low > a.high) != (metric in LOWER_IS_BETTER) else "worse"
