"""Hazards of return per bin → the probability of still being away after any time, and the risk that a silence means.

Bins end at HORIZONS_DAYS; within a bin the hazard is constant, beyond the last bin the last hazard goes on. N users, H
bins, days as floats. Start at risk.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HORIZONS_DAYS = (1, 3, 7, 14, 30, 60, 90, 180, 360)


def survival_at(hazards: Floats, days: Floats) -> Floats:
    """Return (N,) P(no return within `days` (N,)), from `hazards` (N, H): P(return in bin | none before)."""
    ends = np.array(HORIZONS_DAYS[: hazards.shape[1]], np.float64)
    starts = np.concatenate([[0.0], ends[:-1]])
    spent = np.clip((days[:, None] - starts) / (ends - starts), 0, None)  # (N, H) of each bin's length
    spent[:, :-1] = np.minimum(spent[:, :-1], 1)
    away: Floats = np.exp((spent * np.log1p(-np.clip(hazards, 0, 1 - 1e-12))).sum(1))
    return away


def risk(hazards: Floats, silent_days: Floats, horizon_days: float) -> Floats:
    """Return (N,) P(no return within `horizon_days` more | none for `silent_days` (N,))."""
    away: Floats = survival_at(hazards, silent_days + horizon_days) / survival_at(hazards, silent_days)
    return away
