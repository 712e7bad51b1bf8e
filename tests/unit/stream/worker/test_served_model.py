"""The model that a scorer uses: changed between two chunks when another is promoted, kept when that does not load."""

import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from models.serving.checkpoint import WEIGHTS
from models.serving.registry import PRODUCTION, Registry
from schemas.errors import ModelError, RegistryError
from schemas.signals import Unread
from stream.worker.role_metrics import model_metrics
from stream.worker.served_model import ServedModel
from tests.checkpoints import flip_a_byte, tiny_checkpoint, tuned_checkpoint


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def promoted(registry: Registry, seed: int, **changes: Any) -> str:
    """Let a new model serve, without asking whether it is any good."""
    folder = registry.folder.parent / f"trained-{seed}"
    version = tiny_checkpoint(folder, seed=seed, **changes).model_version
    if version not in registry.versions():
        registry.add(folder)
    registry.promote(version, at="", command="")
    return version


async def test_a_promoted_model_takes_over_and_keeps_the_encoder_with_its_cache(registry: Registry) -> None:
    one = promoted(registry, 1)
    model = ServedModel(registry.folder, threads=None)
    before = model.scorer
    model.scorer.encoder.encode(["a text seen before"])
    cached = before.encoder.cached_texts
    two = promoted(registry, 2)

    await model.reload()

    assert (before.model_version, model.scorer.model_version) == (one, two)
    assert model.scorer.encoder is before.encoder
    assert model.scorer.encoder.cached_texts == cached
    assert (model.loaded, model.refused) == (1, 0)


async def test_a_model_with_a_tuned_encoder_brings_it_along_and_it_is_kept_for_the_next_only_if_that_has_the_same(
    registry: Registry, tmp_path: Path
) -> None:
    promoted(registry, 1)
    model = ServedModel(registry.folder, threads=None)
    before = model.scorer.encoder
    tuned_checkpoint(tmp_path / "tuned")
    tuned = registry.add(tmp_path / "tuned")
    registry.promote(tuned, at="", command="")

    await model.reload()

    assert model.scorer.model_version == tuned
    assert model.scorer.encoder.uri == str(registry.checkpoint(tuned) / "encoder")
    assert model.scorer.encoder.encoder_id != before.encoder_id
    assert (registry.checkpoint(tuned) / "encoder" / "tokenizer.json").is_file()

    promoted(registry, 2)
    await model.reload()
    assert model.scorer.encoder.encoder_id == before.encoder_id


async def test_nothing_changes_while_nothing_is_promoted(registry: Registry) -> None:
    promoted(registry, 1)
    model = ServedModel(registry.folder, threads=None)
    before = model.scorer

    await model.reload()
    promoted(registry, 1)  # the same again
    await model.reload()

    assert model.scorer is before
    assert (model.loaded, model.refused) == (0, 0)


async def test_a_model_that_does_not_load_leaves_the_one_in_use_at_work_until_another_is_promoted(registry: Registry) -> None:
    one = promoted(registry, 1)
    model = ServedModel(registry.folder, threads=None)
    two = promoted(registry, 2)
    flip_a_byte(registry.checkpoint(two) / WEIGHTS)

    await model.reload()
    await model.reload()
    assert (model.scorer.model_version, model.loaded, model.refused) == (one, 0, 1)

    three = promoted(registry, 3)
    await model.reload()
    assert (model.scorer.model_version, model.loaded, model.refused) == (three, 1, 1)


async def test_a_refused_model_is_loaded_once_its_folder_is_repaired_and_no_file_changes_any_more(registry: Registry) -> None:
    one = promoted(registry, 1)
    model = ServedModel(registry.folder, threads=None)
    two = promoted(registry, 2)
    weights = registry.checkpoint(two) / WEIGHTS
    whole = weights.read_bytes()
    weights.unlink()  # production.json was copied before the weights

    await model.reload()
    assert (model.scorer.model_version, model.refused) == (one, 1)
    weights.write_bytes(whole[:-5])
    await model.reload()
    weights.write_bytes(whole)
    await model.reload()
    assert (model.scorer.model_version, model.refused) == (one, 1)  # nothing is loaded while files still change

    await model.reload()
    assert (model.scorer.model_version, model.loaded, model.refused) == (two, 1, 1)
    await model.reload()
    assert (model.loaded, model.refused) == (1, 1)


async def test_a_refused_model_that_is_still_broken_is_refused_once_per_change(registry: Registry) -> None:
    promoted(registry, 1)
    model = ServedModel(registry.folder, threads=None)
    weights = registry.checkpoint(promoted(registry, 2)) / WEIGHTS
    flip_a_byte(weights)
    await model.reload()

    weights.write_bytes(b"no weights")
    for _ in range(4):
        await model.reload()

    assert (model.loaded, model.refused) == (0, 2)


async def test_what_signals_cannot_be_made_of_or_no_note_at_all_leaves_the_model_in_use(registry: Registry) -> None:
    one = promoted(registry, 1)
    model = ServedModel(registry.folder, threads=None)

    promoted(registry, 2, horizons_days=[1, 7])
    await model.reload()
    (registry.folder / PRODUCTION).write_text("{")
    await model.reload()
    assert (model.scorer.model_version, model.refused) == (one, 2)

    os.remove(registry.folder / PRODUCTION)
    await model.reload()
    assert (model.scorer.model_version, model.refused) == (one, 2)


async def test_a_rollback_takes_effect_as_a_promotion_does(registry: Registry) -> None:
    one = promoted(registry, 1)
    promoted(registry, 2)
    model = ServedModel(registry.folder, threads=None)

    registry.rollback(at="", command="")
    await model.reload()

    assert model.scorer.model_version == one


async def test_a_checkpoint_folder_serves_for_ever(tmp_path: Path) -> None:
    version = tiny_checkpoint(tmp_path / "a").model_version
    model = ServedModel(tmp_path / "a", threads=None)

    await model.reload()

    assert model.scorer.model_version == version


def test_there_must_be_a_model_to_begin_with(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a checkpoint folder"):
        ServedModel(tmp_path, threads=None)
    tiny_checkpoint(tmp_path / "a")
    registry.add(tmp_path / "a")
    with pytest.raises(RegistryError, match="expected a promoted one"):
        ServedModel(registry.folder, threads=None)


def test_the_metrics_name_the_model_in_use() -> None:
    encoder = SimpleNamespace(short_id="e", cached_texts=7)
    scorer = SimpleNamespace(model_version="m-1", spec_version="s", encoder=encoder)
    model = SimpleNamespace(scorer=scorer, loaded=2, refused=1, unread=Counter({Unread.BLANK: 3}))
    info, reloads, unread, cached = model_metrics(model)

    assert info.samples[0].labels == {"version": "m-1", "spec": "s", "encoder": "e"}
    assert {sample.labels["outcome"]: sample.value for sample in reloads.samples} == {"loaded": 2, "refused": 1}
    assert {sample.labels["reason"]: sample.value for sample in unread.samples} == {
        "blank": 3,
        "no_words": 0,
        "unknown_tokens": 0,
    }
    assert cached.samples[0].value == 7
    assert msgspec.json.encode(info.samples[0].name) == b'"footfall_model_info"'
