"""Numbers and what came of them → a linear function of the numbers, held small: the plainest model there is.

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
BLEND_SHARES = tuple(step / 10 for step in range(10, -1, -1))  # of the model; it keeps the lead where nothing tells them apart
SMALLEST = 1e-6

PENALTIES = (1e-1, 1e-2, 1e-3)  # of half the mean square of weights, the strongest first
STEPS = 60

Loss = Callable[[Tensor], Tensor]  # (N, M) logits → a mean loss


def fit_linear(layer: nn.Linear, inputs: Tensor, loss: Loss, penalty: float) -> None:
    """Fit a layer's weights to (N, D) inputs by L-BFGS; biases are not held small."""
    with torch.enable_grad():
        optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimiser.zero_grad()
            value = loss(layer(inputs)) + 0.5 * penalty * layer.weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimiser.step(closure)  # type: ignore[no-untyped-call]


def fit_best(layer: nn.Linear, inputs: Tensor, loss: Loss, held_out: Tensor, held_out_loss: Loss) -> float:
    """Fit a layer with the penalty that held-out rows like best, and return it; the first where they show nothing."""
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
    """Return the share whose loss is least; among equals the first."""
    pairs = [(loss, share) for share, loss in losses if np.isfinite(loss)]
    return min(pairs, key=lambda pair: pair[0])[1] if pairs else 1.0


def log_loss(probabilities: Floats, classes: Indices) -> float:
    """Return the mean negative log-probability of the true classes."""
    true = probabilities[np.arange(len(classes)), classes]
    return float(-np.log(np.clip(true, SMALLEST, 1)).mean())


def blend_losses(model: Floats, baseline: Floats, classes: Indices) -> dict[float, float]:
    """Return the log-loss of the blend with a baseline by the model's share, rounded so that the last bits decide nothing.

    Where no row's class is known there is none.
    """
    known = classes != UNKNOWN
    if not known.any():
        return {}
    mixed = {share: share * model[known] + (1 - share) * baseline[known] for share in BLEND_SHARES}
    return {share: round(log_loss(probabilities, classes[known]), 9) for share, probabilities in mixed.items()}
