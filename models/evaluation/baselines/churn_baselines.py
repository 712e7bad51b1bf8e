"""Predict churn with simple baselines: majority, recency, RFM logistic regression and gradient boosting.

Each is fitted on examples whose outcome at the horizon is known, and returns (N,) churn probabilities of the test examples.
RFM stands for recency, frequency and monetary value. An event that only returns items is no purchase. If a user has no
purchases, the features about purchases count all events instead. Start at rfm_features.
"""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import astuple

from models.data.examples import Example
from models.evaluation.baselines.purchase_counts import actions_of
from models.evaluation.bootstrap import Floats
from models.evaluation.outcomes import silent_days, stayed_away
from models.features.spec import FEATURE_SPEC
from schemas.errors import CannotFit
from schemas.time_units import DAY_MS

MIN_OUTCOMES = 10  # of each class: fewer cannot train a model
_AT = {name: place for place, name in enumerate(FEATURE_SPEC.names)}


def majority(train: Sequence[Example], test: Sequence[Example], horizon_days: int) -> Floats:
    """Predict the churn rate of the training users for every user."""
    _, away = known_outcomes(train, horizon_days)
    return np.full(len(test), away.mean())


def recency(train: Sequence[Example], test: Sequence[Example], horizon_days: int) -> Floats:
    """Predict churn from the time since the last event, by logistic regression on its logarithm."""
    fitted, away = known_outcomes(train, horizon_days)
    return logistic(np.log1p(silent_days(fitted))[:, None], away, np.log1p(silent_days(test))[:, None])


def rfm_logistic(train: Sequence[Example], test: Sequence[Example], horizon_days: int) -> Floats:
    """Fit logistic regression on recency, frequency and monetary value."""
    fitted, away = known_outcomes(train, horizon_days)
    return logistic(rfm_features(fitted), away, rfm_features(test))


def gradient_boosting(train: Sequence[Example], test: Sequence[Example], horizon_days: int) -> Floats:
    """Fit boosted trees on the whole feature vector, the RFM features and the silence."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    fitted, away = known_outcomes(train, horizon_days)
    trees = HistGradientBoostingClassifier(
        max_iter=120, learning_rate=0.05, max_leaf_nodes=15, min_samples_leaf=40, random_state=0
    )
    x, rows = _all_features(fitted), _all_features(test)
    varies = np.isfinite(x).any(0) & (np.nan_to_num(x, nan=-1).std(0) > 0)
    trees.fit(x[:, varies], away)
    return np.asarray(trees.predict_proba(rows[:, varies])[:, 1])


def known_outcomes(train: Sequence[Example], horizon_days: int) -> tuple[list[Example], Floats]:
    """Return the examples whose outcome at the horizon is known, and those outcomes: 1 is churn.

    Raises:
        CannotFit: users stayed away, or returned, in fewer than MIN_OUTCOMES examples.
    """
    away = stayed_away(train, horizon_days)
    known = ~np.isnan(away)
    gone = int(np.nansum(away))
    back = int(known.sum()) - gone
    if min(gone, back) < MIN_OUTCOMES:
        raise CannotFit(
            f"found {gone} training examples of users who stayed away for {horizon_days} days and {back} of users who "
            f"returned, expected {MIN_OUTCOMES} of each: the training slices are too short for this horizon, use a longer log"
        )
    return [example for example, is_known in zip(train, known, strict=True) if is_known], away[known]


def logistic(x: Floats, labels: Floats, test: Floats) -> Floats:
    """Fit logistic regression on standardised columns.

    Raises:
        CannotFit: a value is missing or infinite; replacing it would hide a fault.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if missing := sum(int((~np.isfinite(columns)).any(axis=1).sum()) for columns in (x, test)):
        raise CannotFit(
            f"found {missing} of {len(x) + len(test)} examples with a value that is missing or infinite, expected finite "
            "numbers: report this dataset as a bug of the baseline"
        )
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(x, labels)
    return np.asarray(model.predict_proba(test)[:, 1])


def rfm_features(examples: Sequence[Example]) -> Floats:
    """Return (N, 10): log frequency, recency, tenure, span, mean gap, recency/gap, log money, purchase days in 30/60/90 d.

    Days are as of the landmark; tenure runs from the first purchase, span from there to the last one. The purchase days
    come from a history that is bounded per kind, so the longer windows undercount busy users. The gap of a one-time buyer
    is the tenure.

    Raises:
        CannotFit: the purchases are not known.
    """
    rows = np.zeros((len(examples), 10))
    for row, example in enumerate(examples):
        values = example.request.features
        days = _action_days(example)
        count, first_ms, last_ms = astuple(actions_of(example))
        recency_days, tenure = (example.landmark_ms - last_ms) / DAY_MS, (example.landmark_ms - first_ms) / DAY_MS
        span = (last_ms - first_ms) / DAY_MS
        gap_hours = values[_AT["purchase.gap_mean_hours"]]
        gap = gap_hours / 24 if gap_hours else span / (count - 1) if count > 1 and span else max(tenure, 1.0)
        money = max(values[_AT["purchase.amount.life"]] or 0, 0)
        rows[row] = (
            np.log1p(count),
            recency_days,
            tenure,
            span,
            gap,
            min(recency_days / max(gap, 0.5), 20),
            np.log1p(money),
            *(len({int(ago) for ago in days if ago <= window}) for window in (30, 60, 90)),
        )
    return rows


def _action_days(example: Example) -> list[float]:
    """Return the days since each remembered purchase, newest first; since each event if there is no purchase."""
    history = example.request.history
    bought = [entry for entry in history if entry.kind == "purchase" and entry.amount >= 0] or history
    return [(example.landmark_ms - entry.event_time_ms) / DAY_MS for entry in reversed(bought)]


def _all_features(examples: Sequence[Example]) -> Floats:
    vectors = np.array([example.request.features for example in examples], np.float64).reshape(len(examples), -1)
    return np.column_stack([vectors, rfm_features(examples), silent_days(examples)])
