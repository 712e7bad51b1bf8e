"""Build an optimiser for a network, and set its learning rate at each step.

Biases, layer norms and other parameters of fewer than two dimensions have no weight decay. The rate warms up linearly, then
falls or stays. This module knows no data and no loss. Start at build_optimiser.

AdamW, at step t with gradient g, rate r, decay d:   w ← w (1 - r d);  m ← b1 m + (1 - b1) g;  v ← b2 v + (1 - b2) g²;
    w ← w - r (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + 1e-8)
SGD with momentum p:   g ← g + d w;  m ← p m + g (m = g at the first step);  w ← w - r m
"""

import math
from collections.abc import Iterable, Iterator
from enum import StrEnum

import torch
from msgspec import Struct
from torch import nn


class OptimiserName(StrEnum):
    """The optimiser to use."""

    ADAMW = "adamw"
    SGD = "sgd"


class Decline(StrEnum):
    """How the learning rate falls after the warm-up."""

    LINEAR = "linear"
    COSINE = "cosine"
    NONE = "none"


class OptimiserConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the optimiser. `learning_rate` is the peak; `warm_up_share` is the share of all steps until the peak.

    `head_rate_factor` multiplies the rate of parameters that are new to the task, such as heads on a pretrained body.
    """

    name: OptimiserName = OptimiserName.ADAMW
    learning_rate: float = 1e-3
    head_rate_factor: float = 1.0
    weight_decay: float = 0.01
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    warm_up_share: float = 0.06
    decline: Decline = Decline.LINEAR
    clip_norm: float = 1.0


def build_optimiser(network: nn.Module, config: OptimiserConfig, new_names: Iterable[str] = ()) -> torch.optim.Optimizer:
    """Return an optimiser of the trainable parameters; names that begin with one of `new_names` are new to the task.

    Every group holds its peak rate as `peak_rate`; `set_rate` applies a share of it at each step.
    """
    new = tuple(new_names)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    undecayed = set(_undecayed(network))
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name not in undecayed, bool(new) and name.startswith(new)), []).append(parameter)
    options = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "peak_rate": config.learning_rate * (config.head_rate_factor if is_new else 1.0),
        }
        for (decays, is_new), parameters in groups.items()
    ]
    if config.name is OptimiserName.SGD:
        return torch.optim.SGD(options, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(options, lr=config.learning_rate, betas=config.betas, fused=True)  # one pass over the weights


def _undecayed(network: nn.Module) -> Iterator[str]:
    """Yield the names of parameters that weight decay would only harm: biases and all of a layer norm."""
    for prefix, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith("bias") or parameter.ndim < 2 or isinstance(module, nn.LayerNorm):
                yield f"{prefix}.{name}" if prefix else name


def rate_share(step: int, total_steps: int, config: OptimiserConfig) -> float:
    """Return the share of the peak rate at step 0, 1, …, total_steps - 1: a linear warm-up, then down to 0 after the last."""
    warm_up_steps = round(config.warm_up_share * total_steps)
    if step < warm_up_steps:
        return (step + 1) / (warm_up_steps + 1)
    done = (step - warm_up_steps) / max(total_steps - warm_up_steps, 1)
    if config.decline is Decline.LINEAR:
        return max(1.0 - done, 0.0)
    if config.decline is Decline.COSINE:
        return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
    return 1.0


def set_rate(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Set every group's rate to this share of its peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak_rate"] * share


def parameter_counts(network: nn.Module) -> dict[str, int]:
    """Count a network's parameters, in total and trainable."""
    parameters = list(network.parameters())
    return {
        "total": sum(parameter.numel() for parameter in parameters),
        "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }
