"""A trained network ↔ a folder of model.safetensors and manifest.json, refused unless every byte is as it was written.

A tuned text encoder lies beside them in `encoder/`, a Hugging Face folder; of a network that ranks items their names and
what was counted of them, and the categories of items where events do not say them; all files are in the manifest. Knows what
a checkpoint must say about itself (feature spec, encoder, labels, calibration), not how it was trained. Nothing is unpickled.
Start at load_checkpoint.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import safetensors.numpy
import safetensors.torch
import torch
from msgspec import Struct

from models.features.spec import FEATURE_SPEC
from models.item_prior import ItemPrior
from models.network import Network, NetworkConfig
from models.rhythm import RHYTHM_NAMES
from models.rows import Normalisation

WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
ITEM_NAMES, ITEM_PRIOR = "items.json", "items.safetensors"
ITEM_CATEGORIES = "categories.json"  # item → category, where events do not say it; without any there is no such file
OWN_ENCODER = "checkpoint:encoder"  # an encoder_uri: the Hugging Face folder of that name in the checkpoint's own
ENCODER = "encoder"
ENCODER_FILE = re.compile(r"encoder/(1_Pooling/)?\w[\w-]*\.(json|md|model|safetensors|txt)", re.ASCII)
FORMAT_VERSION = 2
RETRAIN = "train again with footfall train, or run the Footfall that wrote it"


class CheckpointError(ValueError):
    """A checkpoint that must not be used: the text says what was found, what was expected and what to do."""


class FileFacts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file must be, to the byte."""

    sha256: str
    size: int


class Platt(Struct, frozen=True, forbid_unknown_fields=True):
    """Calibration of one logit: probability = sigmoid(scale * logit + bias), scale above 0."""

    scale: float = 1.0
    bias: float = 0.0


class Calibration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How logits become probabilities: one pair for all interests, one per horizon, one for sentiment."""

    interest: Platt
    hazards: list[Platt]
    sentiment: Platt


class Contract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides a checkpoint's scores beside its weights; the model version is a hash of both.

    `rhythm` names what is read of a history beside the features. `returns` is what its hazards are of: "any" activity, timed
    from the newest event seen, or a "purchase", timed from the newest purchase seen.
    """

    spec_version: str
    rhythm: list[str]
    returns: Literal["any", "purchase"]
    encoder_uri: str
    encoder_id: str
    labels: list[str]
    horizons_days: list[int]
    network: NetworkConfig
    normalisation: Normalisation
    calibration: Calibration


class Provenance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a checkpoint comes from; `metrics` are of the test slice, which training never saw."""

    command: str
    created_at: str
    data_fingerprint: str
    settings: dict[str, Any]
    metrics: dict[str, Any]
    licence: str


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of manifest.json."""

    format_version: int
    model_version: str
    files: dict[str, FileFacts]
    contract: Contract
    provenance: Provenance


class Checkpoint(NamedTuple):
    """A network in eval mode, what its folder says about it, the items it ranks, if it does, and items' categories."""

    network: Network
    manifest: Manifest
    catalogue: "Catalogue | None" = None
    item_categories: Mapping[str, str] = {}


class Catalogue(NamedTuple):
    """The items of an item head, in order, and what was counted of them."""

    items: list[str]
    prior: ItemPrior


def save_checkpoint(
    folder: Path,
    *,
    name: str,
    network: Network,
    contract: Contract,
    provenance: Provenance,
    catalogue: Catalogue | None = None,
    item_categories: Mapping[str, str] | None = None,
) -> Manifest:
    """Write weights first and the manifest last, each by renaming; `name` begins the model version.

    Where the contract's encoder is OWN_ENCODER, the caller has written it to `encoder/` in `folder` before.

    Raises:
        CheckpointError: the tuned encoder's folder is missing, or holds what is no part of an encoder.
    """
    contents = {WEIGHTS: safetensors.torch.save({key: tensor.contiguous() for key, tensor in network.state_dict().items()})}
    if catalogue is not None:
        contents[ITEM_NAMES] = msgspec.json.encode(catalogue.items)
        contents[ITEM_PRIOR] = safetensors.numpy.save(catalogue.prior._asdict())
    if item_categories:
        contents[ITEM_CATEGORIES] = msgspec.json.encode(item_categories, order="sorted")
    files = {
        file: FileFacts(sha256=hashlib.sha256(content).hexdigest(), size=len(content)) for file, content in contents.items()
    }
    if contract.encoder_uri == OWN_ENCODER:
        files |= _encoder_files(folder)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model_version=_model_version(name, files, contract),
        files=files,
        contract=contract,
        provenance=provenance,
    )
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        _replace(folder / file, content)
    _replace(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    return manifest


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint for the feature spec of this code; its hash is checked before a weight is read.

    Raises:
        CheckpointError: a file is missing, altered or of another format, spec or shape.
    """
    manifest = read_manifest(folder)
    contract = manifest.contract
    if contract.spec_version != FEATURE_SPEC.version:
        raise CheckpointError(
            f"{folder} was trained on feature spec {contract.spec_version}, expected {FEATURE_SPEC.version}: {RETRAIN}"
        )
    _check_sizes(folder, contract)
    _check_encoder(folder, manifest)
    network = Network(contract.network)
    network.load_state_dict(_checked_weights(folder / WEIGHTS, manifest.files[WEIGHTS], network.state_dict()))
    network.eval().requires_grad_(False)
    return Checkpoint(network, manifest, _read_catalogue(folder, manifest), _read_item_categories(folder, manifest))


def encoder_address(folder: Path, contract: Contract) -> str:
    """Return where the encoder of a checkpoint in `folder` is loaded from."""
    return str(folder / ENCODER) if contract.encoder_uri == OWN_ENCODER else contract.encoder_uri


def read_manifest(folder: Path) -> Manifest:
    """Read what a checkpoint says about itself; it agrees with itself, the other files are not looked at.

    Raises:
        CheckpointError: there is no manifest, it is of another format, or it was edited.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"found no {path}, expected a checkpoint folder: train one with footfall train")
    try:
        found = msgspec.json.decode(path.read_bytes())
        if (version := found.get("format_version")) != FORMAT_VERSION:
            raise CheckpointError(f"{path} has format {version}, expected {FORMAT_VERSION}: {RETRAIN}")
        manifest = msgspec.convert(found, Manifest)
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is no manifest ({error}), expected one of format {FORMAT_VERSION}: {RETRAIN}") from error
    wanted = [WEIGHTS, ITEM_NAMES, ITEM_PRIOR] if manifest.contract.network.items else [WEIGHTS]
    tuned = manifest.contract.encoder_uri == OWN_ENCODER
    of_encoder = {file for file in manifest.files if ENCODER_FILE.fullmatch(file)}
    if set(manifest.files) - of_encoder - {ITEM_CATEGORIES} != set(wanted) or bool(of_encoder) != tuned:
        also = f" and those of {ENCODER}/" if tuned else ""
        raise CheckpointError(f"{path} names files {sorted(manifest.files)}, expected {wanted}{also}: {RETRAIN}")
    name = manifest.model_version.rpartition("-")[0]
    if manifest.model_version != (expected := _model_version(name, manifest.files, manifest.contract)):
        raise CheckpointError(f"{path} says {manifest.model_version}, its content is {expected}: it was edited, {RETRAIN}")
    return manifest


def _check_sizes(folder: Path, contract: Contract) -> None:
    network, numbers = contract.network, len(FEATURE_SPEC.names) + len(RHYTHM_NAMES)
    if contract.rhythm != list(RHYTHM_NAMES):
        raise CheckpointError(f"{folder} reads rhythms {contract.rhythm}, expected {list(RHYTHM_NAMES)}: {RETRAIN}")
    for what, found, expected in (
        ("numbers", network.numbers, numbers),
        ("number means", len(contract.normalisation.mean), numbers),
        ("number deviations", len(contract.normalisation.std), numbers),
        ("labels", len(contract.labels), network.labels),
        ("horizons", len(contract.horizons_days), network.horizons),
        ("calibrated horizons", len(contract.calibration.hazards), network.horizons),
    ):
        if found != expected:
            raise CheckpointError(f"{folder} has {found} {what}, expected {expected}: {RETRAIN}")


def _check_encoder(folder: Path, manifest: Manifest) -> None:
    """Compare the files of a tuned encoder with the manifest; one too many may change what the encoder does."""
    expected = {name: facts for name, facts in manifest.files.items() if ENCODER_FILE.fullmatch(name)}
    found = _encoder_files(folder) if expected else {}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            is_now, was = (files[name].sha256[:16] if name in files else "nothing" for files in (found, expected))
            raise CheckpointError(f"{folder / name} has SHA-256 {is_now}, expected {was}: fetch the checkpoint again")


def _encoder_files(folder: Path) -> dict[str, FileFacts]:
    """Hash the files of a tuned encoder, by their path in the checkpoint."""
    files: dict[str, FileFacts] = {}
    for path in sorted((folder / ENCODER).rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder).as_posix()
        if not ENCODER_FILE.fullmatch(name):
            raise CheckpointError(f"found {path}, expected only files of a Hugging Face encoder there: remove it")
        with path.open("rb") as file:
            files[name] = FileFacts(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size)
    if not files:
        raise CheckpointError(f"found no files in {folder / ENCODER}, expected the tuned encoder: {RETRAIN}")
    return files


def _checked_weights(path: Path, facts: FileFacts, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read a weights file that has the hash, the names, the shapes and the type that it must have."""
    content = _checked_content(path, facts)
    try:
        found: dict[str, torch.Tensor] = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file ({error}): {RETRAIN}") from error
    if missing := sorted(expected.keys() - found.keys()):
        raise CheckpointError(f"{path} lacks {', '.join(missing)}: {RETRAIN}")
    if extra := sorted(found.keys() - expected.keys()):
        raise CheckpointError(f"{path} holds {', '.join(extra)}, which the network has not: {RETRAIN}")
    for key, tensor in found.items():
        if tensor.shape != expected[key].shape or tensor.dtype != torch.float32:
            raise CheckpointError(
                f"{path} holds {key} as {tensor.dtype} {list(tensor.shape)}, "
                f"expected float32 {list(expected[key].shape)}: {RETRAIN}"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path} holds {key} with values that are not finite: {RETRAIN}")
    return found


def _checked_content(path: Path, facts: FileFacts) -> bytes:
    if not path.is_file():
        raise CheckpointError(f"found no {path}, expected {facts.size} bytes: {RETRAIN}")
    content = path.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != facts.sha256:
        raise CheckpointError(
            f"{path} has {len(content)} bytes of SHA-256 {digest[:16]}, "
            f"expected {facts.size} of {facts.sha256[:16]}: fetch the checkpoint again"
        )
    return content


def _read_catalogue(folder: Path, manifest: Manifest) -> Catalogue | None:
    """Read the items and what was counted of them, where the network has an item head."""
    size = manifest.contract.network.items
    if not size:
        return None
    try:
        items = msgspec.json.decode(_checked_content(folder / ITEM_NAMES, manifest.files[ITEM_NAMES]), type=list[str])
        prior = ItemPrior(**safetensors.numpy.load(_checked_content(folder / ITEM_PRIOR, manifest.files[ITEM_PRIOR])))
    except (msgspec.DecodeError, safetensors.SafetensorError, TypeError) as error:
        raise CheckpointError(f"{folder} holds items that cannot be read ({error}): {RETRAIN}") from error
    if not len(items) == len(prior.popularity) == len(prior.indptr) - 1 == size:
        raise CheckpointError(f"{folder} names {len(items)} items, expected {size}: {RETRAIN}")
    return Catalogue(items, prior)


def _read_item_categories(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Read the categories of items, where the model was trained with some."""
    if ITEM_CATEGORIES not in manifest.files:
        return {}
    try:
        content = _checked_content(folder / ITEM_CATEGORIES, manifest.files[ITEM_CATEGORIES])
        return msgspec.json.decode(content, type=dict[str, str])
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{folder} holds categories that cannot be read ({error}): {RETRAIN}") from error


def _model_version(name: str, files: dict[str, FileFacts], contract: Contract) -> str:
    hashes = "".join(files[file].sha256 for file in sorted(files))
    digest = hashlib.sha256(hashes.encode() + msgspec.json.encode(contract)).hexdigest()
    return f"{name}-{digest[:8]}"


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
