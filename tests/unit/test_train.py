import random

import msgspec
import numpy as np
import pytest
import torch

from models.dataset import DAY_MS, HORIZONS_DAYS, Example, Slices
from models.encoder import Encoder
from models.encoder_parts import RANDOM_TINY
from models.features.spec import FEATURE_SPEC
from models.scorer import sigmoid
from models.train import (
    ACTIVITY_BASELINE,
    TrainConfig,
    Trained,
    TrainingError,
    auc,
    brier,
    choose_horizons,
    choose_labels,
    ece,
    fit_platt,
    hit_rate,
    train,
)
from tests.builders import NOW_MS, history_entry, score_request

CONFIG = TrainConfig(epochs=6, batch_rows=32, learning_rate=3e-3, width=32, blocks=1, heads=2, max_events=8, dropout=0.0)
CATEGORIES = ("books", "garden", "kitchen", "shoes", "toys")
CHANCE = 0.6  # top 3 of 5
SESSIONS = FEATURE_SPEC.names.index(ACTIVITY_BASELINE)


def planted(seed: int) -> Example:
    """Who looked at a category last looks at it next; who has a tenth feature of 100 stays away; reviews say how they are."""
    rng = random.Random(seed)
    likes, loyal, happy = rng.choice(CATEGORIES), rng.random() < 0.5, rng.random() < 0.5
    features: list[float | None] = [rng.choice([None, float(rng.randint(0, 50))]) for _ in FEATURE_SPEC.names]
    features[10], features[SESSIONS] = 1.0 if loyal else 100.0, 1.0
    looks = [
        history_entry(category=rng.choice(CATEGORIES), event_time_ms=NOW_MS - i * 1_000, text=None)
        for i in range(rng.randint(1, 6), 0, -1)
    ]
    return Example(
        score_request(
            request_id=str(seed),
            user_id=f"user-{seed}",
            spec_version=FEATURE_SPEC.version,
            features=features,
            history=[*looks, history_entry(category=likes, text=None)],
            kind="review",
            text="zzz xxx" if happy else "aaa bbb",
        ),
        interest=frozenset({likes}),
        observed_ms=400 * DAY_MS,
        absent_ms=DAY_MS // 2 if loyal else None,
        positive=happy,
    )


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(RANDOM_TINY)


@pytest.fixture(scope="module")
def slices() -> Slices:
    examples = [planted(seed) for seed in range(600)]
    return Slices(examples[:400], examples[400:500], examples[500:])


@pytest.fixture(scope="module")
def trained(slices: Slices, encoder: Encoder) -> Trained:
    return train(slices, encoder, CONFIG)


def test_planted_interest_churn_and_sentiment_are_learnt(trained: Trained) -> None:
    metrics = trained.metrics

    assert metrics["interest"]["model"]["top3_hit_rate"] > 0.9
    assert metrics["interest"]["popularity"]["top3_hit_rate"] < CHANCE + 0.2
    assert metrics["churn"]["1d"]["auc"] > 0.9
    assert metrics["churn"]["1d"]["auc_fewest_sessions"] == 0.5
    assert metrics["churn"]["30d"]["ece"] < 0.1
    assert metrics["sentiment"]["accuracy"] > 0.9


def test_the_contract_names_all_that_a_scorer_needs(trained: Trained, encoder: Encoder) -> None:
    contract = trained.contract

    assert contract.spec_version == FEATURE_SPEC.version
    assert contract.encoder_id == encoder.encoder_id
    assert contract.labels == list(CATEGORIES)
    assert contract.horizons_days == list(HORIZONS_DAYS)
    assert contract.network.features == len(contract.normalisation.mean) == len(FEATURE_SPEC.names)
    assert len(contract.calibration.hazards) == len(HORIZONS_DAYS)
    assert not trained.network.training
    examples = trained.metrics["examples"]
    assert examples["train"] + examples["validation"] == 400
    assert 15 < examples["validation"] < 70


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(slices: Slices, encoder: Encoder) -> None:
    few = Slices(slices.train[:80], slices.calibration[:40], slices.test[:40])

    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.rand(seed + 1)  # whatever was drawn before does not matter
        return train(few, encoder, TrainConfig(seed=seed, epochs=1, width=16, heads=2, blocks=1)).network.state_dict()

    first, again, other = weights(1), weights(1), weights(2)

    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_slices_without_examples_or_labels_are_refused(slices: Slices, encoder: Encoder) -> None:
    with pytest.raises(TrainingError, match="found no calibration examples"):
        train(Slices(slices.train, [], slices.test), encoder, CONFIG)
    with pytest.raises(TrainingError, match="found no category that follows 5"):
        choose_labels(slices.train[:3], CONFIG)


def test_horizons_nobody_was_watched_through_are_left_out(slices: Slices) -> None:
    watched = [msgspec.structs.replace(example, observed_ms=20 * DAY_MS) for example in slices.train[:50]]

    assert choose_horizons([*watched, *slices.train[:29]]) == [1, 3, 7, 14]
    assert choose_horizons([*watched, *slices.train[:30]]) == list(HORIZONS_DAYS)
    with pytest.raises(TrainingError, match="found 29 training examples watched for a day"):
        choose_horizons(watched[:29])


def test_unknown_labels_teach_nothing_and_stop_nothing(slices: Slices, encoder: Encoder) -> None:
    blind = [Example(example.request, interest=example.interest) for example in slices.train[:60]]

    metrics = train(
        Slices(slices.train[:60], blind, blind), encoder, TrainConfig(epochs=1, width=16, heads=2, blocks=1)
    ).metrics

    assert metrics["churn"]["30d"] == dict.fromkeys(("away_share", "auc", "auc_fewest_sessions", "brier", "ece")) | {
        "examples": 0
    }
    assert metrics["sentiment"]["accuracy"] is None


def test_auc_is_the_share_of_rightly_ordered_pairs_with_ties_as_half() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 8, 60).astype(float), rng.integers(0, 2, 60).astype(float)
    ones, zeros = scores[labels == 1], scores[labels == 0]

    pairs = [(one > zero) + 0.5 * (one == zero) for one in ones for zero in zeros]

    assert auc(scores, labels) == pytest.approx(np.mean(pairs), abs=1e-4)
    assert auc(scores, np.ones(60)) is None


def test_brier_and_calibration_error_have_their_closed_forms() -> None:
    assert brier(np.array([0.5, 1.0]), np.array([1.0, 1.0])) == 0.125
    assert ece(np.full(100, 0.7), np.array([1.0, 0.0] * 50), bins=1) == pytest.approx(0.2)
    halves = np.repeat([0.2, 0.9], 50)
    assert ece(halves, np.repeat([0.0, 1.0], 50), bins=2) == pytest.approx((0.2 + 0.1) / 2)
    assert ece(np.array([0.25]), np.array([0.0])) == 0.25
    assert brier(np.array([]), np.array([])) is ece(np.array([]), np.array([])) is None


def test_a_hit_is_a_wanted_label_among_the_best_three() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6]])
    wanted = np.array([[0.0, 0, 1, 0], [0.0, 0, 0, 1]])

    assert hit_rate(scores, wanted) == 0.5
    assert hit_rate(scores[:0], wanted[:0]) is None


def test_platt_scaling_finds_the_distortion_it_was_given_and_trusts_few_examples_little() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(scale=2, size=20_000)
    labels = (rng.random(20_000) < sigmoid(truth)).astype(float)
    labels[:100] = np.nan
    distorted = 2 * truth + 1

    found = fit_platt(distorted, labels)

    assert found.scale == pytest.approx(0.5, abs=0.03)
    assert found.bias == pytest.approx(-0.5, abs=0.07)
    assert fit_platt(distorted[:0], labels[:0]).scale == 1
    assert abs(fit_platt(np.array([3.0]), np.array([0.0])).bias) < 0.2
