import math

import msgspec
import numpy as np
import pytest
import torch

from models.data.labels import HORIZONS_DAYS
from models.linear.linear_model import best_share, fit_best, fit_linear
from models.network.inputs import Batch, Normalisation, Rows, arrange, collate, vocabulary
from models.network.network import Network, NetworkConfig
from models.network.rhythm import RHYTHM_NAMES
from models.training.objective import Objective, Weights, make_negatives
from models.training.targets import make_targets
from schemas.time_units import DAY_MS
from tests.builders import NOW_MS, history_entry, score_request
from tests.training.test_train import planted

KNOWN = vocabulary(["garden", "kitchen"], ["mug", "lamp", "tent"])
NUMBERS = 3 + len(RHYTHM_NAMES)
CONFIG = NetworkConfig(
    text_dimension=4, numbers=NUMBERS, labels=2, horizons=9, items=3, width=16, heads=2, max_events=8, causal=True, decoder=True
)
ALL = Objective(Weights(), make_negatives(np.array([0.5, 0.3, 0.2], np.float32), 0))


def sequence() -> tuple[Rows, Batch]:
    """One user with three events: a mug, a lamp after two days, a mug at once."""
    entries = [
        history_entry(item_id=item, category=category, event_time_ms=NOW_MS + days * DAY_MS)
        for item, category, days in (("mug", "kitchen", 0), ("lamp", None, 2), ("mug", "garden", 2))
    ]
    rows, texts = arrange([score_request(history=entries)], KNOWN, 8)
    table = np.zeros((1 + len(texts), 4), np.float32)
    return rows, collate(rows, np.arange(1), table, Normalisation([0.0] * NUMBERS, [1.0] * NUMBERS))


def uniform(config: NetworkConfig) -> Network:
    """A network whose every head says nothing: all logits 0."""
    network = Network(config).eval()
    for head in (network.interest, network.hazards, network.next_kind, network.next_item):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    torch.nn.init.zeros_(network.item_bias)
    return network


def test_a_decoder_that_knows_nothing_pays_the_nats_of_a_guess() -> None:
    rows, batch = sequence()
    example = msgspec.structs.replace(planted(1, "train"), categories=None, items=None, observed_ms=0)  # type: ignore[arg-type]
    targets = make_targets([example], KNOWN, HORIZONS_DAYS, 1)

    with torch.no_grad():
        nats = ALL.loss(uniform(CONFIG), batch, rows, targets, np.arange(1)).item()

    kinds, categories, items = math.log(7), math.log(2), math.log(3)
    gaps = (2 * math.log(2) + math.log(2)) / 2  # one in the second bin, one in the first
    assert nats == pytest.approx(kinds + categories + items + gaps, rel=1e-4)


def test_drawn_negatives_ask_for_the_same_as_all_items_on_average() -> None:
    rows, batch = sequence()
    torch.manual_seed(0)
    network = Network(msgspec.structs.replace(CONFIG, decoder=False))
    network.item_bias.data.copy_(torch.tensor([2.0, 0.0, -1.0]))
    example = msgspec.structs.replace(planted(1, "train"), categories=None, items=("lamp",), observed_ms=0)  # type: ignore[arg-type]
    targets = make_targets([example], KNOWN, HORIZONS_DAYS, 1)
    many = Objective(Weights(), make_negatives(np.array([0.5, 0.3, 0.2], np.float32), 20_000))

    with torch.no_grad():
        exact = ALL.loss(network.eval(), batch, rows, targets, np.arange(1)).item()
        drawn = many.loss(network.train(), batch, rows, targets, np.arange(1)).item()

    assert drawn == pytest.approx(exact, rel=0.03)


def test_a_linear_fit_is_the_ridge_solution_of_a_square_loss() -> None:
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.normal(size=(50, 3))).float(), torch.from_numpy(rng.normal(size=(50, 1))).float()
    layer = torch.nn.Linear(3, 1)

    fit_linear(layer, x, lambda found: 0.5 * (found - y).square().mean(), penalty=0.2)

    centred, wanted = x - x.mean(0), y - y.mean(0)
    ridge = torch.linalg.solve(centred.T @ centred / 50 + 0.2 * torch.eye(3), centred.T @ wanted / 50)
    torch.testing.assert_close(layer.weight.detach().T, ridge, atol=1e-3, rtol=1e-2)


def test_the_penalty_and_the_share_that_held_out_rows_like_best_are_kept() -> None:
    rng = np.random.default_rng(1)
    x, noise = torch.from_numpy(rng.normal(size=(40, 20))).float(), torch.from_numpy(rng.normal(size=(40, 1))).float()
    layer = torch.nn.Linear(20, 1)

    penalty = fit_best(
        layer,
        x[:20],
        lambda found: (found - noise[:20]).square().mean(),
        x[20:],
        lambda found: (found - noise[20:]).square().mean(),
    )

    assert penalty == 0.1  # there is nothing to learn
    assert best_share([(1.0, 0.4), (0.5, 0.3), (0.0, 0.3)]) == 0.5
    assert best_share([]) == 1.0
