"""Metrics equal scikit-learn's and hand-made values, and a weight of n is as good as n copies."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from models.evaluation import metrics
from models.evaluation.bootstrap import Statistic

Floats = NDArray[np.float64]


@pytest.fixture
def scored() -> tuple[Floats, Floats]:
    rng = np.random.default_rng(5)
    labels = (rng.random(400) < 0.3).astype(np.float64)
    scores = np.round(np.clip(0.3 + 0.2 * labels + rng.normal(0, 0.2, 400), 0, 1), 2)  # rounded: many ties
    return scores, labels


def value(statistic: Statistic, n: int) -> float:
    return float(statistic(np.ones((1, n)))[0])


def test_binary_metrics_equal_those_of_scikit_learn(scored: tuple[Floats, Floats]) -> None:
    scores, labels = scored
    decided = scores > 0.5
    expected = {
        "auc": sk.roc_auc_score(labels, scores),
        "pr_auc": sk.average_precision_score(labels, scores),
        "brier": sk.brier_score_loss(labels, scores),
        "accuracy": sk.accuracy_score(labels, decided),
        "precision": sk.precision_score(labels, decided),
        "recall": sk.recall_score(labels, decided),
        "f1": sk.f1_score(labels, decided),
    }
    found = {name: value(statistic, len(labels)) for name, statistic in metrics.binary_statistics(scores, labels).items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_weight_of_n_is_as_good_as_n_copies(scored: tuple[Floats, Floats]) -> None:
    scores, labels = scored
    weights = np.random.default_rng(1).integers(0, 4, len(labels))
    copies = np.repeat(scores, weights), np.repeat(labels, weights)
    weighted, copied = metrics.binary_statistics(scores, labels), metrics.binary_statistics(*copies)
    for name in weighted.keys() - {"ece"}:  # whose bins are cut in the sample as it is
        assert weighted[name](weights[None, :].astype(float))[0] == pytest.approx(value(copied[name], len(copies[0]))), name


def test_an_auc_without_both_outcomes_is_unknown() -> None:
    with np.errstate(invalid="ignore"):
        assert np.isnan(value(metrics.auc(np.array([0.1, 0.9]), np.ones(2)), 2))


def test_calibration_error_is_the_distance_of_claim_and_outcome_per_bin() -> None:
    claimed, came = np.array([0.1, 0.1, 0.9, 0.9]), np.array([0.0, 1.0, 1.0, 1.0])
    assert value(metrics.ece(claimed, came, bins=2), 4) == pytest.approx((abs(0.1 - 0.5) + abs(0.9 - 1.0)) / 2)
    assert metrics.reliability(claimed, came, bins=2) == [(0.1, 0.5, 2), (0.9, 1.0, 2)]


def test_a_forecast_that_is_right_has_no_calibration_error_and_one_that_is_sure_and_wrong_has_all() -> None:
    came = np.array([0.0, 1.0] * 30)
    assert value(metrics.ece(came, came), 60) == 0
    assert value(metrics.ece(1 - came, came, bins=2), 60) == 1


def test_lift_counts_ones_among_the_best_tenth() -> None:
    labels = np.array([1.0] * 2 + [0.0] * 18)
    assert value(metrics.lift(np.linspace(1, 0, 20), labels), 20) == pytest.approx(10)
    assert value(metrics.lift(np.linspace(0, 1, 20), labels), 20) == 0


def test_lift_of_a_scorer_that_tells_nobody_apart_is_one() -> None:
    assert value(metrics.lift(np.full(40, 0.3), np.array([1.0, 0, 0, 0] * 10)), 40) == pytest.approx(1)


def test_gains_end_with_everybody_found() -> None:
    points = metrics.gain_points(np.linspace(1, 0, 100), np.array([1.0] * 10 + [0.0] * 90))
    assert points[1] == (0.1, 1.0, 10.0)
    assert points[-1] == (1.0, 1.0, 1.0)


def test_roc_and_precision_recall_run_from_corner_to_corner(scored: tuple[Floats, Floats]) -> None:
    roc, curve = metrics.roc_points(*scored), metrics.precision_recall_points(*scored)
    assert (roc[0], roc[-1]) == ((0, 0), (1, 1))
    assert (curve[0], curve[-1][0]) == ((0, 1), 1)


def test_label_metrics_equal_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    wanted = (rng.random((80, 7)) < 0.3).astype(np.float64)
    wanted[np.arange(80), rng.integers(0, 7, 80)] = 1
    scores = rng.random((80, 7)) + 0.4 * wanted
    chosen = metrics.rank_of_labels(scores) <= 2
    found = {name: value(one, 80) for name, one in metrics.label_statistics(scores, wanted, predicted=2).items()}
    assert found["map"] == pytest.approx(sk.label_ranking_average_precision_score(wanted, scores))
    assert found["micro_f1"] == pytest.approx(sk.f1_score(wanted, chosen, average="micro"))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(wanted, chosen, average="macro"))
    assert found["ndcg_3"] == pytest.approx(sk.ndcg_score(wanted, scores, k=3), abs=1e-9)
    assert found["hit_rate_3"] == pytest.approx((wanted * (metrics.rank_of_labels(scores) <= 3)).any(1).mean())


def test_item_metrics_count_places_from_the_best() -> None:
    ranked = [["a", "b", "c"], ["a", "b", "c"], ["x"]]
    wanted = [["b", "z"], ["a"], ["y"]]
    found = {name: value(one, 3) for name, one in metrics.ranking_statistics(ranked, wanted).items()}
    second = 1 / np.log2(3)
    assert found["hit_rate_10"] == pytest.approx(2 / 3)
    assert found["mrr_10"] == pytest.approx((1 / 2 + 1) / 3)
    assert found["ndcg_10"] == pytest.approx((second / (1 + second) + 1) / 3)
    assert found["next_hit_rate_20"] == pytest.approx(2 / 3)
    assert found["next_mrr_20"] == pytest.approx((1 / 2 + 1) / 3)


def test_next_item_metrics_count_the_first_item_alone() -> None:
    found = {name: value(one, 1) for name, one in metrics.ranking_statistics([["late"]], [["soon", "late"]]).items()}
    assert (found["hit_rate_10"], found["next_hit_rate_20"]) == (1, 0)


def test_class_metrics_equal_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4, 200)
    probabilities = rng.dirichlet(np.ones(4), 200) + 0.3 * np.eye(4)[truth]
    said = probabilities.argmax(1)
    found = {name: value(one, 200) for name, one in metrics.class_statistics(probabilities, truth).items()}
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, said))
    assert found["macro_precision"] == pytest.approx(sk.precision_score(truth, said, average="macro"))
    assert found["macro_recall"] == pytest.approx(sk.recall_score(truth, said, average="macro"))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(truth, said, average="macro"))


def test_rating_error_is_of_the_expected_number_of_stars() -> None:
    sure, torn = np.eye(5)[4], np.array([0.5, 0, 0, 0, 0.5])
    found = metrics.rating_statistics(np.stack([sure, torn]), np.array([5.0, 1.0]))
    assert value(found["mae"], 2) == pytest.approx((0 + 2) / 2)


def test_a_classification_report_holds_every_class_and_its_confusion_counts_everybody() -> None:
    truth, said = ["a", "a", "b"], ["a", "b", "b"]
    report = metrics.classification_report(truth, said, ["a", "b"])
    assert report["a"] == {"precision": 1.0, "recall": 0.5, "f1-score": 0.6667, "support": 2.0}
    assert metrics.confusion(truth, said, ["a", "b"]) == [[1, 1], [0, 1]]
