"""A worker's start: faults of its own files are a setting to correct, never a reason to restart."""

import json
from pathlib import Path

import msgspec
import pytest

from models.serving import checkpoint
from models.serving.registry import PRODUCTION
from schemas.errors import SettingsError
from stream.process.settings import load_settings
from stream.worker.build_app import row_rules
from stream.worker.run_role import load_model
from tests.checkpoints import tiny_checkpoint


def altered(folder: Path, **network: int) -> None:
    """Change the network's sizes in a manifest, and its version with them, as another program would write it."""
    found = json.loads((folder / checkpoint.MANIFEST).read_bytes())
    found["contract"]["network"] |= network
    manifest = msgspec.convert(found, checkpoint.Manifest)
    found["model_version"] = checkpoint._model_version("tiny", manifest.files, manifest.contract)
    (folder / checkpoint.MANIFEST).write_text(json.dumps(found))


@pytest.mark.parametrize("text", [None, "campaigns: []", "version: 2020-13-45"])
def test_a_policy_file_that_cannot_be_used_is_a_wrong_setting(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    if text is not None:
        path.write_text(text)

    with pytest.raises(SettingsError, match=f"setting trigger_policy: {path}"):
        row_rules(load_settings(trigger_policy=path), "triggers")


@pytest.mark.parametrize("network", [{"heads": 0}, {"heads": 7}, {"width": -1}, {"max_events": 0}], ids=str)
def test_a_manifest_that_no_network_can_have_is_a_wrong_setting(network: dict[str, int], tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path)
    altered(tmp_path, **network)

    with pytest.raises(SettingsError, match="setting checkpoint: ") as refused:
        load_model(load_settings(checkpoint=tmp_path))
    assert str(tmp_path) in str(refused.value)


def test_a_registry_whose_note_cannot_be_read_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / PRODUCTION).mkdir()

    with pytest.raises(SettingsError, match="setting checkpoint: "):
        load_model(load_settings(checkpoint=tmp_path))
