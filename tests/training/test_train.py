import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from models.data.examples import Example, ReviewExample, Slice
from models.data.labels import HORIZONS_DAYS
from models.evaluation.predict import predict, predict_with
from models.evaluation.served_scores import ALONE, SERVED, load_candidates
from models.features.spec import FEATURE_SPEC
from models.network.encoder import Encoder
from models.network.encoder_parts import RANDOM_TINY
from models.network.network import Network, NetworkConfig
from models.serving.checkpoint import Catalogue, Checkpoint, Manifest, Provenance, load_checkpoint, save_checkpoint
from models.serving.scorer import Scorer
from models.training.history_augmentation import changed_copies
from models.training.loop import LoopConfig
from models.training.objective import Objective, Weights, make_negatives
from models.training.optimisation import OptimiserConfig
from models.training.presets import PRESETS, TrainConfig
from models.training.train_user_model import Trained, train
from models.training.training_data import prepare
from schemas.errors import ModelError, TrainingError
from schemas.time_units import DAY_MS
from tests.builders import NOW_MS, history_entry, score_request
from tests.fakes import CutOff

CONFIG = TrainConfig(
    loop=LoopConfig(epochs=6, patience=6),
    optimiser=OptimiserConfig(learning_rate=3e-3, weight_decay=0.1),
    batch_rows=32,
    width=32,
    blocks=1,
    heads=2,
    max_events=8,
    dropout=0.0,
    least_item_users=2,
    next_items=1,
)
TINY = msgspec.structs.replace(CONFIG, loop=LoopConfig(epochs=1), width=16)
CATEGORIES = ("books", "garden", "kitchen", "shoes", "toys")
NEXT = dict(zip(CATEGORIES, (*CATEGORIES[1:], CATEGORIES[0]), strict=True))  # which item follows which


def planted(seed: int, kind: Slice) -> Example:
    """Who looked at a category last looks at it next, at the item after; who has a tenth feature of 100 stays away."""
    rng = random.Random(seed)
    likes, loyal = rng.choice(CATEGORIES), rng.random() < 0.5
    features: list[float | None] = [rng.choice([None, float(rng.randint(0, 50))]) for _ in FEATURE_SPEC.names]
    features[10] = 1.0 if loyal else 100.0
    looks = [
        history_entry(category=rng.choice(CATEGORIES), item_id="any", event_time_ms=NOW_MS - i * 1_000, text=None)
        for i in range(rng.randint(1, 6), 0, -1)
    ]
    request = score_request(
        request_id=str(seed),
        user_id=f"user-{seed}",
        spec_version=FEATURE_SPEC.version,
        features=features,
        event_time_ms=NOW_MS,
        history=[*looks, history_entry(category=likes, item_id=f"{likes}-item", text=None)],
    )
    return Example(
        request=request,
        landmark_ms=NOW_MS,
        slice=kind,
        categories=(likes,),
        items=(f"{NEXT[likes]}-item",),
        observed_ms=400 * DAY_MS,
        absent_ms=DAY_MS // 2 if loyal else None,
    )


def review(seed: int, kind: Slice) -> ReviewExample:
    happy = seed % 2 == 0
    text = "zzz xxx" if happy else "aaa bbb"
    return ReviewExample(
        text=text, slice=kind, user_id=str(seed), event_time_ms=0, language="en", stars=5.0 if happy else 1.0, positive=happy
    )


SIZES = ((Slice.TRAIN, 400), (Slice.VALIDATION, 60), (Slice.CALIBRATION, 100), (Slice.TEST, 100))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(RANDOM_TINY)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    kinds = [kind for kind, count in SIZES for _ in range(count)]
    return [planted(seed, kind) for seed, kind in enumerate(kinds)]


@pytest.fixture(scope="module")
def reviews() -> list[ReviewExample]:
    return [review(seed, kind) for kind, _ in SIZES for seed in range(20)]


@pytest.fixture(scope="module")
def trained(examples: list[Example], reviews: list[ReviewExample], encoder: Encoder) -> Trained:
    return train(examples, reviews, "any", encoder, msgspec.structs.replace(CONFIG, items=50))


def saved(trained: Trained, folder: Path) -> Manifest:
    provenance = Provenance(command="", created_at="", data_fingerprint="", settings={}, metrics={}, licence="")
    return save_checkpoint(
        folder,
        name="planted",
        network=trained.network,
        contract=trained.contract,
        provenance=provenance,
        catalogue=trained.catalogue,
        sentiment_terms=trained.sentiment_terms,
    )


def of(examples: Sequence[Example], kind: Slice) -> list[Example]:
    return [example for example in examples if example.slice is kind]


def test_planted_interest_churn_and_sentiment_are_learnt(trained: Trained) -> None:
    metrics = trained.metrics

    assert metrics["interest"]["top3_hit_rate"] > 0.9
    assert metrics["churn"]["1d"]["auc"] > 0.9
    assert metrics["churn"]["30d"]["ece"] < 0.1
    assert metrics["sentiment"]["accuracy"] > 0.9


def test_the_contract_names_all_that_a_scorer_needs(trained: Trained, encoder: Encoder) -> None:
    contract = trained.contract

    assert contract.spec_version == FEATURE_SPEC.version
    assert contract.encoder_id == encoder.encoder_id
    assert contract.labels == list(CATEGORIES)
    assert contract.horizons_days == list(HORIZONS_DAYS)
    assert contract.network.numbers == len(contract.normalisation.mean)
    assert len(contract.calibration.hazards) == len(HORIZONS_DAYS)
    assert not trained.network.training
    assert trained.examples == {str(kind): count for kind, count in SIZES}


def test_a_saved_model_predicts_risks_and_the_next_item_of_examples(
    trained: Trained, examples: list[Example], encoder: Encoder, tmp_path: Path
) -> None:
    saved(trained, tmp_path)
    test = of(examples, Slice.TEST)

    found = predict(tmp_path, test, (30, 45))

    assert found.items is not None
    first = [best[0][0] == example.items[0] for best, example in zip(found.items, test, strict=True) if example.items]
    assert sum(first) > 0.9 * len(first)
    assert set(found.risk) == {30, 45}
    assert (found.risk[45] <= found.risk[30]).all()
    scores = Scorer.load(tmp_path).score([example.request for example in test])
    assert [one.survival[4] for one in scores] == pytest.approx(found.risk[30].tolist(), abs=2e-3)
    assert scores[0].items[0][0] == found.items[0][0][0]


def test_the_network_alone_ranks_items_without_what_was_counted(
    trained: Trained, examples: list[Example], tmp_path: Path
) -> None:
    assert trained.catalogue is not None
    items, prior = trained.catalogue
    mixes = {"counted": [0, 1, 0, 0], "learnt": [1, 0, 0, 0]}
    found = {}
    for name, mix in mixes.items():
        mixed = Catalogue(items, prior._replace(mix=np.array(mix, np.float32)))
        saved(trained._replace(catalogue=mixed), tmp_path / name)
        found[name] = load_candidates(tmp_path / name, examples, [], (30,), "any")

    assert found["counted"].facts["next items"] == "network 0.00, co occurrence 1.00, own 0.00, popularity 0.00"
    assert found["counted"].candidates[ALONE].items == found["learnt"].candidates[SERVED].items
    assert found["counted"].candidates[ALONE].items != found["counted"].candidates[SERVED].items


def test_silence_is_part_of_a_prediction(trained: Trained, examples: list[Example], encoder: Encoder) -> None:
    provenance = Provenance(command="", created_at="", data_fingerprint="", settings={}, metrics={}, licence="")
    manifest = Manifest(format_version=2, model_version="t-1", files={}, contract=trained.contract, provenance=provenance)
    scorer = Scorer(Checkpoint(trained.network, manifest, trained.catalogue), encoder)
    one = of(examples, Slice.TEST)[0]
    later = msgspec.structs.replace(one, landmark_ms=one.landmark_ms + 30 * DAY_MS)

    found = predict_with(scorer, [one, later], (7,))

    assert found.hazards[0] == pytest.approx(found.hazards[1])
    assert found.risk[7][1] > found.risk[7][0]


def test_hazards_of_purchases_run_from_the_last_purchase(trained: Trained, encoder: Encoder) -> None:
    def survival(returns: str, recency_days: float) -> list[float]:
        contract = msgspec.structs.replace(trained.contract, returns=returns)
        provenance = Provenance(command="", created_at="", data_fingerprint="", settings={}, metrics={}, licence="")
        manifest = Manifest(format_version=2, model_version="t-1", files={}, contract=contract, provenance=provenance)
        features: list[float | None] = [None] * len(FEATURE_SPEC.names)
        features[FEATURE_SPEC.names.index("purchase.recency_ms")] = recency_days * DAY_MS
        request = score_request(spec_version=FEATURE_SPEC.version, features=features, kind="click")
        return Scorer(Checkpoint(trained.network, manifest, trained.catalogue), encoder).score([request])[0].survival

    assert survival("any", 40.0) != pytest.approx(survival("purchase", 40.0))
    assert survival("any", 0.0) == pytest.approx(survival("purchase", 0.0))


def weights(examples: Sequence[Example], encoder: Encoder, config: TrainConfig, **options: Any) -> dict[str, torch.Tensor]:
    return train(examples, [], "any", encoder, config, **options).network.state_dict()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(examples: list[Example], encoder: Encoder) -> None:
    few = [*of(examples, Slice.TRAIN)[:80], *of(examples, Slice.CALIBRATION)[:40]]

    first = weights(few, encoder, TINY)
    torch.rand(3)  # whatever was drawn before does not matter
    again = weights(few, encoder, TINY)
    other = weights(few, encoder, msgspec.structs.replace(TINY, loop=LoopConfig(epochs=1, seed=2)))

    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_model_learns_as_much_of_items_categories_as_of_events_that_carry_them(
    examples: list[Example], encoder: Encoder
) -> None:
    def with_history(example: Example, *, carried: bool) -> Example:
        history = [
            msgspec.structs.replace(look, item_id=f"{look.category}-look", category=look.category if carried else None)
            for look in example.request.history
        ]
        return msgspec.structs.replace(example, request=msgspec.structs.replace(example.request, history=history))

    few = [*of(examples, Slice.TRAIN)[:80], *of(examples, Slice.CALIBRATION)[:40]]
    carried, bare = ([with_history(example, carried=carried) for example in few] for carried in (True, False))
    items = {f"{category}-look": category for category in CATEGORIES}

    from_events, from_items = weights(carried, encoder, TINY), weights(bare, encoder, TINY, item_categories=items)

    assert all(torch.equal(from_events[key], from_items[key]) for key in from_events)


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(examples: list[Example], encoder: Encoder, tmp_path: Path) -> None:
    config = msgspec.structs.replace(TINY, dropout=0.3, loop=LoopConfig(epochs=3, validations_per_epoch=2))
    few = [*of(examples, Slice.TRAIN)[:120], *of(examples, Slice.VALIDATION)]
    whole = weights(few, encoder, config)

    with pytest.raises(KeyboardInterrupt):
        weights(few, encoder, config, state_folder=tmp_path, curves=CutOff())
    gone_on = weights(few, encoder, config, state_folder=tmp_path)

    assert all(torch.equal(whole[key], gone_on[key]) for key in whole)


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("decoder", [False, True])
def test_every_preset_and_objective_trains(preset: str, decoder: bool, examples: list[Example], encoder: Encoder) -> None:
    config = msgspec.structs.replace(
        PRESETS[preset], loop=LoopConfig(epochs=1, bf16=True), width=16, heads=2, blocks=1, decoder=decoder, least_item_users=2
    )

    trained = train(examples, [], "any", encoder, config)

    assert trained.metrics["churn"]["1d"]["auc"] > 0.5
    assert all(torch.isfinite(tensor).all() for tensor in trained.network.state_dict().values())


def test_changed_copies_teach_too_and_only_the_train_slice_has_them(examples: list[Example], encoder: Encoder) -> None:
    plain, more = TINY, msgspec.structs.replace(TINY, copies=2)
    once, thrice = (train(examples, [], "any", encoder, config) for config in (plain, more))

    assert thrice.examples == once.examples | {"train": 3 * once.examples["train"]}
    assert (thrice.contract.labels, thrice.contract.horizons_days) == (once.contract.labels, once.contract.horizons_days)
    assert not torch.equal(*(next(found.network.parameters()) for found in (once, thrice)))


def test_a_changed_copy_keeps_its_labels_and_the_newest_time_and_gains_no_event(examples: list[Example]) -> None:
    found = changed_copies(examples, 2, seed=1)

    assert found == changed_copies(examples, 2, seed=1) != changed_copies(examples, 2, seed=2)
    for copy, original in zip(found, examples * 2, strict=True):
        request = msgspec.structs.replace(copy.request, history=original.request.history)
        assert msgspec.structs.replace(copy, request=request) == original
        assert 0 < len(copy.request.history) <= len(original.request.history)
        assert copy.request.history[-1].event_time_ms == original.request.history[-1].event_time_ms


def test_few_labels_are_those_of_fewer_users(examples: list[Example], encoder: Encoder) -> None:
    some = train(examples, [], "any", encoder, msgspec.structs.replace(TINY, label_share=0.25))

    assert 60 < some.examples["train"] < 140
    assert some.examples["test"] == 100


def test_examples_that_teach_nothing_are_refused(examples: list[Example], encoder: Encoder) -> None:
    with pytest.raises(TrainingError, match="found no training examples"):
        train(of(examples, Slice.TEST), [], "any", encoder, TINY)
    with pytest.raises(TrainingError, match="found no category that follows 5"):
        train(examples[:3], [], "any", encoder, TINY)


def test_a_checkpoint_with_items_comes_back_and_refuses_other_ones(trained: Trained, tmp_path: Path) -> None:
    saved(trained, tmp_path)
    loaded = load_checkpoint(tmp_path)

    assert trained.catalogue is not None
    assert loaded.catalogue is not None
    assert loaded.catalogue.items == trained.catalogue.items
    assert all((one == other).all() for one, other in zip(loaded.catalogue.prior, trained.catalogue.prior, strict=True))
    (tmp_path / "items.json").write_bytes(b"[]")
    with pytest.raises(ModelError, match=r"items\.json has 2 bytes"):
        load_checkpoint(tmp_path)


def test_a_step_computes_where_the_network_and_the_batch_are() -> None:
    examples = [planted(seed, Slice.TRAIN) for seed in range(40)]
    encoder = Encoder.load(RANDOM_TINY)
    data = prepare(examples, list(CATEGORIES), [], [7, 30], encoder, max_events=8, next_items=0)
    width = data.rows.features.shape[1]
    config = NetworkConfig(
        text_dimension=encoder.dimension, numbers=width, labels=5, horizons=2, items=0, width=16, heads=2, max_events=8
    )
    objective = Objective(Weights(), make_negatives(np.zeros(0, np.float32), 0))
    picked = np.arange(8)

    batch = data.batch(picked, "meta")  # a device that a plain tensor of the CPU cannot meet
    loss = objective.loss(Network(config).to("meta"), batch, data.rows, data.targets, picked)

    assert {part.device.type for part in batch} == {"meta"} == {loss.device.type}
