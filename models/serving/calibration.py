"""Fit the scales and biases that turn logits into calibrated probabilities.

The fit uses the calibration slice, which is later than the training slice. A prior pulls each fit towards scale 1 and bias
0, so a few examples change the probabilities only a little. Start at fit_calibration.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.network.survival import Exposures, hazard_loss
from models.serving.checkpoint import Calibration, Platt
from models.serving.scorer import sigmoid

Floats = NDArray[np.float64]

PLATT_PRIOR = 10.0  # weight, in examples, of the prior for the identity
MIN_PLATT_SCALE = 0.05


def fit_platt(logits: Floats, labels: Floats) -> Platt:
    """Fit scale and bias by Newton's method; unknown labels (NaN) are left out, and few labels change little."""
    known = ~np.isnan(labels)
    if len(np.unique(labels[known])) < 2:  # with one class, the most extreme calibration would fit best
        return Platt()
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


def fit_hazards(logits: Tensor, observed: Exposures) -> list[Platt]:
    """Fit one scale for all bins: how far users' hazards (N, H) spread around each bin's mean logit.

    The level stays at that of training. It has seasonality: a shift of the return rate within one slice did not predict the
    following months (DECISIONS.md). So a shift per bin is fitted, then discarded.
    """
    exposure, returned = (torch.from_numpy(part).double() for part in observed)
    exposed = exposure.sum(0)
    means = torch.where(exposed > 0, (logits.double() * exposure).sum(0) / exposed.clamp(min=1e-9), 0.0)
    changes = torch.zeros(1 + logits.shape[1], dtype=torch.float64, requires_grad=True)  # log scale, a shift of each bin
    prior = torch.tensor([10 * PLATT_PRIOR, *[PLATT_PRIOR] * logits.shape[1]])
    optimiser = torch.optim.LBFGS([changes], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        moved = (logits.double() - means) * changes[0].exp() + means + changes[1:]
        value = hazard_loss(moved, exposure, returned).sum() + 0.5 * (prior * changes.square()).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    scale = round(max(float(changes[0].detach().exp()), MIN_PLATT_SCALE), 6)
    return [Platt(scale, round(float(mean) * (1 - scale), 6)) for mean in means]


def fit_calibration(
    interest: Floats, categories: Floats, hazards: Tensor, seen: Exposures, sentiment: Floats, positive: Floats
) -> Calibration:
    """Fit every head's calibration; labels are NaN where unknown."""
    return Calibration(
        interest=fit_platt(interest.ravel(), categories.ravel()),
        hazards=fit_hazards(hazards, seen),
        sentiment=fit_platt(sentiment, positive),
    )
