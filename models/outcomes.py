"""Examples of a dataset → the outcomes that churn is measured by, as arrays; NaN is unknown.

Times count from the landmark: an example's silence before it is taken off what was counted from the last event seen.
Start at stayed_away.
"""

from collections.abc import Sequence

import numpy as np

from models.bootstrap import Floats
from models.examples import Example

DAY_MS = 86_400_000


def seen_until_ms(example: Example) -> int:
    """Return the time of the newest event that an example's request rests on."""
    request = example.request
    return max(request.event_time_ms, request.history[-1].event_time_ms if request.history else 0)


def silent_days(examples: Sequence[Example]) -> Floats:
    """Return (N,): how long each user has been silent at the landmark."""
    return _silent_ms(examples) / DAY_MS


def absent_days(examples: Sequence[Example]) -> Floats:
    """Return (N,): the days from the landmark to the return; NaN where none was seen."""
    return _absent_ms(examples) / DAY_MS


def watched_days(examples: Sequence[Example]) -> Floats:
    """Return (N,): the days from the landmark for which the user was watched."""
    return _watched_ms(examples) / DAY_MS


def stayed_away(examples: Sequence[Example], horizon_days: int) -> Floats:
    """Return (N,): 1 for no return within the horizon after the landmark, 0 for one, NaN if watched for less.

    A return seen by one who was not watched to the end is left out too: else returning would look likelier than it is.
    """
    horizon_ms = horizon_days * DAY_MS
    away = ~(_absent_ms(examples) <= horizon_ms)
    return np.where(_watched_ms(examples) >= horizon_ms, away.astype(np.float64), np.nan)


def _silent_ms(examples: Sequence[Example]) -> Floats:
    return np.array([example.landmark_ms - seen_until_ms(example) for example in examples], np.float64)


def _absent_ms(examples: Sequence[Example]) -> Floats:
    absent = [np.nan if example.absent_ms is None else example.absent_ms for example in examples]
    return np.array(absent, np.float64) - _silent_ms(examples)


def _watched_ms(examples: Sequence[Example]) -> Floats:
    return np.array([example.observed_ms for example in examples], np.float64) - _silent_ms(examples)
