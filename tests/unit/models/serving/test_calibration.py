import numpy as np
import pytest
import torch

from models.network.survival import Exposures
from models.serving.calibration import fit_hazards, fit_platt
from models.serving.checkpoint import Platt
from models.serving.scorer import sigmoid


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
    assert abs(fit_platt(np.array([3.0, 2.0]), np.array([0.0, 1.0])).bias) < 0.2


def test_labels_that_are_all_alike_calibrate_nothing() -> None:
    assert fit_platt(np.linspace(-3, 3, 500), np.ones(500)) == Platt()


def test_hazards_take_one_scale_and_keep_the_level_of_training() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(-1, 1, size=(20_000, 3))
    returned = (rng.random(truth.shape) < sigmoid(truth + 0.3)).astype(float)  # a season in which more come back
    seen = Exposures(np.ones_like(truth), returned)

    found = fit_hazards(torch.from_numpy(2 * (truth + 1) - 1), seen)

    for platt in found:
        assert platt.scale == pytest.approx(0.5, abs=0.03)
        assert -1 * platt.scale + platt.bias == pytest.approx(-1, abs=0.05)
    untouched = fit_hazards(torch.zeros(0, 3), Exposures(np.zeros((0, 3)), np.zeros((0, 3))))
    assert [(platt.scale, platt.bias) for platt in untouched] == [(1.0, 0.0)] * 3
