"""Write a training run's card (one JSON file with settings, data, duration and metrics) and its curves for TensorBoard.

This module works for every model. Start at write_run_card.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from models.training.loop import Curves, Fitted

LIBRARIES = ("torch", "transformers", "peft", "scikit-learn", "numpy")


class RunCard(Struct, frozen=True, kw_only=True):
    """Everything needed to repeat a run, and its results."""

    command: str
    created_at: str
    data_fingerprint: str
    settings: dict[str, Any]
    parameters: dict[str, int]
    examples: dict[str, int]
    machine: dict[str, Any]
    fitted: Fitted
    examples_per_second: float
    metrics: dict[str, Any]


def machine_facts(device: str) -> dict[str, Any]:
    """Return what the results of a run on `cpu` or `cuda` depend on besides its settings: processor, threads, versions."""
    import torch

    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    libraries = {name: version(name) for name in LIBRARIES}
    return {"device": name, "threads": torch.get_num_threads(), "python": platform.python_version(), "libraries": libraries}


def write_run_card(path: Path, card: RunCard) -> None:
    """Write a run card as indented JSON, atomically by renaming."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(card)) + b"\n")
    partial.replace(path)


class _TensorBoard:
    """Writes curves for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def add(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


@contextmanager
def tensorboard(folder: Path | None) -> Iterator[Curves | None]:
    """Open a folder of curves for the duration of a run; yields None without a folder."""
    if folder is None:
        yield None
        return
    board = _TensorBoard(folder)
    try:
        yield board
    finally:
        board.close()
