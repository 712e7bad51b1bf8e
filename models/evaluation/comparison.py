"""Compare several scorers on the same examples: intervals, paired differences and the verdict.

One scorer is the model as it is served. The others are baselines, or variants of that model. Start at compare.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from models.evaluation.bootstrap import Floats, Interval, Statistic, Weights, interval, replicate
from models.evaluation.report_document import LOWER_IS_BETTER, Against, Scorer, Status, Verdict

TRIVIAL = frozenset({"majority", "popularity"})  # baselines that must be beaten beyond noise
NEGLIGIBLE = 0.005  # a difference up to this is no reason to prefer a baseline

Replicates = dict[str, dict[str, Floats]]  # scorer → measure → (1 + R,)


class Comparison(NamedTuple):
    """Metrics of every scorer, the served scorer minus each other one, and the replicates behind both."""

    scorers: dict[str, Scorer]
    differences: dict[str, dict[str, Interval]]
    replicates: Replicates


def compare(
    statistics: Mapping[str, Mapping[str, Statistic]], weights: Weights, served: str, notes: Mapping[str, str] | None = None
) -> Comparison:
    """Measure every scorer under the same weights; `notes` explain why other scorers have no statistics."""
    replicates = {
        name: {metric: replicate(statistic, weights) for metric, statistic in found.items()}
        for name, found in statistics.items()
    }
    scorers = {
        name: Scorer({metric: interval(values, recentre=metric == "ece") for metric, values in found.items()})
        for name, found in replicates.items()
    }
    scorers |= {name: Scorer(note=note) for name, note in (notes or {}).items()}
    differences = {
        name: {metric: interval(replicates[served][metric] - values) for metric, values in found.items()}
        for name, found in replicates.items()
        if name != served
    }
    return Comparison(scorers, differences, replicates)


def judge(found: Sequence[Replicates], served: str, others: Sequence[str], measures: Sequence[str]) -> Verdict:
    """Decide who wins a head, by the mean of each measure over its horizons.

    A baseline wins if the served scorer is below it beyond noise, or by more than NEGLIGIBLE. A trivial one also wins if
    the served scorer is not above it beyond noise. `others` are the baselines; if none could be fitted, nobody wins.
    """
    against, beaten_by = [], []
    for name in others:
        common = [draws for draws in found if name in draws]
        if not common:
            continue
        for measure in measures:
            sign = -1.0 if measure in LOWER_IS_BETTER else 1.0
            gains = np.mean([sign * (draws[served][measure] - draws[name][measure]) for draws in common], axis=0)
            difference = interval(gains)
            against.append(Against(name, measure, _status(difference), difference))
            value, low, high = difference.value, difference.low, difference.high
            loses = value is None or value < -NEGLIGIBLE or (high is not None and high < 0)
            not_above = name in TRIVIAL and measure == measures[0] and not (low is not None and low > 0)
            if (loses or not_above) and name not in beaten_by:
                beaten_by.append(name)
    return Verdict(bool(against) and not beaten_by, beaten_by, _text(against, beaten_by, measures), against)


def _status(difference: Interval) -> Status:
    value, low, high = difference.value, difference.low, difference.high
    if low is not None and low > 0:
        return "beaten"
    if high is not None and high < 0:
        return "lost"
    return "ahead" if value is not None and value >= 0 else "behind"


def _text(against: Sequence[Against], beaten_by: Sequence[str], measures: Sequence[str]) -> str:
    if not against:
        return "no baseline could be fitted, so the model is not compared: evaluate on a longer log"
    parts = []
    for measure in measures:
        for status, verb in (
            ("beaten", "above, beyond noise:"),
            ("ahead", "above, within noise:"),
            ("behind", "below, within noise:"),
            ("lost", "below, beyond noise:"),
        ):
            of_status = [entry for entry in against if entry.status == status and entry.measure == measure]
            if of_status:
                parts.append(
                    f"{measure} {verb} " + ", ".join(f"{entry.baseline} ({_span(entry.difference)})" for entry in of_status)
                )
    winner = f"a baseline wins: {', '.join(beaten_by)}" if beaten_by else "no baseline wins"
    return "; ".join([winner, *parts])


def _span(difference: Interval) -> str:
    if difference.value is None or difference.low is None or difference.high is None:
        return "unknown"
    return f"{difference.value:+.4f}, {difference.low:+.4f} to {difference.high:+.4f}"
