"""Times until a return, some cut off by the end of watching and some begun late → hazards, survival and risk.

Time runs from a user's last seen event and is cut into bins that end at HORIZONS_DAYS; h_k = P(return in bin k | none
before). Within a bin the hazard is constant, so a part f of it is survived with probability (1 - h_k)^f; after the last
bin its hazard goes on. Knows neither users nor networks. Shapes: N rows, H bins. Start at exposures.
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

LEAST_EXPOSURE = 1e-4  # of a bin, for one in which a user returned: a return at once would else cost infinitely much
Floats = NDArray[np.float64]


class Exposures(NamedTuple):
    """What N users were seen to do in every bin.

    `exposure` is the watched part of a bin, after the landmark and before return, bin's end or end of watching; 0 teaches
    nothing. `returned` is 1 where the user came back within that part.
    """

    exposure: Floats  # (N, H) in [0, 1]
    returned: Floats  # (N, H) 0 or 1


def exposures(
    absent_ms: ArrayLike, observed_ms: ArrayLike, silent_ms: ArrayLike, horizons_days: Sequence[int] = HORIZONS_DAYS
) -> Exposures:
    """Cut the watched time of N users into bins.

    All times are from the last seen event: `absent_ms` until the return (NaN: none while watched), `observed_ms` until
    watching ended, `silent_ms` until it began. The exposure of the bin of a return is counted to the bin's end, or to the
    end of watching if that is sooner: that the return fell into it is all that is used.
    """
    absent, observed, silent = (np.asarray(part, np.float64) / DAY_MS for part in (absent_ms, observed_ms, silent_ms))
    ends = np.array(horizons_days, np.float64)
    starts = np.concatenate([[0.0], ends[:-1]])
    back = np.nan_to_num(absent, nan=np.inf)[:, None]
    begun = np.maximum(starts, silent[:, None])
    watched = np.clip((np.minimum(ends, observed[:, None]) - begun) / (ends - starts), 0, 1)
    exposure = np.where(back > starts, watched, 0.0)
    returned = (back > starts) & (back <= np.minimum(ends, observed[:, None])) & (back > silent[:, None])
    return Exposures(np.where(returned, np.maximum(exposure, LEAST_EXPOSURE), exposure), returned.astype(np.float64))


def hazard_loss(logits: Tensor, exposure: Tensor, returned: Tensor) -> Tensor:
    """Return the (N,) negative log-likelihood of what was seen; logits are of the bins' hazards, all (N, H).

    A part f of a bin survived costs f softplus(z); a return in it -log(1 - exp(-f softplus(z))). With f = 1 that is the
    binary cross-entropy.
    """
    survived = exposure * softplus(logits)
    come_back = -torch.log(-torch.expm1(-survived.clamp(min=1e-7)))
    return torch.where(returned > 0, come_back, survived).sum(-1)


def prior_logits(seen: Exposures) -> Floats:
    """Return the (H,) logits that fit the data best where all users have the same hazards, nearly."""
    rate = (seen.returned.sum(0) + 0.5) / (np.maximum(seen.exposure - seen.returned / 2, 0).sum(0) + 1)
    return np.asarray(np.log(np.expm1(np.clip(rate, 1e-4, 10.0))))


def survival_at(hazards: Floats, days: ArrayLike, horizons_days: Sequence[int] = HORIZONS_DAYS) -> Floats:
    """Return (N,) probabilities of no return within `days` (N,) of the last seen event, from hazards (N, H)."""
    return np.asarray(np.exp(_log_survival(hazards, days, horizons_days)))


def risk(hazards: Floats, silent_days: ArrayLike, horizon_days: float, horizons: Sequence[int] = HORIZONS_DAYS) -> Floats:
    """Return (N,) probabilities that users silent for `silent_days` (N,) stay so for a further `horizon_days`."""
    silent = np.asarray(silent_days, np.float64)
    later, now = (_log_survival(hazards, days, horizons) for days in (silent + horizon_days, silent))
    return np.asarray(np.exp(later - now))


def _log_survival(hazards: Floats, days: ArrayLike, horizons_days: Sequence[int]) -> Floats:
    ends = np.array(horizons_days, np.float64)
    starts = np.concatenate([[0.0], ends[:-1]])
    parts = np.maximum((np.asarray(days, np.float64)[:, None] - starts) / (ends - starts), 0)
    parts[:, :-1] = np.minimum(parts[:, :-1], 1)
    return np.asarray((parts * np.log1p(-np.minimum(hazards, 1 - 1e-12))).sum(1))
