"""Save a fine-tuned encoder and its heads as a folder, and load it; refuse one whose encoder or heads were altered.

The folder holds encoder/, heads.safetensors, and manifest.json with the hashes of the other files. `encoder/` is an ordinary
encoder folder that Encoder.load reads. Start at load_tuned.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import safetensors.torch
import torch
from msgspec import Struct

from models.linear.linear_model import Floats
from models.network.encoder import Encoder, Vectors
from models.network.encoder_parts import Parts, save_encoder
from models.network.losses import ordinal_probabilities
from models.network.text_heads import HeadsConfig, TextHeads, TextLogits
from models.serving.checkpoint import FileFacts
from schemas.errors import ModelError

ENCODER, HEADS, MANIFEST = "encoder", "heads.safetensors", "manifest.json"
FORMAT_VERSION = 1
RETRAIN = "train again with footfall train texts"


class TunedManifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of manifest.json; `metrics` are on the test slice, measured with the encoder as saved in this folder."""

    format_version: int
    files: dict[str, FileFacts]
    base_encoder_uri: str
    base_encoder_id: str
    encoder_id: str
    licence: str
    heads: HeadsConfig
    config: dict[str, Any]
    metrics: dict[str, Any]


class TunedText(NamedTuple):
    """A loaded folder, ready to serve."""

    encoder: Encoder
    heads: TextHeads
    manifest: TunedManifest


class Probabilities(NamedTuple):
    """The heads' probabilities of N texts; None without that head."""

    sentiment: Floats | None  # (N, 2) negative, positive
    rating: Floats | None  # (N, 5) one to five stars
    category: Floats | None  # (N, C)


def save_weights(folder: Path, parts: Parts, heads: TextHeads, licence: str) -> None:
    """Write encoder and heads; save_manifest writes the manifest once the metrics are measured."""
    save_encoder(folder / ENCODER, parts, licence)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in heads.state_dict().items()}
    (folder / HEADS).write_bytes(safetensors.torch.save(tensors))


def save_manifest(folder: Path, **facts: Any) -> TunedManifest:
    """Hash the files of save_weights and write the manifest last, by renaming; `facts` are its other fields."""
    paths = [folder / HEADS, *sorted(path for path in (folder / ENCODER).rglob("*") if path.is_file())]
    files = {path.relative_to(folder).as_posix(): _facts(path) for path in paths}
    manifest = TunedManifest(format_version=FORMAT_VERSION, files=files, **facts)
    partial = folder / f".{MANIFEST}.partial"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    partial.replace(folder / MANIFEST)
    return manifest


def load_tuned(folder: Path, *, threads: int | None = None) -> TunedText:
    """Load a folder.

    Raises:
        ModelError: a file is missing, altered or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(f"found no {path}, expected a tuned encoder: {RETRAIN}")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=TunedManifest)
    except msgspec.DecodeError as error:
        raise ModelError(f"{path} is not a manifest ({error}), expected one of format {FORMAT_VERSION}: {RETRAIN}") from error
    for name, facts in manifest.files.items():
        if not (folder / name).is_file() or _facts(folder / name) != facts:
            raise ModelError(
                f"found {folder / name} missing or altered, expected SHA-256 {facts.sha256[:16]}: download it again"
            )
    heads = TextHeads(manifest.heads)
    heads.load_state_dict(safetensors.torch.load((folder / HEADS).read_bytes()))
    return TunedText(Encoder.load(str(folder / ENCODER), threads=threads), heads.eval().requires_grad_(False), manifest)


def head_probabilities(heads: TextHeads, vectors: Vectors) -> Probabilities:
    """Return the heads' probabilities of an encoder's (N, D) vectors."""
    with torch.inference_mode():
        logits: TextLogits = heads(torch.from_numpy(np.asarray(vectors, np.float32)))
    rating = None if logits.rating is None else ordinal_probabilities(logits.rating)
    sentiment, category = (None if part is None else torch.softmax(part, -1) for part in (logits.sentiment, logits.category))
    return Probabilities(*(None if part is None else part.double().numpy() for part in (sentiment, rating, category)))


def _facts(path: Path) -> FileFacts:
    with path.open("rb") as file:
        return FileFacts(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size)
