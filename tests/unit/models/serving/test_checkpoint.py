import hashlib
import pickle
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch

from models.features.spec import FEATURE_SPEC
from models.network.inputs import Normalisation
from models.network.network import Network, NetworkConfig
from models.network.rhythm import RHYTHM_NAMES
from models.serving.checkpoint import (
    ITEM_CATEGORIES,
    MANIFEST,
    OWN_ENCODER,
    WEIGHTS,
    Calibration,
    Contract,
    FileFacts,
    Manifest,
    Platt,
    Provenance,
    _model_version,
    encoder_address,
    load_checkpoint,
    save_checkpoint,
)
from models.serving.checkpoint_files import copy_encoder
from schemas.errors import ModelError

F = len(FEATURE_SPEC.names) + len(RHYTHM_NAMES)
CONFIG = NetworkConfig(text_dimension=8, numbers=F, labels=2, horizons=3, width=16, heads=2, blocks=1)
PROVENANCE = Provenance(
    command="footfall train dataset",
    created_at="2026-09-21T00:00:00Z",
    data_fingerprint="f",
    settings={},
    metrics={},
    licence="MIT",
)


def contract(**changes: Any) -> Contract:
    fields: dict[str, Any] = {
        "spec_version": FEATURE_SPEC.version,
        "rhythm": list(RHYTHM_NAMES),
        "returns": "any",
        "encoder_uri": "random:bert-tiny",
        "encoder_id": "e" * 64,
        "labels": ["garden", "kitchen"],
        "horizons_days": [1, 7, 30],
        "network": CONFIG,
        "normalisation": Normalisation([0.0] * F, [1.0] * F),
        "calibration": Calibration(interest=Platt(), hazards=[Platt()] * 3, sentiment=Platt(1.5, -0.25)),
    }
    return Contract(**fields | changes)


def network() -> Network:
    torch.manual_seed(0)
    return Network(CONFIG)


def save(folder: Path, **changes: Any) -> Manifest:
    return save_checkpoint(folder, name="demo", network=network(), contract=contract(**changes), provenance=PROVENANCE)


def with_weights(folder: Path, content: bytes) -> None:
    """Replace the weights and make the manifest agree with them, as a careless or hostile author might."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    facts = FileFacts(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    version = _model_version("demo", {WEIGHTS: facts}, manifest.contract)
    forged = msgspec.structs.replace(manifest, files={WEIGHTS: facts}, model_version=version)
    (folder / WEIGHTS).write_bytes(content)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(forged))


def test_a_saved_checkpoint_comes_back_weight_for_weight(tmp_path: Path) -> None:
    manifest = save(tmp_path)

    loaded = load_checkpoint(tmp_path)

    assert loaded.manifest == manifest
    assert not loaded.network.training
    for key, tensor in network().state_dict().items():
        torch.testing.assert_close(loaded.network.state_dict()[key], tensor, rtol=0, atol=0)


def test_the_model_version_follows_content_and_nothing_else(tmp_path: Path) -> None:
    version = save(tmp_path / "a").model_version

    assert version.startswith("demo-")
    assert save(tmp_path / "b").model_version == version
    assert save(tmp_path / "c", labels=["garden", "shoes"]).model_version != version


@pytest.mark.parametrize("place", [5, -1])
def test_one_flipped_byte_is_refused(tmp_path: Path, place: int) -> None:
    save(tmp_path)
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    content[place] ^= 1
    (tmp_path / WEIGHTS).write_bytes(content)

    with pytest.raises(ModelError, match="SHA-256"):
        load_checkpoint(tmp_path)


def test_an_edited_calibration_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    text = (tmp_path / MANIFEST).read_text()
    (tmp_path / MANIFEST).write_text(text.replace("-0.25", "-0.26"))

    with pytest.raises(ModelError, match="it was edited"):
        load_checkpoint(tmp_path)


def test_missing_extra_misshapen_and_infinite_weights_are_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path)
    good = dict(network().state_dict())

    for weights, text in (
        ({key: tensor for key, tensor in good.items() if key != "interest.bias"}, r"lacks interest\.bias"),
        (good | {"surprise": torch.zeros(1)}, "holds surprise, which the network does not have"),
        (good | {"interest.bias": torch.zeros(3)}, r"interest\.bias as torch\.float32 \[3\], expected float32 \[2\]"),
        (good | {"interest.bias": good["interest.bias"].half()}, r"torch\.float16"),
        (good | {"interest.bias": torch.full((2,), torch.inf)}, "not finite"),
    ):
        with_weights(tmp_path, safetensors.torch.save(weights))
        with pytest.raises(ModelError, match=text):
            load_checkpoint(tmp_path)


def test_a_checkpoint_of_another_feature_spec_is_refused(tmp_path: Path) -> None:
    save(tmp_path, spec_version="0123456789abcdef")

    with pytest.raises(ModelError, match=f"spec 0123456789abcdef, expected {FEATURE_SPEC.version}: train again"):
        load_checkpoint(tmp_path)


def test_sizes_that_disagree_are_refused(tmp_path: Path) -> None:
    save(tmp_path, labels=["garden"])

    with pytest.raises(ModelError, match="1 labels, expected 2"):
        load_checkpoint(tmp_path)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pytest.fail, ("a pickle was executed",)


def test_pickled_weights_are_never_unpickled(tmp_path: Path) -> None:
    save(tmp_path)
    with_weights(tmp_path, pickle.dumps(Bomb()))

    with pytest.raises(ModelError, match="not a safetensors file"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "is not a manifest"),
        (b"[]", "is not a manifest"),
        (b'{"format_version": 99}', "has format 99, expected 2"),
        (b'{"format_version": 2}', "missing required field"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / MANIFEST).write_bytes(content)

    with pytest.raises(ModelError, match=text):
        load_checkpoint(tmp_path)


def test_absent_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"manifest\.json, expected a checkpoint folder"):
        load_checkpoint(tmp_path)
    save(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"found no .*model\.safetensors"):
        load_checkpoint(tmp_path)


def test_files_outside_the_folder_cannot_be_named(tmp_path: Path) -> None:
    save(tmp_path)
    text = (tmp_path / MANIFEST).read_text().replace(f'"{WEIGHTS}"', '"../elsewhere"')
    (tmp_path / MANIFEST).write_text(text)

    with pytest.raises(ModelError, match="names files"):
        load_checkpoint(tmp_path)


def test_the_categories_of_items_are_part_of_the_checkpoint_to_the_byte(tmp_path: Path) -> None:
    known = {"rake": "garden", "mug": "kitchen"}
    parts: dict[str, Any] = {"name": "demo", "network": network(), "contract": contract(), "provenance": PROVENANCE}
    bare = save_checkpoint(tmp_path / "bare", **parts)
    saved = save_checkpoint(tmp_path / "knows", item_categories=known, **parts)

    assert load_checkpoint(tmp_path / "knows").item_categories == known
    assert load_checkpoint(tmp_path / "bare").item_categories == {}
    assert saved.model_version != bare.model_version
    (tmp_path / "knows" / ITEM_CATEGORIES).write_bytes(b"{}")
    with pytest.raises(ModelError, match=r"categories\.json has 2 bytes"):
        load_checkpoint(tmp_path / "knows")


def tuned(folder: Path, **changes: Any) -> Manifest:
    """Save a checkpoint that brings its own encoder."""
    (folder / "encoder" / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"):
        (folder / "encoder" / name).write_text(name)
    return save(folder, encoder_uri=OWN_ENCODER, **changes)


def test_a_tuned_encoder_is_part_of_the_checkpoint_to_the_byte(tmp_path: Path) -> None:
    manifest = tuned(tmp_path)

    assert sorted(manifest.files) == [
        "encoder/1_Pooling/config.json",
        "encoder/config.json",
        "encoder/model.safetensors",
        "encoder/tokenizer.json",
        WEIGHTS,
    ]
    assert load_checkpoint(tmp_path).manifest == manifest
    assert encoder_address(tmp_path, manifest.contract) == str(tmp_path / "encoder")
    assert encoder_address(tmp_path, contract()) == "random:bert-tiny"


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("encoder/tokenizer.json", "altered", r"tokenizer\.json: found SHA-256 \w{16}, expected SHA-256 \w{16}: download"),
        ("encoder/model.safetensors", None, r"model\.safetensors: found no such file, expected SHA-256"),
        ("encoder/added.json", "{}", r"added\.json: found SHA-256 \w{16}, expected no such file"),
        ("encoder/code.py", "import os", "expected only files of a Hugging Face encoder there"),
    ],
)
def test_an_encoder_with_a_file_altered_missing_or_added_is_refused(
    tmp_path: Path, name: str, content: str | None, text: str
) -> None:
    tuned(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)

    with pytest.raises(ModelError, match=text):
        load_checkpoint(tmp_path)


def test_an_encoder_that_was_not_written_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="found no files in .*encoder, expected the tuned encoder"):
        save(tmp_path, encoder_uri=OWN_ENCODER)


def test_an_encoders_files_cannot_lie_outside_its_folder(tmp_path: Path) -> None:
    tuned(tmp_path)
    text = (tmp_path / MANIFEST).read_text().replace('"encoder/config.json"', '"encoder/../../config.json"')
    (tmp_path / MANIFEST).write_text(text)

    with pytest.raises(ModelError, match="names files"):
        load_checkpoint(tmp_path)


def test_an_encoder_is_copied_in_place_of_another_but_never_over_itself(tmp_path: Path) -> None:
    old, new = tmp_path / "model" / "encoder", tmp_path / "tuned"
    for folder, text in ((old, "old"), (new, "new")):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(text)
    (old / "vocab.txt").write_text("old")

    copy_encoder(old, tmp_path / "model")
    assert (old / "config.json").read_text() == "old"
    copy_encoder(new, tmp_path / "model")
    assert {path.name: path.read_text() for path in old.iterdir()} == {"config.json": "new"}
