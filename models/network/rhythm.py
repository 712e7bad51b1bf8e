"""Compute how often, how regularly and for how much users visit and buy, from their newest events.

The features are gaps between active days, counts that decay over weeks and months, and purchase values. They help to tell a
regular customer who stopped coming from a newcomer. The input is padded arrays, the output one row of numbers per user.
This module knows neither requests nor networks. Start at rhythm.
"""

import numpy as np
from numpy.typing import NDArray

from schemas.time_units import DAY_MS

FADE_DAYS = (7, 15, 45, 120)
WORTH_FADE_DAYS = (30, 120)
_GAPS = ("mean", "shortest", "longest", "newest", "deviation")
RHYTHM_NAMES = (
    *(f"{what}.{name}" for what in ("events", "purchases") for name in (*(f"fading.{days}d" for days in FADE_DAYS), "days")),
    *(f"{what}.gap.{name}" for what in ("events", "purchases") for name in _GAPS),
    *(f"purchases.worth.fading.{days}d" for days in WORTH_FADE_DAYS),
    "purchases.worth.newest",
    "purchases.worth.mean",
)

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Longs = NDArray[np.int64]


def rhythm(present: Bools, bought: Bools, times_ms: Longs, amounts: Longs, at_ms: Longs) -> NDArray[np.float32]:
    """Return (N, R) logarithms in the order of RHYTHM_NAMES, NaN where unknown.

    All arrays are (N, T), events oldest first; `present` is false for padding, `bought` true for purchases of an amount
    above 0, `amounts` are in minor units. `at_ms` (N,) is the time as of which counts have decayed.
    """
    age_days = np.maximum(at_ms[:, None] - times_ms, 0) / DAY_MS
    fading, gaps = [], []
    for chosen in (present, bought):
        days, count = _active_days(chosen, times_ms)
        fading += [(np.exp(-age_days / fade) * chosen).sum(1) for fade in FADE_DAYS] + [count.astype(np.float64)]
        gaps += _gaps(days, count)
    worth = np.where(bought, amounts, 0) / 100
    newest = worth[np.arange(len(worth)), np.where(bought.any(1), bought.shape[1] - 1 - bought[:, ::-1].argmax(1), 0)]
    some = bought.any(1)
    columns = [
        *fading,
        *gaps,
        *((np.exp(-age_days / fade) * worth).sum(1) for fade in WORTH_FADE_DAYS),
        np.where(some, newest, np.nan),
        np.where(some, worth.sum(1) / np.maximum(bought.sum(1), 1), np.nan),
    ]
    return np.asarray(np.log1p(np.stack(columns, axis=1)), np.float32)


def _active_days(chosen: Bools, times_ms: Longs) -> tuple[Longs, Longs]:
    """Return the distinct days of chosen events, moved to the left: days (N, T), of which row i uses count[i]."""
    left = np.argsort(~chosen, axis=1, kind="stable")
    days = np.take_along_axis(times_ms // DAY_MS, left, axis=1)
    count = chosen.sum(1)
    place = np.arange(days.shape[1])
    distinct = (place < count[:, None]) & (np.diff(days, axis=1, prepend=-1) != 0)
    left = np.argsort(~distinct, axis=1, kind="stable")
    return np.take_along_axis(days, left, axis=1), distinct.sum(1)


def _gaps(days: Longs, count: Longs) -> list[Floats]:
    """Return statistics of the days between active days, each (N,), in the order of _GAPS."""
    gaps = np.maximum(np.diff(days, axis=1), 0).astype(np.float64)  # histories are sorted; a step back counts as 0
    known = np.arange(gaps.shape[1]) < count[:, None] - 1
    n, one, two = known.sum(1), known.any(1), known.sum(1) > 1
    mean = np.where(known, gaps, 0).sum(1) / np.maximum(n, 1)
    square = (np.where(known, gaps - mean[:, None], 0) ** 2).sum(1) / np.maximum(n, 1)
    newest = gaps[np.arange(len(gaps)), np.maximum(n - 1, 0)] if gaps.shape[1] else mean
    return [
        np.where(one, mean, np.nan),
        np.where(one, np.where(known, gaps, np.inf).min(1, initial=np.inf), np.nan),
        np.where(one, np.where(known, gaps, 0).max(1, initial=0), np.nan),
        np.where(one, newest, np.nan),
        np.where(two, np.sqrt(square), np.nan),
    ]
