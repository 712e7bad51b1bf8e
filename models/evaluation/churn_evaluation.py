"""Measure churn predictions of test users against their outcomes: every horizon, the survival curve and lead times.

A lead time is how long before the end of a grace period an alert comes. Baselines are fitted on earlier slices and score the
same users. Start at evaluate_churn.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.data.examples import LANDMARK, Example
from models.evaluation.baselines.bg_nbd import bg_nbd
from models.evaluation.baselines.churn_baselines import MIN_OUTCOMES, gradient_boosting, majority, recency, rfm_logistic
from models.evaluation.bootstrap import Floats, user_weights
from models.evaluation.candidates import Candidate, Setup
from models.evaluation.comparison import Comparison, Replicates, compare
from models.evaluation.groups import hashed, measure_groups, user_facts, user_groups
from models.evaluation.metrics import auc, binary_statistics, gain_points, precision_recall_points, reliability, roc_points
from models.evaluation.outcomes import absent_days, observed_days, silent_days, stayed_away
from models.evaluation.report_document import Head, Mistake
from models.evaluation.survival_metrics import LeadTime, concordance, first_alert_days, kaplan_meier, lead_time
from models.network.survival import risk, survival_at
from schemas.errors import CannotFit

BASELINES = {
    "majority": majority,
    "recency": recency,
    "rfm_logistic": rfm_logistic,
    "gradient_boosting": gradient_boosting,
    "bg_nbd": bg_nbd,
}
MEASURES = ("auc",)
THRESHOLDS = (0.5, 0.7, 0.9)

Indices = NDArray[np.int64]


def evaluate_churn(
    train: Sequence[Example],
    test: Sequence[Example],
    candidates: Mapping[str, Candidate],
    horizons_days: Sequence[int],
    setup: Setup,
) -> tuple[list[Head], list[Replicates]]:
    """Measure every horizon that the test users were observed for, then the survival curve as a whole."""
    weights = user_weights([example.request.user_id for example in test], setup.replicates, setup.seed)
    matching = matching_examples(train, test)
    heads, draws, risks = [], [], dict[int, dict[str, Floats]]()
    for days in horizons_days:
        away = stayed_away(test, days)
        known = np.flatnonzero(~np.isnan(away))
        gone = int(np.nansum(away))
        if min(gone, len(known) - gone) < MIN_OUTCOMES or days not in candidates[setup.served].risk:
            continue
        baselines, notes = _baselines(matching, test, days)
        risks[days] = {name: found.risk[days] for name, found in candidates.items() if days in found.risk} | baselines
        labels = away[known]
        scores = {name: found[known] for name, found in risks[days].items()}
        statistics = {name: binary_statistics(score, labels) for name, score in scores.items()}
        compared = compare(statistics, weights[:, known], setup.served, notes)
        draws.append(compared.replicates)
        heads.append(_head(days, [test[place] for place in known.tolist()], labels, scores, weights[:, known], compared, setup))
    if risks and candidates[setup.served].hazards is not None:
        heads.append(_curve(test, candidates, risks, weights, setup))
    return heads, draws


def matching_examples(train: Sequence[Example], test: Sequence[Example]) -> list[Example]:
    """Return the training examples to fit baselines on: landmark examples alone if the test slice has no others.

    Landmark examples and those right after an event sample users differently, so a mix would misrepresent silence.
    """
    if any(example.request.due != LANDMARK for example in test):
        return list(train)
    return [example for example in train if example.request.due == LANDMARK] or list(train)


def _baselines(train: Sequence[Example], test: Sequence[Example], days: int) -> tuple[dict[str, Floats], dict[str, str]]:
    """Return the risks of every baseline, and the reason for each that could not be fitted."""
    found, notes = dict[str, Floats](), dict[str, str]()
    for name, baseline in BASELINES.items():
        try:
            found[name] = baseline(train, test, days)
        except CannotFit as error:
            notes[name] = str(error)
    return found, notes


def _head(
    days: int,
    test: Sequence[Example],
    away: Floats,
    scores: Mapping[str, Floats],
    weights: NDArray[np.uint8],
    compared: Comparison,
    setup: Setup,
) -> Head:
    served = scores[setup.served]
    best = best_baseline(compared, BASELINES)
    parts = []
    if best is not None:
        parts = measure_groups(
            user_groups(test),
            away,
            weights,
            lambda picked: auc(served[picked], away[picked]),
            lambda picked: auc(scores[best][picked], away[picked]),
        )
    shown = [setup.served, *([best] if best else [])]
    return Head(
        head="churn",
        horizon_days=days,
        n=len(test),
        positives=int(away.sum()),
        users=len({example.request.user_id for example in test}),
        served=setup.served,
        measures=MEASURES,
        scorers=compared.scorers,
        differences=compared.differences,
        parts_measure=MEASURES[0],
        parts=parts,
        mistakes=_mistakes(test, served, away, days, setup.mistakes),
        curves={
            "reliability": {name: reliability(scores[name], away) for name in shown},
            "roc": {name: roc_points(scores[name], away) for name in scores},
            "precision_recall": {name: precision_recall_points(scores[name], away) for name in shown},
            "gains": {name: gain_points(scores[name], away) for name in shown},
        },
    )


def best_baseline(compared: Comparison, baselines: Mapping[str, object], measure: str = MEASURES[0]) -> str | None:
    """Return the name of the baseline with the highest value of a measure."""
    reached = {
        name: value
        for name, scorer in compared.scorers.items()
        if name in baselines and measure in scorer.metrics and (value := scorer.metrics[measure].value) is not None
    }
    return max(reached, key=reached.__getitem__) if reached else None


def _mistakes(test: Sequence[Example], served: Floats, away: Floats, days: int, count: int) -> list[Mistake]:
    """Pick the most confident mistakes of the served scorer, one per user."""
    silent = silent_days(test)
    found: dict[str, Mistake] = {}
    for place in np.argsort(-np.abs(served - away), kind="stable"):
        example = test[place]
        user = hashed(example.request.user_id)
        if user not in found:
            was = f"stayed away for {days} days" if away[place] else f"came back within {days} days"
            found[user] = Mistake(user, f"risk {served[place]:.3f}", was, user_facts(example, silent[place]))
        if len(found) == count:
            break
    return list(found.values())


def _curve(
    test: Sequence[Example],
    candidates: Mapping[str, Candidate],
    risks: Mapping[int, Mapping[str, Floats]],
    weights: NDArray[np.uint8],
    setup: Setup,
) -> Head:
    """Measure the C-index (by mean risk over the horizons), the mean survival curve and the lead time."""
    absent, observed, silent = absent_days(test), observed_days(test), silent_days(test)
    returned = ~np.isnan(absent)
    until = np.where(returned, absent, observed)
    names = [name for name in next(iter(risks.values())) if all(name in found for found in risks.values())]
    expected = {name: np.mean([found[name] for found in risks.values()], axis=0) for name in names}
    compared = compare(
        {name: {"c_index": concordance(expected[name], until, returned)} for name in names}, weights, setup.served
    )
    grid = np.unique(np.round(np.linspace(0, max(risks), 31)))
    predicted = {}
    for name, candidate in candidates.items():
        if candidate.hazards is not None:
            curve = [risk(candidate.hazards, silent, days, candidate.horizons_days).mean() for days in grid.tolist()]
            predicted[name] = [round(float(value), 4) for value in curve]
    actual = kaplan_meier(until, returned, grid)
    return Head(
        head="churn curve",
        n=len(test),
        positives=int(returned.sum()),
        users=len({example.request.user_id for example in test}),
        served=setup.served,
        measures=("c_index",),
        scorers=compared.scorers,
        differences=compared.differences,
        curves={
            "days": grid.tolist(),
            "kaplan_meier": [round(float(value), 4) for value in actual],
            "predicted": predicted,
            "lead_time": _lead_times(test, candidates[setup.served], silent, setup.grace_days),
        },
        notes=["The C-index orders users by their mean risk over the horizons. Positives are observed returns."],
    )


def _lead_times(test: Sequence[Example], served: Candidate, silent: Floats, grace_days: int) -> list[LeadTime]:
    """Find the day of silence on which the risk of users at an event reaches a threshold; the horizon is the grace period."""
    fresh = np.flatnonzero(silent < 1)
    if served.hazards is None or not len(fresh):
        return []
    examples, hazards = [test[place] for place in fresh.tolist()], served.hazards[fresh]
    days = np.arange(grace_days + 1, dtype=np.float64)
    away = [survival_at(hazards, np.full(len(fresh), day), served.horizons_days) for day in days.tolist()]
    reach = away[-1][:, None] / np.column_stack(away)
    absent, observed = absent_days(examples) + silent[fresh], observed_days(examples) + silent[fresh]
    return [lead_time(first_alert_days(reach, at), absent, observed, grace_days, at) for at in THRESHOLDS]
