"""Hazards of return per bin → the probability of still being away after any time, and the risk that a silence means.

Bins end at HORIZONS_DAYS; within a bin the hazard is constant, beyond the last bin the last hazard goes on. N users, H
bins, days as floats. Start at risk.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

HORIZONS_DAYS = (1, 3, 7, 14, 30, 60, 90, 180, 360)


def survival_at(hazards: Floats, days: ArrayLike, horizons_days: Sequence[int] = HORIZONS_DAYS) -> Floats:
    """Return (N,) P(no return within `days` (N,)), from `hazards` (N, H): P(return in bin | none before)."""
    return np.asarray(np.exp(_log_survival(hazards, days, horizons_days)))


def risk(hazards: Floats, silent_days: ArrayLike, horizon_days: float, horizons: Sequence[int] = HORIZONS_DAYS) -> Floats:
    """Return (N,) P(no return within `horizon_days` more | none for `silent_days` (N,))."""
    silent = np.asarray(silent_days, np.float64)
    return np.asarray(
        np.exp(_log_survival(hazards, silent + horizon_days, horizons) - _log_survival(hazards, silent, horizons))
    )


def _log_survival(hazards: Floats, days: ArrayLike, horizons_days: Sequence[int]) -> Floats:
    ends = np.array(horizons_days, np.float64)
    starts = np.concatenate([[0.0], ends[:-1]])
    parts = np.maximum((np.asarray(days, np.float64)[:, None] - starts) / (ends - starts), 0)  # (N, H) of each bin's length
    parts[:, :-1] = np.minimum(parts[:, :-1], 1)
    return np.asarray((parts * np.log1p(-np.minimum(hazards, 1 - 1e-12))).sum(1))
