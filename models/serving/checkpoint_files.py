"""Read and write a checkpoint's files; refuse any with the wrong hash, and weights of the wrong name, shape or type.

This module knows which files an encoder may have, but not what the files of a checkpoint mean. Nothing is unpickled.
Start at checked_content.
"""

import hashlib
import re
import shutil
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from msgspec import Struct

from schemas.errors import ModelError

ENCODER = "encoder"
ENCODER_FILE = re.compile(r"encoder/(1_Pooling/)?\w[\w-]*\.(json|md|model|safetensors|txt)", re.ASCII)
RETRAIN = "train again with footfall train, or run the Footfall version that wrote it"


class FileFacts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file's expected hash and size."""

    sha256: str
    size: int


def checked_content(path: Path, facts: FileFacts) -> bytes:
    """Read a file; raise ModelError unless it has the expected hash."""
    if not path.is_file():
        raise ModelError(f"found no {path}, expected {facts.size} bytes: {RETRAIN}")
    content = path.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != facts.sha256:
        raise ModelError(
            f"{path} has {len(content)} bytes of SHA-256 {digest[:16]}, "
            f"expected {facts.size} of {facts.sha256[:16]}: download the checkpoint again"
        )
    return content


def checked_weights(path: Path, facts: FileFacts, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read a weights file; raise ModelError unless hash, names, shapes and types are the expected ones."""
    content = checked_content(path, facts)
    try:
        found: dict[str, torch.Tensor] = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file ({error}): {RETRAIN}") from error
    if missing := sorted(expected.keys() - found.keys()):
        raise ModelError(f"{path} lacks {', '.join(missing)}, which the network needs: {RETRAIN}")
    if extra := sorted(found.keys() - expected.keys()):
        raise ModelError(f"{path} holds {', '.join(extra)}, which the network does not have: {RETRAIN}")
    for key, tensor in found.items():
        if tensor.shape != expected[key].shape or tensor.dtype != torch.float32:
            raise ModelError(
                f"{path} holds {key} as {tensor.dtype} {list(tensor.shape)}, "
                f"expected float32 {list(expected[key].shape)}: {RETRAIN}"
            )
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{path} holds {key} with values that are not finite: {RETRAIN}")
    return found


def encoder_files(folder: Path) -> dict[str, FileFacts]:
    """Hash the files of a tuned encoder, by their path in the checkpoint."""
    files: dict[str, FileFacts] = {}
    for path in sorted((folder / ENCODER).rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder).as_posix()
        if not ENCODER_FILE.fullmatch(name):
            raise ModelError(f"found {path}, expected only files of a Hugging Face encoder there: remove it")
        with path.open("rb") as file:
            files[name] = FileFacts(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size)
    if not files:
        raise ModelError(f"found no files in {folder / ENCODER}, expected the tuned encoder: {RETRAIN}")
    return files


def copy_encoder(source: Path, folder: Path) -> None:
    """Copy an encoder's folder into the checkpoint in `folder`, replacing an encoder that is already there."""
    if source.resolve() == (folder / ENCODER).resolve():
        return
    shutil.rmtree(folder / ENCODER, ignore_errors=True)
    for path in sorted(source.rglob("*")):
        target = folder / ENCODER / path.relative_to(source)
        if ENCODER_FILE.fullmatch(target.relative_to(folder).as_posix()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file and rename it into place, so that no reader sees it partially written."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
