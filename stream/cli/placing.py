"""Where a training command computes, and where it may write a model. Start at choose_device and refuse_model."""

from pathlib import Path
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]


def choose_device(wanted: Device) -> str:
    """Return the device to train on.

    Raises:
        ValueError: CUDA is wanted and there is none.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("found --device cuda and no CUDA device, expected one that torch sees: say --device cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def refuse_model(out: Path) -> None:
    """Leave a model that is there already, and the report of it, alone.

    Raises:
        ValueError: there is one, or no folder can be there.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"found a file {out}, expected a folder or nothing there: choose another --out")
    if (out / "manifest.json").exists():
        raise ValueError(f"found a model in {out}, expected a folder without one: choose another --out, or move it away")
