"""Choose the device of a training command, and refuse to overwrite a model. Start at choose_device."""

from pathlib import Path
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]


def choose_device(wanted: Device) -> str:
    """Return the device to train on.

    Raises:
        ValueError: CUDA is requested and not available.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("found --device cuda and no CUDA device, expected one that torch sees: use --device cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def refuse_model(out: Path) -> None:
    """Refuse to overwrite an existing model and its report.

    Raises:
        ValueError: `out` holds a model, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"found a file {out}, expected a folder or a path that does not exist: choose another --out")
    if (out / "manifest.json").exists():
        raise ValueError(f"found a model in {out}, expected a folder without one: choose another --out, or move it away")
