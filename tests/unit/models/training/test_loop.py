from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.training.loop import Fitted, LoopConfig, fit
from models.training.optimisation import OptimiserConfig
from schemas.errors import TrainingError

X = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 5))).float()
Y = (X @ torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])).unsqueeze(-1)
STEPS = OptimiserConfig(learning_rate=0.05)


class Cut(Exception):
    """The machine went away."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Linear(8, 1))


def run(
    net: nn.Module,
    loop: LoopConfig,
    *,
    rows: int = 8,
    cut_at: int | None = None,
    state: Path | None = None,
    steps: OptimiserConfig = STEPS,
) -> Fitted:
    """Train on 48 rows in batches, validate on 16; with `cut_at` the process "dies" in that call of the loss."""
    calls = 0

    def plan(epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng((loop.seed, epoch)).permutation(48)
        return [order[start : start + rows] for start in range(0, 48, rows)]

    def loss(picked: Sequence[int]) -> tuple[Tensor, float]:
        nonlocal calls
        calls += 1
        if cut_at is not None and calls > cut_at:
            raise Cut
        return ((net(X[picked]) - Y[picked]) ** 2).mean(), len(picked)

    def validate() -> float:
        return float(((net(X[48:]) - Y[48:]) ** 2).mean())

    return fit(
        net,
        plan=plan,
        loss=loss,
        validate=validate,
        loop=loop,
        optimiser_config=steps,
        state_folder=state,
        save_every_seconds=-1.0,
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_training_lowers_the_loss_and_equal_seeds_give_equal_weights() -> None:
    one, two, other = network(), network(), network()

    fitted = run(one, LoopConfig(epochs=20))
    again = run(two, LoopConfig(epochs=20))
    run(other, LoopConfig(epochs=20, seed=2))

    assert fitted.best_value < 0.5 * fitted.validations[0].value
    assert same(one, two) and fitted.validations == again.validations
    assert not same(one, other)


@pytest.mark.parametrize("cut_at", [7, 12, 20])
def test_a_run_that_was_cut_off_goes_on_to_the_very_same_weights(tmp_path: Path, cut_at: int) -> None:
    loop = LoopConfig(epochs=5, validations_per_epoch=2, patience=9)
    whole, parts = network(), network()
    expected = run(whole, loop)

    with pytest.raises(Cut):
        run(parts, loop, cut_at=cut_at, state=tmp_path)
    resumed = network()
    fitted = run(resumed, loop, state=tmp_path)

    assert same(whole, resumed)
    assert (fitted.steps, fitted.best_step, fitted.best_value) == (expected.steps, expected.best_step, expected.best_value)
    assert fitted.validations == expected.validations


def test_a_finished_run_started_again_changes_nothing(tmp_path: Path) -> None:
    one, two = network(), network()
    run(one, LoopConfig(epochs=3), state=tmp_path)

    run(two, LoopConfig(epochs=3), state=tmp_path)

    assert same(one, two)


def test_a_state_of_another_network_or_of_two_saves_is_refused(tmp_path: Path) -> None:
    run(network(), LoopConfig(epochs=1), state=tmp_path)

    with pytest.raises(TrainingError, match="expected 2 of this run"):
        run(nn.Linear(5, 1), LoopConfig(epochs=1), state=tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"of a later save")
    with pytest.raises(TrainingError, match="start over"):
        run(network(), LoopConfig(epochs=1), state=tmp_path)


def test_accumulated_small_batches_take_the_step_of_one_large_batch() -> None:
    large, small = network().eval(), network().eval()
    large[1] = small[1] = nn.Identity()  # dropout would draw other numbers

    run(large, LoopConfig(epochs=2), rows=16)
    run(small, LoopConfig(epochs=2, accumulate=4), rows=4)

    for a, b in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_training_stops_when_validation_stays_and_keeps_the_best_weights() -> None:
    net = network()
    before = [tensor.clone() for tensor in net.parameters()]

    fitted = run(net, LoopConfig(epochs=50, patience=2, min_delta=1e9), steps=OptimiserConfig(learning_rate=0.0))

    assert fitted.stopped_early
    assert len(fitted.validations) == 3  # the first is better than nothing, two more are not better
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_bfloat16_trains_float32_weights() -> None:
    net = network()

    fitted = run(net, LoopConfig(epochs=10, bf16=True))

    assert {tensor.dtype for tensor in net.parameters()} == {torch.float32}
    assert fitted.best_value < fitted.validations[0].value
