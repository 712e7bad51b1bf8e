"""Logits and what came of them → the scales and biases that make probabilities of them.

Fitted on a slice later than the training's. Few examples change little: all fits are held at "leave it as it is". Start at
fit_calibration.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.checkpoint import Calibration, Platt
from models.scorer import sigmoid
from models.survival import Exposures, hazard_loss

Floats = NDArray[np.float64]

PLATT_PRIOR = 10.0  # how many examples' worth of doubt holds a calibration at "leave it as it is"
SEASON_PRIOR = 3.0  # the doubt of one bin's own bias against that of all bins
MIN_PLATT_SCALE = 0.05
SEASON_SHARE = 0.5  # of a shift of all hazards from one slice to the next that is taken for weather, and not kept


def fit_platt(logits: Floats, labels: Floats) -> Platt:
    """Fit scale and bias by Newton's method; unknown labels (NaN) are left out, few labels change little."""
    known = ~np.isnan(labels)
    x = np.column_stack([logits[known], np.ones(known.sum())])
    start = np.array([1.0, 0.0])
    fitted = start.copy()
    for _ in range(50):
        p = sigmoid(x @ fitted)
        gradient = x.T @ (p - labels[known]) + PLATT_PRIOR * (fitted - start)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + PLATT_PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        fitted -= np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-9:
            break
    return Platt(round(max(float(fitted[0]), MIN_PLATT_SCALE), 6), round(float(fitted[1]), 6))


def fit_hazards(logits: Tensor, seen: Exposures) -> list[Platt]:
    """Fit one scale and one bias for all bins, and a bias of each bin's own that is held small, to hazards (N, H).

    Bins that are seen seldom, the long ones, so take part in what the others show. Biases are halved: how much more people
    come back in some weeks than in those of training says little of the months that follow.
    """
    exposure, returned = (torch.from_numpy(part).double() for part in seen)
    changes = torch.zeros(2 + logits.shape[1], dtype=torch.float64, requires_grad=True)  # log scale, bias, biases
    doubt = torch.tensor([PLATT_PRIOR * 10, PLATT_PRIOR, *[PLATT_PRIOR * SEASON_PRIOR] * logits.shape[1]])
    optimiser = torch.optim.LBFGS([changes], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        moved = logits.double() * changes[0].exp() + changes[1] + changes[2:]
        value = _likelihood(moved, exposure, returned) + 0.5 * (doubt * changes.square()).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    scale, bias, *biases = changes.detach().tolist()
    scale = round(max(float(np.exp(scale)), MIN_PLATT_SCALE), 6)
    return [Platt(scale, round((1 - SEASON_SHARE) * (bias + own), 6)) for own in biases]


def _likelihood(logits: Tensor, exposure: Tensor, returned: Tensor) -> Tensor:
    return hazard_loss(logits, exposure, returned).double().sum()


def fit_calibration(
    interest: Floats, categories: Floats, hazards: Tensor, seen: Exposures, sentiment: Floats, positive: Floats
) -> Calibration:
    """Fit every head's calibration; labels are NaN where unknown."""
    return Calibration(
        interest=fit_platt(interest.ravel(), categories.ravel()),
        hazards=fit_hazards(hazards, seen),
        sentiment=fit_platt(sentiment, positive),
    )
