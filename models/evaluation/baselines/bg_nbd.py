"""Predict churn with the BG/NBD model, from the number of a user's purchases and the times of the first and the last.

In this model, purchases are Poisson with gamma-distributed rates. After each purchase a user may leave, with a probability
that is beta-distributed over users. Source: Fader, Hardie and Lee, "Counting your customers the easy way", Marketing Science
24 (2005), equations 6 and 10. Users are ranked by expected purchases, never by 1 - P(alive), because P(alive) is 1 for
every one-time buyer. Start at bg_nbd.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.data.examples import Example
from models.evaluation.baselines.churn_baselines import known_outcomes, logistic, purchase_frequency, rfm_features
from models.evaluation.bootstrap import Floats
from schemas.errors import CannotFit

PENALTY = 0.001
RECENCY, TENURE, SPAN = 1, 2, 3  # columns of rfm_features


class Parameters(NamedTuple):
    """Shape and rate of the gamma of purchase rates, and the parameters of the beta of leaving."""

    r: float
    alpha: float
    a: float
    b: float


def bg_nbd(train: Sequence[Example], test: Sequence[Example], horizon_days: int) -> Floats:
    """Return (N,) churn probabilities, by logistic regression on the log of expected purchases.

    The parameters are fitted on each training user's newest example.

    Raises:
        CannotFit: the parameters could not be fitted.
        CannotFit: the training slices are too short for the horizon.
    """
    fitted, away = known_outcomes(train, horizon_days)
    newest = {example.request.user_id: example for example in sorted(train, key=lambda example: example.landmark_ms)}
    parameters = fit(*_purchases(list(newest.values())))

    def expected(examples: Sequence[Example]) -> Floats:
        return np.log(np.maximum(expected_purchases(parameters, *_purchases(examples), horizon_days), 1e-9))[:, None]

    return logistic(expected(fitted), away, expected(test))


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
    """Return (N,) expected purchases within the horizon after now, equation 10."""
    from scipy.special import hyp2f1

    r, alpha, a, b = parameters
    x, t = repeats, horizon_days
    a = a + 1e-6 if abs(a - 1) < 1e-6 else a  # take the formula's limit at a = 1
    series = hyp2f1(r + x, b + x, a + b + x - 1, t / (alpha + tenure + t))
    grown = 1 - ((alpha + tenure) / (alpha + tenure + t)) ** (r + x) * series
    odds = np.where(x > 0, a / (b + np.maximum(x, 1) - 1) * ((alpha + tenure) / (alpha + last)) ** (r + x), 0.0)
    return np.asarray((a + b + x - 1) / (a - 1) * grown / (1 + odds))


def _purchases(examples: Sequence[Example]) -> tuple[Floats, Floats, Floats]:
    """Return repeat purchases, days from first to last, and days from first to the landmark."""
    features = rfm_features(examples)
    repeats = np.maximum(purchase_frequency(examples) - 1, 0)
    last = np.where(repeats > 0, features[:, SPAN], 0.0)
    return repeats, last, np.maximum(features[:, TENURE], 1e-3)
