import numpy as np
import pytest

from models.serving.item_prior import (
    LEAST_POPULARITY,
    OWN_FADE,
    ItemPrior,
    Journey,
    choose_mix,
    counted_chances,
    fit_item_prior,
    mix_items,
    ranking_value,
)

A, B, C, D = range(4)


def chances(prior: ItemPrior, *met: int) -> tuple[np.ndarray, np.ndarray]:
    """Chances by co-occurrence and by own items for one user who met these, oldest first."""
    near, own = counted_chances(prior, np.array([[item + 1 for item in met]], np.int32), np.array([len(met)]))
    return near[0], own[0]


@pytest.fixture
def prior() -> ItemPrior:
    return fit_item_prior([Journey([A, B, C], 1.0), Journey([A, B], 3.0)], [(B, 3.0), (D, 1.0)], 4)


def test_what_comes_next_and_near_counts_most(prior: ItemPrior) -> None:
    near, _ = chances(prior, A)

    assert near.sum() == pytest.approx(1)
    assert near[B] == pytest.approx(4 / (4 + 0.5))
    assert near[C] == pytest.approx(0.5 / (4 + 0.5))
    assert near[A] == near[D] == 0


def test_a_step_back_counts_half(prior: ItemPrior) -> None:
    near, _ = chances(prior, B)

    assert near[A] / near[C] == pytest.approx(0.5 * 4 / 1)


def test_own_items_fade_and_unknown_ones_are_passed_over(prior: ItemPrior) -> None:
    _, own = chances(prior, A, 17, D)

    assert own[D] / own[A] == pytest.approx(1 / OWN_FADE)
    assert sum(chances(prior, 17)[0]) == 0


def test_popularity_follows_what_was_wanted(prior: ItemPrior) -> None:
    assert prior.popularity[B] > prior.popularity[D] > prior.popularity[A] > 0
    assert prior.popularity.sum() == pytest.approx(1)


def test_a_mixture_leans_on_what_ranks_best(prior: ItemPrior) -> None:
    rng = np.random.default_rng(0)
    wanted = [[int(item)] for item in rng.integers(0, 4, 40)]
    right = np.full((40, 4), 0.1, np.float32)
    right[np.arange(40), [items[0] for items in wanted]] = 0.7
    noise = rng.random((40, 4)).astype(np.float32)

    by_network = choose_mix(prior, right, noise, noise, wanted)
    by_counting = choose_mix(prior, noise, right, noise, wanted)

    assert by_network.mix[0] > 0.3
    assert by_counting.mix[0] == 0
    assert by_counting.mix.sum() == pytest.approx(1)
    assert by_counting.mix[3] == pytest.approx(LEAST_POPULARITY)
    assert ranking_value(mix_items(by_network, right, noise, noise), wanted) == pytest.approx(2)


def test_a_ranking_is_worth_its_reciprocal_and_the_first_twenty() -> None:
    row = np.arange(100, 0, -1, dtype=np.float32)[None]

    assert ranking_value(row, [[1]]) == pytest.approx(1 / 2 + 1)
    assert ranking_value(row, [[50]]) == pytest.approx(1 / 51)
    assert ranking_value(row, [[]]) == 0
