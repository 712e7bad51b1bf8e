"""A fine-tuned encoder and its heads ↔ a folder: encoder/, heads.safetensors, manifest.json, all of it hashed.

`encoder/` is an ordinary encoder folder: Encoder.load reads it without knowing of reviews. Start at load_tuned.
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
    """All of manifest.json; `metrics` are of the test slice, through the encoder as this folder serves it."""

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
    """What a folder holds, ready to serve."""

    encoder: Encoder
    heads: TextHeads
    manifest: TunedManifest


class Probabilities(NamedTuple):
    """What the heads say of N texts; None where there is no such head."""

    sentiment: Floats | None  # (N, 2) negative, positive
    rating: Floats | None  # (N, 5) one to five stars
    category: Floats | None  # (N, C)


def save_weights(folder: Path, parts: Parts, heads: TextHeads, licence: str) -> None:
    """Write encoder and heads; the manifest comes after their metrics, by save_manifest."""
    save_encoder(folder / ENCODER, parts, licence)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in heads.state_dict().items()}
    (folder / HEADS).write_bytes(safetensors.torch.save(tensors))


def save_manifest(folder: Path, **facts: Any) -> TunedManifest:
    """Hash what save_weights wrote and write the manifest last, by renaming; `facts` are its other fields."""
    paths = [folder / HEADS, *sorted(path for path in (folder / ENCODER).rglob("*") if path.is_file())]
    files = {path.relative_to(folder).as_posix(): _facts(path) for path in paths}
    manifest = TunedManifest(format_version=FORMAT_VERSION, files=files, **facts)
    partial = folder / f".{MANIFEST}.partial"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    partial.replace(folder / MANIFEST)
    return manifest


def load_tuned(folder: Path, *, threads: int | None = None) -> TunedText:
    """Read a folder whose every file is as it was written.

    Raises:
        ModelError: a file is missing, altered or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(f"found no {path}, expected a tuned encoder: {RETRAIN}")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=TunedManifest)
    except msgspec.DecodeError as error:
        raise ModelError(f"{path} is no manifest ({error}), expected one of format {FORMAT_VERSION}: {RETRAIN}") from error
    for name, facts in manifest.files.items():
        if not (folder / name).is_file() or _facts(folder / name) != facts:
            raise ModelError(f"found {folder / name} missing or altered, expected SHA-256 {facts.sha256[:16]}: fetch it again")
    heads = TextHeads(manifest.heads)
    heads.load_state_dict(safetensors.torch.load((folder / HEADS).read_bytes()))
    return TunedText(Encoder.load(str(folder / ENCODER), threads=threads), heads.eval().requires_grad_(False), manifest)


def head_probabilities(heads: TextHeads, vectors: Vectors) -> Probabilities:
    """Turn (N, D) vectors of an encoder into what the heads say."""
    with torch.inference_mode():
        logits: TextLogits = heads(torch.from_numpy(np.asarray(vectors, np.float32)))
    rating = None if logits.rating is None else ordinal_probabilities(logits.rating)
    sentiment, category = (None if part is None else torch.softmax(part, -1) for part in (logits.sentiment, logits.category))
    return Probabilities(*(None if part is None else part.double().numpy() for part in (sentiment, rating, category)))


def _facts(path: Path) -> FileFacts:
    with path.open("rb") as file:
        return FileFacts(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size)
