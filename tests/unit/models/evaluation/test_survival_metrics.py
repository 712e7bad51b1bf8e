"""Concordance equals a count of all pairs, the Kaplan-Meier curve a table made by hand, lead time counts days."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluation.survival_metrics import concordance, first_alert_days, kaplan_meier, lead_time

User = st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 4))


def brute_force(expected: list[int], days: list[int], returned: list[bool]) -> float:
    right = pairs = 0.0
    for i in range(len(days)):
        for j in range(len(days)):
            if returned[i] and (days[i] < days[j] or (days[i] == days[j] and not returned[j])):
                pairs += 1
                right += 1.0 if expected[j] > expected[i] else 0.5 if expected[j] == expected[i] else 0.0
    return right / pairs if pairs else float("nan")


@given(st.lists(User, min_size=1, max_size=25))
def test_concordance_equals_a_count_of_all_pairs(users: list[tuple[int, bool, int]]) -> None:
    days, returned, expected = (list(column) for column in zip(*users, strict=True))
    statistic = concordance(np.array(expected, float), np.array(days, float), np.array(returned))
    found = statistic(np.ones((1, len(users))))[0]
    assert found == pytest.approx(brute_force(expected, days, returned), nan_ok=True)


def test_drawn_pairs_of_many_users_come_near_the_count_of_all() -> None:
    rng = np.random.default_rng(1)
    days = rng.exponential(10, 1500)
    expected = days + rng.normal(0, 8, 1500)
    returned = rng.random(1500) < 0.7
    every = brute_force(expected.tolist(), days.tolist(), returned.tolist())
    assert concordance(expected, days, returned)(np.ones((1, 1500)))[0] == pytest.approx(every, abs=0.005)


def test_kaplan_meier_equals_a_table_made_by_hand() -> None:
    days, returned = np.array([1.0, 2, 2, 3, 4]), np.array([True, True, False, True, False])
    curve = kaplan_meier(days, returned, np.array([0.0, 1, 2, 3, 10]))
    assert curve.tolist() == pytest.approx([1, 4 / 5, 4 / 5 * 3 / 4, 4 / 5 * 3 / 4 * 1 / 2, 4 / 5 * 3 / 4 * 1 / 2])


def test_an_alert_comes_on_the_first_day_at_the_threshold() -> None:
    risks = np.array([[0.2, 0.5, 0.4], [0.1, 0.1, 0.1], [0.9, 0.1, 0.1]])
    assert first_alert_days(risks, 0.5).tolist() == [1, np.inf, 0]


def test_lead_time_counts_days_to_the_end_of_the_grace_period_and_false_alerts() -> None:
    alert = np.array([10.0, 20, np.inf, 2, 6])
    absent = np.array([np.nan, 40, np.nan, 5, 5])  # three stayed away for 30 days, two came back on day 5
    found = lead_time(alert, absent, np.full(5, 60.0), 30, 0.7)
    assert (found.away, found.alerted_share, found.days_before) == (3, 0.6667, (11.0, 15.0, 19.0))
    assert (found.returned, found.false_alert_share) == (2, 0.5)


def test_who_was_not_watched_for_the_grace_period_is_left_out_of_the_lead_time() -> None:
    found = lead_time(np.array([1.0]), np.array([np.nan]), np.array([29.0]), 30, 0.5)
    assert (found.away, found.returned, found.alerted_share) == (0, 0, None)
