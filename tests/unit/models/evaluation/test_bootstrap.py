"""Whole users are drawn, by seed, and the interval holds what sampling could have changed."""

import numpy as np

from models.evaluation.bootstrap import Interval, interval, replicate, user_weights
from models.evaluation.metrics import ece, mean


def test_the_first_row_is_the_sample_as_it_is() -> None:
    assert user_weights(["a", "b", "a"], 5, seed=1)[0].tolist() == [1, 1, 1]


def test_all_examples_of_a_user_are_drawn_together() -> None:
    weights = user_weights(["a", "b", "a", "c", "b"], 200, seed=1)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()


def test_every_draw_holds_as_many_users_as_there_are() -> None:
    weights = user_weights([str(user) for user in range(50)], 20, seed=3)
    assert weights.sum(1).tolist() == [50] * 21


def test_equal_seeds_draw_alike_and_others_do_not() -> None:
    users = [str(user) for user in range(30)]
    first, again, other = (user_weights(users, 10, seed) for seed in (4, 4, 5))
    assert (first == again).all()
    assert (first != other).any()


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(0, 1, 2000)
    weights = user_weights([str(user) for user in range(2000)], 600, seed=1)
    found = interval(replicate(mean(values), weights))
    assert found.value is not None and found.low is not None and found.high is not None
    assert found.value == round(float(values.mean()), 5)
    assert abs((found.high - found.low) / (2 * 1.96 / np.sqrt(2000)) - 1) < 0.15


def test_examples_of_one_user_make_a_wider_interval_than_as_many_users() -> None:
    values = np.repeat(np.random.default_rng(0).normal(0, 1, 100), 10)
    alone = interval(replicate(mean(values), user_weights([str(i) for i in range(1000)], 300, 1)))
    together = interval(replicate(mean(values), user_weights([str(i // 10) for i in range(1000)], 300, 1)))
    assert together.high - together.low > 2 * (alone.high - alone.low)  # type: ignore[operator]


def test_a_value_that_is_unknown_has_no_interval() -> None:
    assert interval(np.array([np.nan, 0.5])) == Interval(None, None, None)
    assert interval(np.array([0.5])) == Interval(0.5, None, None)


def test_the_interval_of_a_calibration_error_lies_around_it() -> None:
    rng = np.random.default_rng(0)
    claimed = rng.random(600)
    came = (rng.random(600) < claimed).astype(np.float64)
    found = interval(replicate(ece(claimed, came), user_weights([str(i) for i in range(600)], 200, 1)), recentre=True)
    assert found.low is not None and found.high is not None and found.value is not None
    assert 0 <= found.low <= found.value <= found.high
