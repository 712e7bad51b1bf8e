import math

import pytest
import torch
from torch import nn

from models.network.losses import UNKNOWN, binary_loss, class_loss, ordinal_loss, ordinal_probabilities
from models.training.optimisation import (
    Decline,
    OptimiserConfig,
    OptimiserName,
    build_optimiser,
    parameter_counts,
    rate_share,
    set_rate,
)


def one_weight(value: float) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def step_with(network: nn.Linear, optimiser: torch.optim.Optimizer, gradient: float) -> float:
    network.weight.grad = torch.full((1, 1), gradient)
    optimiser.step()
    return float(network.weight)


def test_two_adamw_steps_are_those_of_the_stated_formula() -> None:
    network = one_weight(2.0)
    optimiser = build_optimiser(network, OptimiserConfig(learning_rate=0.1, weight_decay=0.5, betas=(0.8, 0.9)))
    w, m, v = 2.0, 0.0, 0.0
    for t, g in enumerate((3.0, -1.0), start=1):
        w *= 1 - 0.1 * 0.5
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        w -= 0.1 * (m / (1 - 0.8**t)) / (math.sqrt(v / (1 - 0.9**t)) + 1e-8)

        assert step_with(network, optimiser, g) == pytest.approx(w, rel=1e-6)


def test_two_sgd_steps_with_momentum_and_decay_are_those_of_the_stated_formula() -> None:
    network = one_weight(2.0)
    config = OptimiserConfig(name=OptimiserName.SGD, learning_rate=0.1, weight_decay=0.5, momentum=0.9)
    optimiser = build_optimiser(network, config)
    w, m = 2.0, None
    for g in (3.0, -1.0):
        decayed = g + 0.5 * w
        m = decayed if m is None else 0.9 * m + decayed
        w -= 0.1 * m

        assert step_with(network, optimiser, g) == pytest.approx(w, rel=1e-6)


def test_biases_and_layer_norms_do_not_decay_and_new_parameters_have_their_own_rate() -> None:
    network = nn.ModuleDict({"body": nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), "head": nn.Linear(2, 1)})
    config = OptimiserConfig(learning_rate=0.1, head_rate_factor=10, weight_decay=0.3)

    groups = build_optimiser(network, config, new_names=["head."]).param_groups

    found = {(group["weight_decay"], group["peak_rate"]): sum(p.numel() for p in group["params"]) for group in groups}
    assert found == {(0.3, 0.1): 6, (0.0, 0.1): 2 + 4, (0.3, 1.0): 2, (0.0, 1.0): 1}


def test_frozen_parameters_are_counted_and_left_alone() -> None:
    network = nn.ModuleDict({"body": nn.Linear(3, 2), "head": nn.Linear(2, 1)})
    network["body"].requires_grad_(False)

    assert parameter_counts(network) == {"total": 11, "trainable": 3}
    assert sum(p.numel() for group in build_optimiser(network, OptimiserConfig()).param_groups for p in group["params"]) == 3


@pytest.mark.parametrize(
    ("decline", "shares"),
    [
        (Decline.LINEAR, [1 / 3, 2 / 3, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        (Decline.COSINE, [1 / 3, 2 / 3, *(0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8))]),
        (Decline.NONE, [1 / 3, 2 / 3, *[1.0] * 8]),
    ],
)
def test_the_rate_warms_up_in_a_line_and_declines_as_named(decline: Decline, shares: list[float]) -> None:
    config = OptimiserConfig(warm_up_share=0.2, decline=decline)

    assert [rate_share(step, 10, config) for step in range(10)] == pytest.approx(shares)


def test_every_group_gets_its_share_of_its_own_peak() -> None:
    network = nn.ModuleDict({"body": nn.Linear(3, 2, bias=False), "head": nn.Linear(2, 1, bias=False)})
    optimiser = build_optimiser(network, OptimiserConfig(learning_rate=0.1, head_rate_factor=5), new_names=["head."])

    set_rate(optimiser, 0.5)

    assert [group["lr"] for group in optimiser.param_groups] == [0.05, 0.25]


def test_cross_entropy_is_the_mean_negative_log_probability_of_known_classes() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [9.0, -9.0]])

    found = class_loss(logits, torch.tensor([0, 1, UNKNOWN]))

    assert float(found) == pytest.approx((math.log(1 + math.exp(-2)) + math.log(2)) / 2, rel=1e-6)


def test_label_smoothing_wants_a_share_of_every_class() -> None:
    p = [math.exp(x) / (math.exp(1) + math.exp(0) + math.exp(-1)) for x in (1, 0, -1)]
    wanted = [0.8 + 0.2 / 3, 0.2 / 3, 0.2 / 3]

    found = class_loss(torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([0]), smoothing=0.2)

    assert float(found) == pytest.approx(-sum(w * math.log(q) for w, q in zip(wanted, p, strict=True)), rel=1e-6)


def test_binary_cross_entropy_leaves_unknown_labels_out() -> None:
    logits, labels = torch.tensor([[1.0, -2.0], [50.0, 0.0]]), torch.tensor([[1.0, 0.0], [math.nan, 0.25]])

    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2)) + math.log(2)) / 3

    assert float(binary_loss(logits, labels)) == pytest.approx(expected, rel=1e-6)


def test_ordinal_loss_sums_one_binary_loss_for_every_threshold() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0], [5.0, 5.0, 5.0]])

    found = ordinal_loss(logits, torch.tensor([2, UNKNOWN]))

    expected = math.log(1 + math.exp(-1)) + math.log(2) + math.log(1 + math.exp(-1))  # above, above, not above
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_rank_probabilities_are_differences_of_the_thresholds_and_sum_to_one() -> None:
    found = ordinal_probabilities(torch.tensor([[2.0, 0.0, -2.0], [0.0, 1.0, -1.0]]))

    high = 1 / (1 + math.exp(-2))
    torch.testing.assert_close(found[0], torch.tensor([1 - high, high - 0.5, 0.5 - (1 - high), 1 - high]))
    torch.testing.assert_close(found.sum(-1), torch.ones(2))
    assert (found >= 0).all()


def test_a_batch_without_known_labels_costs_nothing_and_has_a_gradient_of_zeros() -> None:
    logits = torch.ones(2, 4, requires_grad=True)
    unknown = torch.tensor([UNKNOWN, UNKNOWN])

    total = class_loss(logits, unknown) + ordinal_loss(logits, unknown) + binary_loss(logits, torch.full((2, 4), math.nan))
    total.backward()

    assert float(total.detach()) == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()
