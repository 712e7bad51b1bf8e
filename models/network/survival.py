"""Convert hazards per time bin to survival and risk, and compute the likelihood of observed times until a return.

The times may be right-censored and left-truncated. They count from a user's last event, in bins that end at HORIZONS_DAYS.
The hazard h_k is P(return in bin k | no return before it). It is constant within a bin: P(no return) in a part f of the bin
is (1 - h_k)^f. After the last bin, its hazard still applies. This module knows neither users nor networks. Shapes: N rows,
H bins. Start at exposures.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import softplus

from models.data.labels import HORIZONS_DAYS
from schemas.time_units import DAY_MS

LEAST_EXPOSURE = 1e-4  # of a bin with a return: with an exposure of 0 its loss would be infinite
Floats = NDArray[np.float64]


class Exposures(NamedTuple):
    """The observation of N users in every bin.

    `exposure` is the observed part of a bin: after the landmark and before the return, the bin's end or the censoring time.
    0 adds no loss. `returned` is 1 if the user returned within that part.
    """

    exposure: Floats  # (N, H) in [0, 1]
    returned: Floats  # (N, H) 0 or 1


def exposures(
    absent_ms: ArrayLike, observed_ms: ArrayLike, silent_ms: ArrayLike, horizons_days: Sequence[int] = HORIZONS_DAYS
) -> Exposures:
    """Split the observation time of N users into bins.

    All times run from the last event: `absent_ms` until the return (NaN: censored), `observed_ms` until the censoring time,
    `silent_ms` until observation began. In the bin of a return, exposure extends to the bin's end or the censoring time,
    whichever is first: only the bin of a return is used, not its time within the bin.
    """
    absent, observed, silent = (np.asarray(part, np.float64) / DAY_MS for part in (absent_ms, observed_ms, silent_ms))
    ends = np.array(horizons_days, np.float64)
    starts = np.concatenate([[0.0], ends[:-1]])
    until_return = np.nan_to_num(absent, nan=np.inf)[:, None]
    ends_observed = np.minimum(ends, observed[:, None])
    observed_part = np.clip((ends_observed - np.maximum(starts, silent[:, None])) / (ends - starts), 0, 1)
    exposure = np.where(until_return > starts, observed_part, 0.0)
    returned = (until_return > starts) & (until_return <= ends_observed) & (until_return > silent[:, None])
    return Exposures(np.where(returned, np.maximum(exposure, LEAST_EXPOSURE), exposure), returned.astype(np.float64))


def hazard_loss(logits: Tensor, exposure: Tensor, returned: Tensor) -> Tensor:
    """Return the (N,) negative log-likelihood of the observation; logits are of the bins' hazards, all (N, H).

    A survived part f of a bin costs f softplus(z); a return in it costs -log(1 - exp(-f softplus(z))). With f = 1 this is
    the binary cross-entropy.
    """
    survived = exposure * softplus(logits)
    return_loss = -torch.log(-torch.expm1(-survived.clamp(min=1e-7)))
    return torch.where(returned > 0, return_loss, survived).sum(-1)


def prior_logits(observed: Exposures) -> Floats:
    """Return (H,) logits that nearly maximise the likelihood if all users share the same hazards."""
    rate = (observed.returned.sum(0) + 0.5) / (np.maximum(observed.exposure - observed.returned / 2, 0).sum(0) + 1)
    return np.asarray(np.log(np.expm1(np.clip(rate, 1e-4, 10.0))))


def survival_at(hazards: Floats, days: ArrayLike, horizons_days: Sequence[int] = HORIZONS_DAYS) -> Floats:
    """Return (N,) probabilities of no return within `days` (N,) of the last event, from hazards (N, H)."""
    return np.asarray(np.exp(_log_survival(hazards, days, horizons_days)))


def risk(hazards: Floats, silent_days: ArrayLike, horizon_days: float, horizons: Sequence[int] = HORIZONS_DAYS) -> Floats:
    """Return (N,) probabilities of no return for a further `horizon_days`, given `silent_days` (N,) of silence."""
    silent = np.asarray(silent_days, np.float64)
    later, now = (_log_survival(hazards, days, horizons) for days in (silent + horizon_days, silent))
    return np.asarray(np.exp(later - now))


def _log_survival(hazards: Floats, days: ArrayLike, horizons_days: Sequence[int]) -> Floats:
    ends = np.array(horizons_days, np.float64)
    starts = np.concatenate([[0.0], ends[:-1]])
    parts = np.maximum((np.asarray(days, np.float64)[:, None] - starts) / (ends - starts), 0)
    parts[:, :-1] = np.minimum(parts[:, :-1], 1)
    return np.asarray((parts * np.log1p(-np.minimum(hazards, 1 - 1e-12))).sum(1))
