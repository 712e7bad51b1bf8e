"""Measure predicted absences against actual ones: concordance, the Kaplan-Meier curve, and the lead time of alerts.

An absence is the time until a return, in days. If its end was not observed, it is censored. Start at concordance.
"""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.evaluation.bootstrap import Floats, Statistic

Bools = NDArray[np.bool_]
MAX_PAIRS = 200_000


class LeadTime(Struct, frozen=True):
    """How early a risk threshold alerts: for users who stayed away past the grace period, and for the others.

    `days_before` are quantiles (10, 50, 90 %) of the days between the alert and the end of the grace period.
    """

    threshold: float
    grace_days: int
    away: int
    alerted_share: float | None
    days_before: tuple[float, float, float] | None
    returned: int
    false_alert_share: float | None


def concordance(expected_days: Floats, days: Floats, returned: Bools, seed: int = 0) -> Statistic:
    """Return Harrell's C: the share of pairs in which the user expected to be away longer is; ties count half.

    A pair counts if it is known who returned first. At most MAX_PAIRS are drawn uniformly; NaN without a pair.
    """
    order = np.lexsort((~returned, days))  # at equal times, returns come before censoring
    times, events, expected = days[order], returned[order], expected_days[order]
    last = np.searchsorted(times, times, side="right")
    same_time_events = np.searchsorted(times, times) + np.array(
        [events[start:end].sum() for start, end in zip(np.searchsorted(times, times), last, strict=True)], dtype=int
    )
    later = np.where(events, len(times) - same_time_events, 0)  # users known to be away longer
    total = int(later.sum())
    if not total:
        return lambda weights: np.full(len(weights), np.nan)
    ends = np.cumsum(later)
    picked = np.arange(total) if total <= MAX_PAIRS else np.random.default_rng(seed).integers(0, total, MAX_PAIRS)
    sooner = np.searchsorted(ends, picked, side="right")
    longer = same_time_events[sooner] + picked - (ends - later)[sooner]
    concordant = np.where(expected[longer] > expected[sooner], 1.0, np.where(expected[longer] == expected[sooner], 0.5, 0.0))
    first, second = order[sooner], order[longer]

    def statistic(weights: Floats) -> Floats:
        found = np.empty(len(weights))
        for row, weight in enumerate(weights):
            pairs = weight[first] * weight[second]
            found[row] = pairs @ concordant / pairs.sum()
        return found

    return statistic


def kaplan_meier(days: Floats, returned: Bools, at_days: Floats) -> Floats:
    """Return the share still away at each of `at_days`, from (N,) times of return or censoring."""
    times = np.unique(days[returned])
    at_risk = len(days) - np.searchsorted(np.sort(days), times, side="left")
    events = np.array([np.sum(returned & (days == time)) for time in times])
    steps = np.concatenate([[1.0], np.cumprod(1 - events / np.maximum(at_risk, 1))])
    return np.asarray(steps[np.searchsorted(times, at_days, side="right")])


def first_alert_days(risk_by_day: Floats, threshold: float) -> Floats:
    """Return the first of (N, D) days of silence on which the risk reaches the threshold; infinity if it never does."""
    reached = risk_by_day >= threshold
    return np.where(reached.any(1), reached.argmax(1).astype(np.float64), np.inf)


def lead_time(alert_days: Floats, absent_days: Floats, observed_days: Floats, grace_days: int, threshold: float) -> LeadTime:
    """Measure how long before `grace_days` of silence the alert came; NaN in `absent_days` is no observed return.

    Users observed for less than the grace period without a return are left out.
    """
    back = np.nan_to_num(absent_days, nan=np.inf)
    away = (back > grace_days) & (observed_days >= grace_days)
    returned = back <= grace_days
    ahead = (grace_days - alert_days)[away & (alert_days <= grace_days)]
    quantiles = tuple(round(float(value), 2) for value in np.quantile(ahead, [0.1, 0.5, 0.9])) if len(ahead) else None
    return LeadTime(
        threshold=threshold,
        grace_days=grace_days,
        away=int(away.sum()),
        alerted_share=round(len(ahead) / int(away.sum()), 4) if away.any() else None,
        days_before=quantiles,  # type: ignore[arg-type]  # np.quantile gets three quantiles
        returned=int(returned.sum()),
        false_alert_share=round(float((alert_days < back)[returned].mean()), 4) if returned.any() else None,
    )
