"""A baseline wins where the model is below it, beyond noise or by more than means nothing."""

import numpy as np

from models.evaluation.comparison import compare, judge
from models.evaluation.metrics import mean

WEIGHTS = np.vstack([np.ones((1, 400)), np.random.default_rng(0).multinomial(400, np.full(400, 1 / 400), 200)]).astype(np.uint8)
NOISE = np.random.default_rng(1).normal(0, 0.1, 400)


def verdict_of(model: float, baseline: float, *, name: str = "rfm_logistic", metric: str = "auc"):
    statistics = {"model": {metric: mean(np.full(400, model))}, name: {metric: mean(baseline + NOISE)}}
    return judge([compare(statistics, WEIGHTS, "model").replicates], "model", [name], (metric,))


def test_a_model_above_a_baseline_beyond_noise_beats_it() -> None:
    verdict = verdict_of(0.8, 0.7)
    assert (verdict.wins, verdict.beaten_by, verdict.against[0].status) == (True, [], "beaten")


def test_a_model_below_a_baseline_beyond_noise_loses() -> None:
    verdict = verdict_of(0.6, 0.7)
    assert (verdict.wins, verdict.beaten_by, verdict.against[0].status) == (False, ["rfm_logistic"], "lost")
    assert "a baseline wins: rfm_logistic" in verdict.text


def test_a_difference_that_means_nothing_is_no_loss() -> None:
    verdict = verdict_of(0.7, 0.7 + 0.003 - NOISE.mean())
    assert (verdict.wins, verdict.against[0].status) == (True, "behind")


def test_a_model_within_noise_but_below_by_more_than_means_nothing_loses() -> None:
    verdict = verdict_of(0.7, 0.7 + 0.008 - NOISE.mean())
    assert (verdict.wins, verdict.against[0].status) == (False, "behind")


def test_a_trivial_baseline_wins_unless_it_is_beaten_beyond_noise() -> None:
    assert not verdict_of(0.701, 0.7 - NOISE.mean(), name="majority").wins
    assert verdict_of(0.75, 0.7, name="majority").wins


def test_of_an_error_less_is_better() -> None:
    assert verdict_of(0.1, 0.3, metric="mae").wins
    assert not verdict_of(0.5, 0.3, metric="mae").wins


def test_a_baseline_that_could_not_be_fitted_says_why_and_a_model_beside_none_has_not_won() -> None:
    compared = compare({"model": {"auc": mean(np.ones(400))}}, WEIGHTS, "model", {"bg_nbd": "does not converge"})
    assert compared.scorers["bg_nbd"].note == "does not converge"
    verdict = judge([compared.replicates], "model", ["bg_nbd"], ("auc",))
    assert (verdict.wins, verdict.beaten_by) == (False, [])
    assert "no baseline could be fitted" in verdict.text
