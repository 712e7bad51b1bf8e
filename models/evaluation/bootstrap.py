"""Estimate the confidence interval of a metric by bootstrap over the users of a test slice.

Whole users are drawn with replacement, because one user's examples are alike. A draw is a row of weights, one per example;
row 0 is the original sample. A statistic turns (R, N) weights into (R,) values. All scorers get the same weights, so two
scorers can be compared draw by draw. Start at user_weights.
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
    """A value and its bootstrap percentile interval; None if no draw gave a value."""

    value: float | None
    low: float | None
    high: float | None


def user_weights(users: Sequence[str], replicates: int, seed: int) -> Weights:
    """Return (1 + replicates, N) weights: how often each example's user was drawn. Row 0 is all ones."""
    _, place = np.unique(np.asarray(users, dtype=object).astype(str), return_inverse=True)
    count = int(place.max()) + 1 if len(place) else 0
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + replicates, len(place)), np.uint8)
    for row in range(1, 1 + replicates):
        drawn = np.bincount(rng.integers(0, max(count, 1), count), minlength=count)
        weights[row] = np.minimum(drawn, 255)[place]
    return weights


def replicate(statistic: Statistic, weights: Weights) -> Floats:
    """Return the statistic under every row of (R, N) weights, computed a few rows at a time."""
    rows = max(1, CHUNK_CELLS // max(weights.shape[1], 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = [statistic(weights[start : start + rows].astype(np.float64)) for start in range(0, len(weights), rows)]
    return np.concatenate(parts)


def interval(values: Floats, *, recentre: bool = False) -> Interval:
    """Build an interval from replicated values; the first value is the sample's own.

    Noise inflates a mean of absolute values, such as a calibration error: `recentre` shifts the draws onto the
    sample's value and clips them at 0.
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
