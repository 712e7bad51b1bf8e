"""Predict churn with the BG/NBD model, from the number of a user's purchases and the times of the first and the last.

In this model, purchases are Poisson with gamma-distributed rates. After each purchase a user may leave, with a probability
that is beta-distributed over users. Source: Fader, Hardie and Lee, "Counting your customers the easy way", Marketing Science
24 (2005), equations 6 and 10. Users are ranked by expected purchases, never by 1 - P(alive), because P(alive) is 1 for
every one-time buyer. Users who bought nothing have a fit of their own, in which all events count as purchases. Start at
bg_nbd.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import astuple

from models.data.examples import Example
from models.evaluation.baselines.churn_baselines import known_outcomes, logistic
from models.evaluation.baselines.purchase_counts import actions_of, purchases_of
from models.evaluation.bootstrap import Floats
from schemas.errors import CannotFit
from schemas.time_units import DAY_MS

PENALTY = 0.001
LEAST_EXPECTED = 1e-9  # fewer expected purchases than this are as good as none
NEAR_ONE = 1e-6  # from a = 1, where the formula divides 0 by 0


class Parameters(NamedTuple):
    """Shape and rate of the gamma of purchase rates, and the parameters of the beta of leaving."""

    r: float
    alpha: float
    a: float
    b: float


def bg_nbd(train: Sequence[Example], test: Sequence[Example], horizon_days: int) -> Floats:
    """Return (N,) churn probabilities, by logistic regression on the log of expected purchases.

    The parameters are fitted on each training user's newest example. If too few training users bought nothing to fit them,
    such test users get the churn rate of the training users.

    Raises:
        CannotFit: the parameters could not be fitted.
        CannotFit: the training slices are too short for the horizon.
        CannotFit: the purchases are not known.
    """
    _, away = known_outcomes(train, horizon_days)
    found = np.full(len(test), away.mean())
    fitted, asked = (np.array([purchases_of(example).count > 0 for example in examples], bool) for examples in (train, test))
    for bought in (True, False):
        rows, members = np.flatnonzero(asked == bought), np.flatnonzero(fitted == bought)
        if not len(rows):
            continue
        try:
            found[rows] = _risk([train[row] for row in members.tolist()], [test[row] for row in rows.tolist()], horizon_days)
        except CannotFit:
            if bought or not fitted.any():  # else only users outside of the model are left, who keep the churn rate
                raise
    return found


def _risk(train: Sequence[Example], test: Sequence[Example], horizon_days: int) -> Floats:
    fitted, away = known_outcomes(train, horizon_days)
    newest = {example.request.user_id: example for example in sorted(train, key=lambda example: example.landmark_ms)}
    parameters = fit(*_purchases(list(newest.values())))

    def logarithms(examples: Sequence[Example]) -> Floats:
        expected = expected_purchases(parameters, *_purchases(examples), horizon_days)
        return np.log(np.maximum(expected, LEAST_EXPECTED))[:, None]

    return logistic(logarithms(fitted), away, logarithms(test))


def fit(repeats: Floats, last: Floats, tenure: Floats) -> Parameters:
    """Maximise the penalised likelihood of (N,) repeat purchases, days from first to last purchase, and days from first to now.

    Raises:
        CannotFit: the optimiser failed, or stopped at a bound of a parameter.
    """
    from scipy.optimize import minimize

    scale = 10 / max(float(tenure.max()), 1e-9)  # the optimiser needs times of about 1 to 10

    def loss(logs: Floats) -> float:
        likelihood = log_likelihood(Parameters(*np.exp(logs)), repeats, last * scale, tenure * scale)
        return float(-likelihood.mean() + PENALTY * (np.exp(logs) ** 2).sum())

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = minimize(loss, np.zeros(4), method="L-BFGS-B", bounds=[(-10, 10)] * 4)
    r, alpha, a, b = np.exp(found.x)
    if not found.success or not np.isfinite(found.fun) or np.abs(found.x).max() > 9.99:
        raise CannotFit(
            f"BG/NBD does not converge on {len(repeats)} users ({found.message}, r {r:.3g}, alpha {alpha / scale:.3g}, "
            f"a {a:.3g}, b {b:.3g}): a common cause is that most users bought only once"
        )
    return Parameters(float(r), float(alpha / scale), float(a), float(b))


def log_likelihood(parameters: Parameters, repeats: Floats, last: Floats, tenure: Floats) -> Floats:
    """Return (N,) log likelihoods, equation 6."""
    from scipy.special import betaln, gammaln

    r, alpha, a, b = parameters
    x = repeats
    rates = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
    stayed = betaln(a, b + x) - betaln(a, b) - (r + x) * np.log(alpha + tenure)
    left = betaln(a + 1, b + np.maximum(x, 1) - 1) - betaln(a, b) - (r + x) * np.log(alpha + last)
    return np.asarray(rates + np.where(x > 0, np.logaddexp(stayed, left), stayed))


def expected_purchases(parameters: Parameters, repeats: Floats, last: Floats, tenure: Floats, horizon_days: float) -> Floats:
    """Return (N,) expected purchases within the horizon after now, equation 10.

    Of the hypergeometric function's two forms, the one that stays finite is taken: for thousands of repeats, that is Euler's
    transformation, whose first two arguments do not grow. The odds of having left stay logarithms. So nothing overflows.
    """
    from scipy.special import expit, hyp2f1

    r, alpha, a, b = parameters
    x, t = repeats, horizon_days
    a = 1 + NEAR_ONE if abs(a - 1) < NEAR_ONE else a  # take the formula's limit at a = 1
    waited, c = alpha + tenure, a + b + x - 1
    many = r + x > a - 1
    power, first, second = np.where(many, a - 1, r + x), np.where(many, c - r - x, r + x), np.where(many, a - 1, b + x)
    still_none = (waited / (waited + t)) ** power * hyp2f1(first, second, c, t / (waited + t))
    log_odds = np.log(a / (b + np.maximum(x, 1) - 1)) + (r + x) * np.log(waited / (alpha + last))
    return np.asarray(c / (a - 1) * (1 - still_none) * np.where(x > 0, expit(-log_odds), 1.0))


def _purchases(examples: Sequence[Example]) -> tuple[Floats, Floats, Floats]:
    """Return (N,) repeat purchases, days from first to last, and days from first to the landmark."""
    found = [actions_of(example) for example in examples]
    count, first_ms, last_ms = (np.array(column, np.float64) for column in zip(*map(astuple, found), strict=True))
    landmark_ms = np.array([example.landmark_ms for example in examples], np.float64)
    return np.maximum(count - 1, 0), (last_ms - first_ms) / DAY_MS, (landmark_ms - first_ms) / DAY_MS
