"""Save the state of a training run, and load it so that another process resumes with the very next step.

Tensors are in one safetensors file, numbers in one JSON file. The JSON file is written last and holds the hash of the tensor
file, so that a partial save is detected. Start at save_state.
"""

import hashlib
import math
from pathlib import Path
from typing import Any, Protocol

import msgspec
import safetensors.torch
import torch
from torch import Tensor, nn

from schemas.errors import TrainingError

TENSORS = "state.safetensors"
NUMBERS = "state.json"


class Progress(msgspec.Struct, kw_only=True):
    """Progress of a run; `best` holds the trained weights of the best validation so far."""

    best: dict[str, Tensor]
    step: int = 0
    best_step: int = 0
    best_value: float = math.inf
    waited: int = 0
    stopped: bool = False
    loss_sum: float = 0.0
    loss_steps: int = 0
    examples: float = 0.0
    seconds: float = 0.0
    validations: list[tuple[int, float, float, float]] = msgspec.field(default_factory=list)

    def add_loss(self, value: float, weight: float) -> None:
        """Add one step's loss to the mean since the last validation, and count its weight."""
        self.examples += weight
        self.loss_sum += value
        self.loss_steps += 1

    def take_loss(self) -> float:
        """Return that mean and reset it."""
        mean = self.loss_sum / max(self.loss_steps, 1)
        self.loss_sum, self.loss_steps = 0.0, 0
        return mean


class _Numbers(msgspec.Struct, kw_only=True):
    """All of state.json; floats are hexadecimal, so that they round-trip exactly."""

    tensors_sha256: str
    step: int
    best_step: int
    best_value: str
    waited: int
    stopped: bool
    loss_sum: str
    loss_steps: int
    examples: float = 0.0
    seconds: float = 0.0
    validations: list[tuple[int, float, float, float]]


def save_state(
    folder: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    adaptation: "Adaptation | None" = None,
) -> None:
    """Write what the next step depends on: trained weights, the optimiser's moments, the best weights and the counts."""
    trained = {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}
    tensors = {f"now.{name}": tensor.detach() for name, tensor in trained.items()}
    tensors |= {f"best.{name}": tensor for name, tensor in progress.best.items()}
    for place, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{place}.{name}": torch.as_tensor(value) for name, value in moments.items() if value is not None}
    if adaptation is not None:
        tensors |= {f"adaptation.{name}": tensor for name, tensor in adaptation.tensors().items()}
    content = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    numbers = _Numbers(
        tensors_sha256=hashlib.sha256(content).hexdigest(),
        step=progress.step,
        best_step=progress.best_step,
        best_value=progress.best_value.hex(),
        waited=progress.waited,
        stopped=progress.stopped,
        loss_sum=progress.loss_sum.hex(),
        loss_steps=progress.loss_steps,
        examples=progress.examples,
        seconds=progress.seconds,
        validations=progress.validations,
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in ((TENSORS, content), (NUMBERS, msgspec.json.encode(numbers))):
        partial = folder / f".{name}.partial"
        partial.write_bytes(data)
        partial.replace(folder / name)


def load_state(
    folder: Path, network: nn.Module, optimiser: torch.optim.Optimizer, adaptation: "Adaptation | None" = None
) -> Progress | None:
    """Load a saved state into network and optimiser and return its progress; None if there is none.

    Raises:
        TrainingError: the save is incomplete, or comes from a run that trains other parameters.
    """
    if not (folder / NUMBERS).is_file():
        return None
    numbers = msgspec.json.decode((folder / NUMBERS).read_bytes(), type=_Numbers)
    content = (folder / TENSORS).read_bytes()
    if hashlib.sha256(content).hexdigest() != numbers.tensors_sha256:
        raise TrainingError(
            f"found {folder / TENSORS} and {NUMBERS} of different saves, expected one save: delete {folder} to start over"
        )
    tensors = safetensors.torch.load(content)
    now = _under("now.", tensors)
    trained = {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}
    shapes = {name: tensor.shape for name, tensor in trained.items()}
    if shapes != {name: tensor.shape for name, tensor in now.items()}:
        raise TrainingError(
            f"found {len(now)} trained tensors in {folder} whose names or shapes differ, expected {len(shapes)} of this run: "
            "delete the folder to start over"
        )
    with torch.no_grad():
        for name, tensor in now.items():
            trained[name].copy_(tensor)
    moments: dict[int, dict[str, Any]] = {}
    for key, tensor in _under("optimiser.", tensors).items():
        place, _, name = key.partition(".")
        moments.setdefault(int(place), {})[name] = tensor
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    if adaptation is not None:
        adaptation.restore(_under("adaptation.", tensors))
    return Progress(
        best=_under("best.", tensors),
        step=numbers.step,
        best_step=numbers.best_step,
        best_value=float.fromhex(numbers.best_value),
        waited=numbers.waited,
        stopped=numbers.stopped,
        loss_sum=float.fromhex(numbers.loss_sum),
        loss_steps=numbers.loss_steps,
        examples=numbers.examples,
        seconds=numbers.seconds,
        validations=numbers.validations,
    )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class Adaptation(Protocol):
    """What a parameter-efficient method does besides gradient steps, such as changing AdaLoRA's ranks."""

    def after_step(self, step: int) -> None:
        """Read the gradients of step 1, 2, … before they are cleared."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the state that a resumed run needs."""

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
