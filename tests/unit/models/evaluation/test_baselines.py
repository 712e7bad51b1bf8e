"""Baselines find what is planted in made users, know only the past, and say so when it teaches nothing."""

import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.data.examples import Example, Slice
from models.evaluation.baselines import bg_nbd as bg_nbd_model
from models.evaluation.baselines import item_baselines as item_baselines
from models.evaluation.baselines.bg_nbd import Parameters, bg_nbd, expected_purchases
from models.evaluation.baselines.category_baselines import own_shares, rank_categories, relevant_labels
from models.evaluation.baselines.churn_baselines import gradient_boosting, majority, recency, rfm_features, rfm_logistic
from models.evaluation.baselines.review_baselines import majority as text_majority
from models.evaluation.baselines.review_baselines import tf_idf
from models.evaluation.outcomes import stayed_away
from models.linear.tfidf import characters, words
from schemas.errors import CannotFit
from schemas.time_units import DAY_MS
from tests.builders import NOW_MS, history_entry, purchase
from tests.made_examples import examples_of, made_examples, made_purchases

LABELS = ("books", "garden", "kitchen", "toys")


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return made_examples()


def split(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    train = [example for example in examples if example.slice in (Slice.TRAIN, Slice.VALIDATION)]
    return train, [example for example in examples if example.slice is Slice.TEST]


def test_staying_away_counts_from_the_landmark_and_is_unknown_unless_watched_to_its_end() -> None:
    bought = {"u": [purchase(event_time_ms=NOW_MS), purchase(event_time_ms=NOW_MS + 30 * DAY_MS)]}
    (example,) = examples_of(bought, NOW_MS + 10 * DAY_MS, NOW_MS + 50 * DAY_MS, Slice.TEST)
    assert [stayed_away([example], days)[0] for days in (19, 20, 40)] == [1, 0, 0]
    assert np.isnan(stayed_away([example], 41)[0])


def test_rfm_features_are_as_of_the_landmark() -> None:
    days = (0, 10, 40)
    bought = {"u": [purchase(event_time_ms=NOW_MS + day * DAY_MS, event_id=str(day)) for day in days]}
    (example,) = examples_of(bought, NOW_MS + 50 * DAY_MS, NOW_MS + 60 * DAY_MS, Slice.TEST)
    frequency, since, tenure, span, gap, ratio, money, *windows = rfm_features([example])[0]
    assert (np.expm1(frequency), since, tenure, span, gap, ratio) == pytest.approx((3, 10, 50, 40, 20, 0.5))
    assert np.expm1(money) == pytest.approx(3 * 1500)
    assert windows == [1, 3, 3]


@pytest.mark.parametrize("baseline", [recency, rfm_logistic, gradient_boosting, bg_nbd])
def test_every_churn_baseline_tells_who_stays_away_of_later_users(examples: list[Example], baseline) -> None:  # type: ignore[no-untyped-def]
    train, test = split(examples)
    away = stayed_away(test, 30)
    known = ~np.isnan(away)
    found = baseline(train, test, 30)
    assert ((found >= 0) & (found <= 1)).all()
    assert roc_auc_score(away[known], found[known]) > 0.75
    assert abs(found[known].mean() - away[known].mean()) < 0.15


def test_majority_gives_everybody_the_training_share(examples: list[Example]) -> None:
    train, test = split(examples)
    assert set(majority(train, test, 30)) == {np.nanmean(stayed_away(train, 30))}


def test_a_horizon_longer_than_the_training_slices_is_refused_with_what_was_found(examples: list[Example]) -> None:
    train, test = split(examples)
    with pytest.raises(CannotFit, match="found 0 training examples of users who stayed away for 360 days"):
        rfm_logistic(train, test, 360)


def simulated_buyers(truth: Parameters, count: int, tenure: float, horizon: float, seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    repeats, last, later = np.zeros(count), np.zeros(count), np.zeros(count)
    for user in range(count):
        rate, leaving = rng.gamma(truth.r, 1 / truth.alpha), rng.beta(truth.a, truth.b)
        at = 0.0
        while (at := at + rng.exponential(1 / rate)) < tenure + horizon:
            if at < tenure:
                repeats[user] += 1
                last[user] = at
            else:
                later[user] += 1
            if rng.random() < leaving:
                break
    return repeats, last, later


def test_bg_nbd_finds_the_rates_it_was_made_of_and_expects_what_comes() -> None:
    truth = Parameters(r=0.8, alpha=20.0, a=0.9, b=2.5)
    repeats, last, later = simulated_buyers(truth, 4000, tenure=200, horizon=90, seed=2)
    tenure = np.full(4000, 200.0)
    found = bg_nbd_model.fit(repeats, last, tenure)
    assert found.r / found.alpha == pytest.approx(truth.r / truth.alpha, rel=0.15)
    assert found.a / (found.a + found.b) == pytest.approx(truth.a / (truth.a + truth.b), rel=0.15)
    assert expected_purchases(found, repeats, last, tenure, 90).mean() == pytest.approx(later.mean(), rel=0.1)


def test_bg_nbd_does_not_call_those_who_bought_once_the_safest() -> None:
    found = Parameters(r=0.8, alpha=20.0, a=0.9, b=2.5)
    once, often = expected_purchases(found, np.array([0.0, 9.0]), np.array([0.0, 195.0]), np.array([200.0, 200.0]), 90)
    assert often > 5 * once


def test_bg_nbd_says_so_when_it_does_not_converge() -> None:
    with pytest.raises(CannotFit, match="does not converge on 3 users"):
        bg_nbd_model.fit(np.array([np.nan, 1.0, 2.0]), np.ones(3), np.full(3, 9.0))


def test_category_baselines_rank_what_a_user_bought_above_what_is_popular(examples: list[Example]) -> None:
    train, test = split(examples)
    asked = [example for example in test if example.categories]
    wanted = relevant_labels(asked, LABELS)
    scores = rank_categories(train, asked, LABELS, {})
    first = {name: (wanted[np.arange(len(asked)), found.argmax(1)]).mean() for name, found in scores.items()}
    assert min(first["personal_frequency"], first["logistic"], first["co_occurrence"]) > first["popularity"] + 0.1


def test_interest_is_read_off_the_items_where_events_carry_no_category(examples: list[Example]) -> None:
    bare = [history_entry(item_id="mug", category=None), history_entry(item_id="rake", category=None)]
    (example,) = examples_of({"u": [purchase()]}, NOW_MS, NOW_MS, Slice.TEST)
    request = msgspec.structs.replace(example.request, categories=[], history=bare)
    (shares,) = own_shares([msgspec.structs.replace(example, request=request)], LABELS, {"rake": "garden"})
    assert shares.tolist() == [0, 1, 0, 0]


def test_item_baselines_know_what_goes_together() -> None:
    learnt = [["tea", "milk"], ["tea", "milk"], ["paint", "brush"], ["paint", "brush"], ["tea", "sugar"], ["salt"]]
    asked = [["tea"], ["paint"]]
    assert [row[0] for row in item_baselines.co_occurrence(learnt, asked)] == ["milk", "brush"]
    assert [row[0] for row in item_baselines.nearest_sequences(learnt, asked)] == ["milk", "brush"]
    assert item_baselines.popularity(learnt, asked)[0][0] == "tea"
    assert item_baselines.personal_frequency(learnt, [["salt", "salt", "brush"]])[0][:2] == ["salt", "brush"]


def test_personal_frequency_counts_earlier_slices_only_where_it_has_memory() -> None:
    (example,) = examples_of({"u": [purchase()]}, NOW_MS, NOW_MS, Slice.TRAIN)
    before, now = (
        msgspec.structs.replace(
            example, request=msgspec.structs.replace(example.request, history=[history_entry(item_id=item)]), items=after
        )
        for item, after in (("rake", ("rake", "rake")), ("mug", ()))
    )
    found = item_baselines.rank_items([before], [now])
    assert found["personal_frequency"][0][0] == "mug"
    assert found["personal_frequency_with_memory"][0][0] == "rake"


def test_newer_sequences_count_more_where_they_are_weighted() -> None:
    learnt = [["tea", "milk"], ["tea", "sugar"]]
    assert item_baselines.co_occurrence(learnt, [["tea"]], [1.0, 0.1])[0][0] == "milk"
    assert item_baselines.co_occurrence(learnt, [["tea"]], [0.1, 1.0])[0][0] == "sugar"


def test_item_lists_are_ranked_for_users_of_whom_nothing_is_known() -> None:
    for baseline in (item_baselines.popularity, item_baselines.personal_frequency, item_baselines.co_occurrence):
        assert baseline([["tea", "milk"], ["tea"]], [[]])[0] == ["tea", "milk"]


def test_a_users_sequence_is_history_then_what_followed_each_item_once(examples: list[Example]) -> None:
    made = made_purchases(40, seed=3)
    looks = [examples_of(made, NOW_MS + day * DAY_MS, NOW_MS + 200 * DAY_MS, Slice.TRAIN) for day in (60, 120)]
    found = item_baselines.sequences_of([example for look in looks for example in look])
    user, bought = next((user, bought) for user, bought in made.items() if 2 <= len(bought) <= 6 and user in found)
    assert set(found[user]) <= {event.lines[0].item_id for event in bought}


def test_words_and_characters_tell_the_sentiment_of_english_and_chinese() -> None:
    english = ["good mug", "good cup", "bad mug", "bad cup"] * 5
    chinese = ["很好用", "很好吃", "太差了", "太差劲"] * 5
    truth = np.array([1, 1, 0, 0] * 5)
    for texts, cut, asked in ((english, words, ["good plate"]), (chinese, characters, ["质量很好"])):
        (found,) = tf_idf((texts, truth), ([], truth[:0]), asked, 3, cut)
        assert found[1] > 0.6
        assert found[2] == 0
    assert text_majority(truth, 2, 1).tolist() == [[0.5, 0.5]]
