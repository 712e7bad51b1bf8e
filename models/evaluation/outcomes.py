"""Turn examples into the outcomes that churn is measured by, as arrays; NaN is unknown.

Times count from the landmark. Examples count them from the user's newest event (or purchase), so the silence between that
event and the landmark is subtracted. Start at stayed_away.
"""

from collections.abc import Sequence

import numpy as np

from models.data.examples import Example, churned_within, silent_ms
from models.evaluation.bootstrap import Floats
from schemas.time_units import DAY_MS


def silent_days(examples: Sequence[Example]) -> Floats:
    """Return (N,): the days of each user's silence before the landmark."""
    return _silent_ms(examples) / DAY_MS


def absent_days(examples: Sequence[Example]) -> Floats:
    """Return (N,): the days from the landmark to the return; NaN if no return was observed."""
    return _absent_ms(examples) / DAY_MS


def observed_days(examples: Sequence[Example]) -> Floats:
    """Return (N,): the days from the landmark for which the user was observed."""
    return _observed_ms(examples) / DAY_MS


def stayed_away(examples: Sequence[Example], horizon_days: int) -> Floats:
    """Return (N,): 1 for no return within the horizon after the landmark, 0 for a return, NaN if censored before its end.

    A return before such censoring is also NaN: counting it would overstate the return rate.
    """
    churned = [churned_within(example, horizon_days) for example in examples]
    return np.array([np.nan if away is None else away for away in churned], np.float64)


def _silent_ms(examples: Sequence[Example]) -> Floats:
    return np.array([silent_ms(example) for example in examples], np.float64)


def _absent_ms(examples: Sequence[Example]) -> Floats:
    absent = [np.nan if example.absent_ms is None else example.absent_ms for example in examples]
    return np.array(absent, np.float64) - _silent_ms(examples)


def _observed_ms(examples: Sequence[Example]) -> Floats:
    return np.array([example.observed_ms for example in examples], np.float64) - _silent_ms(examples)
