"""Predict churn with simple baselines: majority, recency, RFM logistic regression and gradient boosting.

Each is fitted on examples whose outcome at the horizon is known, and returns (N,) churn probabilities of the test examples.
RFM stands for recency, frequency and monetary value. If a user has no purchases, the features about purchases count all
events instead. Start at rfm_features.
"""

from collections.abc import Sequence

import numpy as np

from models.data.examples import Example
from models.evaluation.bootstrap import Floats
from models.evaluation.outcomes import silent_days, stayed_away
from models.features.spec import FEATURE_SPEC, KINDS
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
    """Fit logistic regression on standardised columns; missing values become the column's median."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), LogisticRegression(max_iter=1000)
    )
    model.fit(x, labels)
    return np.asarray(model.predict_proba(test)[:, 1])


def rfm_features(examples: Sequence[Example]) -> Floats:
    """Return (N, 10): log frequency, recency, tenure, span, mean gap, recency/gap, log money, purchase days in 30/60/90 d.

    Days are as of the landmark. The purchase days come from a history that is bounded per kind, so the longer windows
    undercount busy users. The gap of a one-time buyer is the tenure.
    """
    rows = np.zeros((len(examples), 10))
    for row, (example, silent) in enumerate(zip(examples, silent_days(examples), strict=True)):
        values = example.request.features
        days = _action_days(example)
        frequency, recency_days = _frequency(values), days[0] if days else silent
        tenure = (values[_AT["user.tenure_ms"]] or 0) / DAY_MS + silent
        span = max(tenure - recency_days, 0.0)
        gap_hours = values[_AT["purchase.gap_mean_hours"]]
        gap = gap_hours / 24 if gap_hours else span / (frequency - 1) if frequency > 1 and span else max(tenure, 1.0)
        money = max(values[_AT["purchase.amount.life"]] or 0, 0)
        rows[row] = (
            np.log1p(frequency),
            recency_days,
            tenure,
            span,
            gap,
            min(recency_days / max(gap, 0.5), 20),
            np.log1p(money),
            *(len({int(ago) for ago in days if ago <= window}) for window in (30, 60, 90)),
        )
    return rows


def purchase_frequency(examples: Sequence[Example]) -> Floats:
    """Return (N,): each user's number of purchases, or of events if there is no purchase."""
    return np.array([_frequency(example.request.features) for example in examples])


def _frequency(values: Sequence[float | None]) -> float:
    purchases = values[_AT["purchase.count.life"]] or 0
    return purchases or sum(values[_AT[f"{kind}.count.life"]] or 0 for kind in KINDS)


def _action_days(example: Example) -> list[float]:
    """Return the days since each remembered purchase, newest first; since each event if there is no purchase."""
    history = example.request.history
    bought = [entry for entry in history if entry.kind == "purchase" and entry.amount >= 0] or history
    return [(example.landmark_ms - entry.event_time_ms) / DAY_MS for entry in reversed(bought)]


def _all_features(examples: Sequence[Example]) -> Floats:
    vectors = np.array([example.request.features for example in examples], np.float64).reshape(len(examples), -1)
    return np.column_stack([vectors, rfm_features(examples), silent_days(examples)])
