"""Train a network on numbered batches, and keep the weights of the best validation; a resumed run gives the same weights.

No random state passes from step to step: the order of an epoch follows from (seed, epoch) and dropout from (seed, step). So
a resumed run takes the same steps as an uninterrupted one. This module knows neither texts nor users. Start at fit.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from msgspec import Struct
from torch import Tensor, nn

from models.training.loop_state import Adaptation, Progress, load_state, save_state
from models.training.optimisation import OptimiserConfig, build_optimiser, rate_share, set_rate

SAVE_EVERY_SECONDS = 120.0

Rows = TypeVar("Rows")  # identifies the rows of a micro-batch


class LoopConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long to train and when to stop; one optimiser step takes `accumulate` micro-batches.

    Patience counts validations; an epoch has `validations_per_epoch` of them, the last at its end.
    """

    seed: int = 1
    epochs: int = 5
    accumulate: int = 1
    patience: int = 3
    min_delta: float = 1e-4
    validations_per_epoch: int = 1
    bf16: bool = False


class Validation(Struct, frozen=True):
    """The result of one validation; `value` is the loss to minimise."""

    step: int
    epoch: float
    train_loss: float
    value: float


class Fitted(Struct, frozen=True):
    """How a run went; the network holds the weights of `best_step`. `examples` is the sum of the weights of all losses.

    `seconds` adds up all processes of the run, each up to its last saved state.
    """

    steps: int
    examples: float
    best_step: int
    best_value: float
    validations: tuple[Validation, ...]
    stopped_early: bool
    seconds: float


class Curves(Protocol):
    """Receives the curves of a run."""

    def add(self, name: str, value: float, step: int) -> None:
        """Add one point."""


def fit(
    network: nn.Module,
    *,
    plan: Callable[[int], Sequence[Rows]],
    loss: Callable[[Rows], tuple[Tensor, float]],
    validate: Callable[[], float],
    loop: LoopConfig,
    optimiser_config: OptimiserConfig,
    new_names: Sequence[str] = (),
    state_folder: Path | None = None,
    save_every_seconds: float = SAVE_EVERY_SECONDS,
    adaptation: Adaptation | None = None,
    curves: Curves | None = None,
) -> Fitted:
    """Train until all epochs are done or validation stops improving, and load the best weights into the network.

    `plan(epoch)` returns the micro-batches of epoch 0, 1, …, the same number in each. `loss(rows)` returns a mean and its
    weight, usually the number of rows: a step's gradient is that of the weighted mean over its micro-batches. `validate()` is
    called in eval mode without gradients. With a `state_folder` the state is saved periodically and at every validation, and
    a run that finds one resumes from it. Blocks until done; shows progress on a terminal.

    Raises:
        TrainingError: the saved state belongs to another run.
    """
    from tqdm import tqdm

    optimiser = build_optimiser(network, optimiser_config, new_names)
    first = plan(0)
    steps_per_epoch = math.ceil(len(first) / loop.accumulate)
    total_steps = loop.epochs * steps_per_epoch
    progress = load_state(state_folder, network, optimiser, adaptation) if state_folder else None
    progress = progress or Progress(best=_trainable(network))
    checks = {math.ceil(steps_per_epoch * (i + 1) / loop.validations_per_epoch) for i in range(loop.validations_per_epoch)}
    saved_at = time.monotonic()
    batches: tuple[int, Sequence[Rows]] = (0, first)
    with tqdm(total=total_steps, initial=progress.step, unit="step", desc="train", disable=not sys.stderr.isatty()) as bar:
        while progress.step < total_steps and not progress.stopped:
            epoch, within = divmod(progress.step, steps_per_epoch)
            if epoch != batches[0]:
                batches = (epoch, plan(epoch))
            micro = batches[1][within * loop.accumulate : (within + 1) * loop.accumulate]
            set_rate(optimiser, rate_share(progress.step, total_steps, optimiser_config))
            progress.add_loss(*_step(network, optimiser, micro, loss, loop, progress.step, optimiser_config.clip_norm))
            progress.step += 1
            if adaptation is not None:
                adaptation.after_step(progress.step)
            optimiser.zero_grad()
            bar.update()
            if within + 1 in checks:
                found = _validation(network, validate, loop, progress, steps_per_epoch)
                bar.set_postfix(validation=f"{found.value:.4f}", best=f"{progress.best_value:.4f}")
                if curves is not None:
                    curves.add("loss/train", found.train_loss, progress.step)
                    curves.add("loss/validation", found.value, progress.step)
                    curves.add("rate", optimiser.param_groups[0]["lr"], progress.step)
            if state_folder and (within + 1 in checks or time.monotonic() - saved_at > save_every_seconds):
                progress.seconds += time.monotonic() - saved_at
                saved_at = time.monotonic()
                save_state(state_folder, network, optimiser, progress, adaptation)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in progress.best:
                parameter.copy_(progress.best[name])
    network.eval()
    return Fitted(
        steps=progress.step,
        examples=progress.examples,
        best_step=progress.best_step,
        best_value=progress.best_value,
        validations=tuple(Validation(*found) for found in progress.validations),
        stopped_early=progress.stopped,
        seconds=round(progress.seconds + time.monotonic() - saved_at, 1),
    )


def _step(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    micro: Sequence[Rows],
    loss: Callable[[Rows], tuple[Tensor, float]],
    loop: LoopConfig,
    step: int,
    clip_norm: float,
) -> tuple[float, float]:
    """Take one optimiser step on the weighted mean loss over the micro-batches; return that loss and its weight."""
    network.train()
    total, weight = 0.0, 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(loop.seed * 1_000_003 + step)
        for rows in micro:
            with autocast(network, loop.bf16):
                value, rows_weight = loss(rows)
            (value * rows_weight).backward()  # type: ignore[no-untyped-call]
            total += float(value.detach()) * rows_weight
            weight += rows_weight
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= weight
    torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimiser.step()
    return total / weight, weight


def _validation(
    network: nn.Module, validate: Callable[[], float], loop: LoopConfig, progress: Progress, steps_per_epoch: int
) -> Validation:
    network.eval()
    with torch.no_grad(), autocast(network, loop.bf16):
        value = float(validate())
    found = Validation(progress.step, round(progress.step / steps_per_epoch, 4), progress.take_loss(), value)
    progress.validations.append((found.step, found.epoch, found.train_loss, found.value))
    if value < progress.best_value - loop.min_delta:
        progress.best_value, progress.best_step, progress.waited = value, progress.step, 0
        progress.best = _trainable(network)
    else:
        progress.waited += 1
        progress.stopped = progress.waited >= loop.patience
    return found


def autocast(network: nn.Module, bf16: bool) -> contextlib.AbstractContextManager[object]:
    """Return a context that multiplies matrices in bfloat16 on the network's device, or one without effect."""
    device = next(network.parameters()).device.type
    return torch.autocast(device, torch.bfloat16) if bf16 else contextlib.nullcontext()


def _trainable(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.named_parameters() if tensor.requires_grad}
