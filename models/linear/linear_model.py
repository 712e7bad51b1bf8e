"""Fit L2-regularised linear models, and choose their share of a blend with the network.

Start at fit_linear.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.network.losses import UNKNOWN

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
BLEND_SHARES = tuple(step / 10 for step in range(10, -1, -1))  # of the model, largest first, so that it wins ties
SMALLEST = 1e-6

PENALTIES = (1e-1, 1e-2, 1e-3)  # factors of half the sum of squared weights, strongest first
STEPS = 60

Loss = Callable[[Tensor], Tensor]  # (N, M) logits → a mean loss


def fit_linear(layer: nn.Linear, inputs: Tensor, loss: Loss, penalty: float) -> None:
    """Fit a layer to (N, D) inputs by L-BFGS; the penalty applies to weights, not to biases."""
    with torch.enable_grad():
        optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimiser.zero_grad()
            value = loss(layer(inputs)) + 0.5 * penalty * layer.weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimiser.step(closure)  # type: ignore[no-untyped-call]


def fit_best(layer: nn.Linear, inputs: Tensor, loss: Loss, held_out: Tensor, held_out_loss: Loss) -> float:
    """Fit a layer with the penalty of least held-out loss, and return the penalty; the first one without held-out rows."""
    found: list[tuple[float, float, dict[str, Tensor]]] = []
    for penalty in PENALTIES:
        fit_linear(layer, inputs, loss, penalty)
        with torch.no_grad():
            value = float(held_out_loss(layer(held_out))) if len(held_out) else 0.0
        found.append((value, penalty, {name: tensor.detach().clone() for name, tensor in layer.state_dict().items()}))
    value, penalty, weights = min(found, key=lambda entry: entry[0])
    layer.load_state_dict(weights)
    return penalty


def best_share(losses: Iterable[tuple[float, float]]) -> float:
    """Return the share with the least loss; the first of equals, 1 if no loss is finite."""
    pairs = [(loss, share) for share, loss in losses if np.isfinite(loss)]
    return min(pairs, key=lambda pair: pair[0])[1] if pairs else 1.0


def log_loss(probabilities: Floats, classes: Indices) -> float:
    """Return the mean negative log-probability of the true classes."""
    true = probabilities[np.arange(len(classes)), classes]
    return float(-np.log(np.clip(true, SMALLEST, 1)).mean())


def blend_losses(model: Floats, baseline: Floats, classes: Indices) -> dict[float, float]:
    """Return the log-loss of the blend with a baseline, by the model's share; empty if no class is known.

    Losses are rounded, so that floating-point noise cannot decide between shares.
    """
    known = classes != UNKNOWN
    if not known.any():
        return {}
    mixed = {share: share * model[known] + (1 - share) * baseline[known] for share in BLEND_SHARES}
    return {share: round(log_loss(probabilities, classes[known]), 9) for share, probabilities in mixed.items()}
