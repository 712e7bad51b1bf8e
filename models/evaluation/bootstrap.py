"""Which users a test slice happened to hold → how far a metric could have come out otherwise.

Whole users are drawn with replacement, as examples of one user are alike. A draw is a row of weights, row 0 is the
sample as it is, and every statistic turns (R, N) weights into (R,) values: two scorers under the same weights are
compared pair by pair. Start at user_weights.
"""

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weights = NDArray[np.uint8]
Statistic = Callable[[Floats], Floats]  # (R, N) weights → (R,)

CONFIDENCE = 0.95
CHUNK_CELLS = 4_000_000


class Interval(Struct, frozen=True):
    """A value and the percentile interval of its bootstrap; None where no draw had a value."""

    value: float | None
    low: float | None
    high: float | None


def user_weights(users: Sequence[str], replicates: int, seed: int) -> Weights:
    """Return (1 + replicates, N): how often each example's user was drawn; row 0 is once each."""
    _, place = np.unique(np.asarray(users, dtype=object).astype(str), return_inverse=True)
    count = int(place.max()) + 1 if len(place) else 0
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + replicates, len(place)), np.uint8)
    for row in range(1, 1 + replicates):
        drawn = np.bincount(rng.integers(0, max(count, 1), count), minlength=count)
        weights[row] = np.minimum(drawn, 255)[place]
    return weights


def replicate(statistic: Statistic, weights: Weights) -> Floats:
    """Return the statistic under every row of (R, N) weights, a few rows at a time."""
    rows = max(1, CHUNK_CELLS // max(weights.shape[1], 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = [statistic(weights[start : start + rows].astype(np.float64)) for start in range(0, len(weights), rows)]
    return np.concatenate(parts)


def interval(values: Floats, *, recentre: bool = False) -> Interval:
    """Make an interval of replicated values, of which the first is the sample's own.

    A mean of absolute values, such as a calibration error, grows with noise: `recentre` moves the draws onto the
    sample's value and keeps them above 0.
    """
    value, draws = values[0], values[1:][np.isfinite(values[1:])]
    if not np.isfinite(value):
        return Interval(None, None, None)
    if not len(draws):
        return Interval(_rounded(value), None, None)
    if recentre:
        draws = np.maximum(draws + (value - np.median(draws)), 0)
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(_rounded(value), _rounded(low), _rounded(high))


def _rounded(value: float) -> float:
    return round(float(value), 5)
