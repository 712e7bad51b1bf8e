"""Save a trained network as a checkpoint folder, and load it; refuse a folder whose files or contract were altered.

The folder holds model.safetensors and manifest.json, which lists every file. Optional files: a tuned encoder (`encoder/`),
the item head's items and counts, item categories, sentiment terms. The contract says what determines the scores beside the
weights: feature spec, encoder, labels, calibration. The provenance says how the model was trained; no hash protects it.
Nothing is unpickled. Start at load_checkpoint.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import safetensors.numpy
import safetensors.torch
from msgspec import Struct

from models.features.spec import FEATURE_SPEC
from models.linear.sentiment_terms import TERM_WEIGHTS, TERMS, SentimentTerms, read_terms, terms_contents
from models.network.inputs import Normalisation
from models.network.network import Network, NetworkConfig
from models.network.rhythm import RHYTHM_NAMES
from models.serving.checkpoint_files import ENCODER as ENCODER
from models.serving.checkpoint_files import ENCODER_FILE, RETRAIN, checked_content, checked_weights, encoder_files, replace_file
from models.serving.checkpoint_files import FileFacts as FileFacts
from models.serving.item_prior import ItemPrior
from schemas.errors import ModelError

DEFAULT_CHURN_DAYS = 30
LEARNT_UNTIL_MS = "learnt_until_ms"  # a setting: the end of the data that the model was trained on

WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
ITEM_NAMES, ITEM_PRIOR = "items.json", "items.safetensors"
ITEM_CATEGORIES = "categories.json"  # item → category, for events without one; no file if there are none
OWN_ENCODER = "checkpoint:encoder"  # an encoder_uri: the Hugging Face folder `encoder/` of the checkpoint
FORMAT_VERSION = 2


class Platt(Struct, frozen=True, forbid_unknown_fields=True):
    """Calibration of one logit: probability = sigmoid(scale * logit + bias), scale above 0."""

    scale: float = 1.0
    bias: float = 0.0


class Calibration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How logits become probabilities: one pair for all interests, one per horizon, one for sentiment."""

    interest: Platt
    hazards: list[Platt]
    sentiment: Platt


class Contract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything beside the weights that determines a checkpoint's scores; the model version is a hash of both.

    `features` names the features that the model reads, in order, by their references in the feature spec. It is empty in
    older checkpoints, which read all features of their spec. `churn_days` is the horizon whose survival is published as
    the probability to churn; older checkpoints publish that of 30 days.
    `rhythm` names the rhythm features that the model reads. `returns` is the event its hazards predict: "any" activity,
    timed from the newest event, or a "purchase", timed from the newest purchase.
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
    features: list[str] = []
    churn_days: int = DEFAULT_CHURN_DAYS


class Provenance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a checkpoint comes from; `metrics` are on the held-out test slice."""

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
    """A network in eval mode, its manifest, the items it ranks, the items' categories and the sentiment terms."""

    network: Network
    manifest: Manifest
    catalogue: "Catalogue | None" = None
    item_categories: Mapping[str, str] = {}
    sentiment_terms: SentimentTerms | None = None


class Catalogue(NamedTuple):
    """The items of an item head, in order, and their counts."""

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
    sentiment_terms: SentimentTerms | None = None,
) -> Manifest:
    """Write the weights first and the manifest last, each by renaming; `name` is the prefix of the model version.

    If the contract's encoder is OWN_ENCODER, the caller must have written it to `encoder/` in `folder`.

    Raises:
        ModelError: the tuned encoder's folder is missing, or holds files that are not an encoder's.
    """
    contents = {WEIGHTS: safetensors.torch.save({key: tensor.contiguous() for key, tensor in network.state_dict().items()})}
    if catalogue is not None:
        contents[ITEM_NAMES] = msgspec.json.encode(catalogue.items)
        contents[ITEM_PRIOR] = safetensors.numpy.save(catalogue.prior._asdict())
    if item_categories:
        contents[ITEM_CATEGORIES] = msgspec.json.encode(item_categories, order="sorted")
    if sentiment_terms is not None:
        contents |= terms_contents(sentiment_terms)
    files = {
        file: FileFacts(sha256=hashlib.sha256(content).hexdigest(), size=len(content)) for file, content in contents.items()
    }
    if contract.encoder_uri == OWN_ENCODER:
        files |= encoder_files(folder)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model_version=_model_version(name, files, contract),
        files=files,
        contract=contract,
        provenance=provenance,
    )
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        replace_file(folder / file, content)
    replace_file(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    return manifest


def load_checkpoint(folder: Path) -> Checkpoint:
    """Load a checkpoint; the hash is verified before any weight is read.

    Raises:
        ModelError: a file is missing, altered, or of another format, feature spec or shape.
    """
    manifest = read_manifest(folder)
    contract = manifest.contract
    features_read(contract, folder)
    _check_sizes(folder, contract)
    _check_encoder(folder, manifest)
    network = Network(contract.network)
    network.load_state_dict(checked_weights(folder / WEIGHTS, manifest.files[WEIGHTS], network.state_dict()))
    network.eval().requires_grad_(False)
    catalogue, item_categories = _read_catalogue(folder, manifest), _read_item_categories(folder, manifest)
    return Checkpoint(network, manifest, catalogue, item_categories, _read_sentiment_terms(folder, manifest))


def features_read(contract: Contract, folder: Path) -> list[str]:
    """Return the references of the features that a model reads, in the order of its inputs.

    Raises:
        ModelError: an older checkpoint does not name them and was trained on another feature spec than this code's.
    """
    if contract.features:
        return contract.features
    if contract.spec_version != FEATURE_SPEC.version:
        raise ModelError(
            f"{folder} was trained on feature spec {contract.spec_version}, expected {FEATURE_SPEC.version}: {RETRAIN}"
        )
    return list(FEATURE_SPEC.references)


def encoder_address(folder: Path, contract: Contract) -> str:
    """Return the URI from which to load the encoder of a checkpoint in `folder`."""
    return str(folder / ENCODER) if contract.encoder_uri == OWN_ENCODER else contract.encoder_uri


def read_manifest(folder: Path) -> Manifest:
    """Read a checkpoint's manifest and check that it is consistent; the other files are not read.

    Raises:
        ModelError: there is no manifest, it is of another format, or it was edited.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(f"found no {path}, expected a checkpoint folder: train one with footfall train")
    try:
        found = msgspec.json.decode(path.read_bytes())
        if (version := found.get("format_version")) != FORMAT_VERSION:
            raise ModelError(f"{path} has format {version}, expected {FORMAT_VERSION}: {RETRAIN}")
        manifest = msgspec.convert(found, Manifest)
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not a manifest ({error}), expected one of format {FORMAT_VERSION}: {RETRAIN}") from error
    wanted = [WEIGHTS, ITEM_NAMES, ITEM_PRIOR] if manifest.contract.network.items else [WEIGHTS]
    wanted += [TERMS, TERM_WEIGHTS] if {TERMS, TERM_WEIGHTS} & manifest.files.keys() else []
    tuned = manifest.contract.encoder_uri == OWN_ENCODER
    of_encoder = {file for file in manifest.files if ENCODER_FILE.fullmatch(file)}
    if set(manifest.files) - of_encoder - {ITEM_CATEGORIES} != set(wanted) or bool(of_encoder) != tuned:
        also = f" and those of {ENCODER}/" if tuned else ""
        raise ModelError(f"{path} names files {sorted(manifest.files)}, expected {wanted}{also}: {RETRAIN}")
    name = manifest.model_version.rpartition("-")[0]
    if manifest.model_version != (expected := _model_version(name, manifest.files, manifest.contract)):
        raise ModelError(
            f"{path} names model version {manifest.model_version}, expected {expected} by the hash of its content: "
            f"it was edited, {RETRAIN}"
        )
    return manifest


def _check_sizes(folder: Path, contract: Contract) -> None:
    network, numbers = contract.network, len(features_read(contract, folder)) + len(RHYTHM_NAMES)
    if contract.rhythm != list(RHYTHM_NAMES):
        raise ModelError(f"{folder} reads rhythm features {contract.rhythm}, expected {list(RHYTHM_NAMES)}: {RETRAIN}")
    for what, found, expected in (
        ("input features", network.numbers, numbers),
        ("means of input features", len(contract.normalisation.mean), numbers),
        ("deviations of input features", len(contract.normalisation.std), numbers),
        ("labels", len(contract.labels), network.labels),
        ("horizons", len(contract.horizons_days), network.horizons),
        ("calibrated horizons", len(contract.calibration.hazards), network.horizons),
    ):
        if found != expected:
            raise ModelError(f"{folder} has {found} {what}, expected {expected}: {RETRAIN}")


def _check_encoder(folder: Path, manifest: Manifest) -> None:
    """Compare the files of a tuned encoder with the manifest; an extra file is refused, as it may change the encoder."""
    expected = {name: facts for name, facts in manifest.files.items() if ENCODER_FILE.fullmatch(name)}
    found = encoder_files(folder) if expected else {}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            is_now, was = (
                f"SHA-256 {files[name].sha256[:16]}" if name in files else "no such file" for files in (found, expected)
            )
            raise ModelError(f"{folder / name}: found {is_now}, expected {was}: download the checkpoint again")


def _read_catalogue(folder: Path, manifest: Manifest) -> Catalogue | None:
    """Read the items and their counts; None if the network has no item head."""
    size = manifest.contract.network.items
    if not size:
        return None
    try:
        items = msgspec.json.decode(checked_content(folder / ITEM_NAMES, manifest.files[ITEM_NAMES]), type=list[str])
        prior = ItemPrior(**safetensors.numpy.load(checked_content(folder / ITEM_PRIOR, manifest.files[ITEM_PRIOR])))
    except (msgspec.DecodeError, safetensors.SafetensorError, TypeError) as error:
        raise ModelError(f"{folder} holds items that cannot be read ({error}): {RETRAIN}") from error
    if not len(items) == len(prior.popularity) == len(prior.indptr) - 1 == size:
        raise ModelError(
            f"{folder} has {len(items)} items, {len(prior.popularity)} popularities and {len(prior.indptr) - 1} rows of "
            f"co-occurrences, expected {size} of each: {RETRAIN}"
        )
    return Catalogue(items, prior)


def _read_item_categories(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Read the categories of items; empty if the model was trained without any."""
    if ITEM_CATEGORIES not in manifest.files:
        return {}
    try:
        content = checked_content(folder / ITEM_CATEGORIES, manifest.files[ITEM_CATEGORIES])
        return msgspec.json.decode(content, type=dict[str, str])
    except msgspec.DecodeError as error:
        raise ModelError(f"{folder} holds categories that cannot be read ({error}): {RETRAIN}") from error


def _read_sentiment_terms(folder: Path, manifest: Manifest) -> SentimentTerms | None:
    """Read the sentiment terms; None if the checkpoint has none."""
    if TERMS not in manifest.files:
        return None
    contents = {name: checked_content(folder / name, manifest.files[name]) for name in (TERMS, TERM_WEIGHTS)}
    try:
        return read_terms(contents)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}: {RETRAIN}") from error


def _model_version(name: str, files: dict[str, FileFacts], contract: Contract) -> str:
    hashes = "".join(files[file].sha256 for file in sorted(files))
    digest = hashlib.sha256(hashes.encode() + msgspec.json.encode(contract)).hexdigest()
    return f"{name}-{digest[:8]}"
