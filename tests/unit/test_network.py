import msgspec
import numpy as np
import pytest
import torch

from models.network import (
    TIME_BUCKETS,
    Batch,
    Network,
    NetworkConfig,
    Normalisation,
    Rows,
    arrange,
    collate,
    fit_normalisation,
    survival_curve,
)
from schemas.scoring import ScoreRequest
from tests.builders import DAY_MS, NOW_MS, history_entry, score_request

LABELS = ["garden", "kitchen"]
CONFIG = NetworkConfig(text_dimension=8, features=3, labels=2, horizons=6, width=16, heads=2, max_events=20)
PLAIN = Normalisation([0.0] * 3, [1.0] * 3)
MINUTE_MS = 60_000


def shopper(events: int, **changes: object) -> ScoreRequest:
    start = NOW_MS - events * MINUTE_MS
    kinds = ("visit", "browse", "click", "search", "purchase", "rating")
    history = [
        history_entry(event_time_ms=start + i * MINUTE_MS, kind=kinds[i % 6], amount=100 * i, text=f"thing {i % 7}")
        for i in range(events)
    ]
    return score_request(history=history, **changes)


def batch_of(*requests: ScoreRequest) -> Batch:
    rows, texts = arrange(requests, LABELS, CONFIG.max_events)
    return collate(rows, np.arange(len(requests)), text_table(texts), PLAIN)


def text_table(texts: list[str]) -> np.ndarray:
    """A fixed vector for each text, whatever its row."""
    known = [np.random.default_rng(abs(sum(text.encode()))).normal(size=8) for text in texts]
    return np.array([np.zeros(8), *known], np.float32)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(CONFIG).eval()


def test_later_events_do_not_change_earlier_states(network: Network) -> None:
    seen = shopper(12)
    changed = [msgspec.structs.replace(entry, kind="review", category="garden", text="thing 0") for entry in seen.history[7:]]
    other = msgspec.structs.replace(seen, history=seen.history[:7] + changed)

    with torch.inference_mode():
        before, after = network.states(batch_of(seen)), network.states(batch_of(other))

    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_padding_and_neighbours_do_not_matter(network: Network) -> None:
    short = shopper(3)

    with torch.inference_mode():
        alone, padded = network(batch_of(short)), network(batch_of(shopper(20), short, shopper(0)))

    for one, many in zip(alone, padded, strict=True):
        torch.testing.assert_close(one[0], many[1], atol=1e-5, rtol=1e-5)


def test_a_user_without_history_still_gets_logits(network: Network) -> None:
    with torch.inference_mode():
        logits = network(batch_of(shopper(0)))

    assert [tuple(part.shape) for part in logits] == [(1, 2), (1, 6), (1,)]
    assert all(torch.isfinite(part).all() for part in logits)


def test_survival_only_falls_and_is_the_product_of_not_returning() -> None:
    hazards = np.random.default_rng(1).uniform(size=(100, 6))

    survival = survival_curve(hazards)

    assert (np.diff(survival, axis=1) <= 0).all()
    assert ((survival >= 0) & (survival <= 1)).all()
    np.testing.assert_allclose(survival_curve(np.array([[0.5, 0.2]])), [[0.5, 0.4]])


def test_only_the_newest_events_are_read() -> None:
    rows, _ = arrange([shopper(30)], LABELS, max_events=20)

    assert rows.lengths[0] == 20
    assert rows.amounts.shape == (1, 20)
    assert rows.ages[0, -1] < rows.ages[0, 0]


def test_an_event_is_read_by_its_category_where_it_has_no_text() -> None:
    entries = [history_entry(text=None, category="garden"), history_entry(text="", category=None), history_entry()]

    rows, texts = arrange([score_request(history=entries)], LABELS, 20)

    assert texts == ["garden", "Blue mug"]
    assert rows.texts[0, :3].tolist() == [1, 0, 2]
    assert rows.categories[0, :3].tolist() == [1, 0, 2]


def test_a_review_is_read_in_full_for_sentiment_and_a_query_is_not() -> None:
    review = score_request(kind="review", text="Lovely", history=[])
    search = score_request(kind="search", text="mug", history=[])

    rows, texts = arrange([review, search], LABELS, 20)

    assert texts == ["Lovely"]
    assert rows.reviews.tolist() == [1, 0]


def test_categories_that_are_no_label_are_left_out() -> None:
    rows, _ = arrange([score_request(categories=[("unheard of", 0.75), ("kitchen", 0.25)])], LABELS, 20)

    assert rows.shares.tolist() == [[0.0, 0.25]]


def test_stars_are_read_on_their_own_scale_and_returned_money_is_negative() -> None:
    entries = [history_entry(kind="rating", amount=50_000), history_entry(kind="purchase", amount=-2_000)]

    rows, _ = arrange([score_request(history=entries)], LABELS, 20)

    assert rows.amounts[0, 0] == 1
    assert rows.amounts[0, 1] < 0


def test_times_from_the_future_to_years_ago_have_a_bucket() -> None:
    entries = [history_entry(event_time_ms=NOW_MS + shift) for shift in (-4_000 * DAY_MS, -60 * DAY_MS, -1_000, 0, 5_000)]

    ages = arrange([score_request(history=entries)], LABELS, 20)[0].ages[0, :5].tolist()

    assert ages == sorted(ages, reverse=True)
    assert ages[0] == TIME_BUCKETS - 1
    assert ages[3] == ages[4] == 0


def test_normalised_training_features_have_mean_zero_and_deviation_one_and_unknown_ones_are_marked() -> None:
    requests = [score_request(features=[float(10**i), None if i > 1 else float(i), 7.0]) for i in range(6)]
    rows, texts = arrange(requests, LABELS, 20)

    numbers = collate(rows, np.arange(6), text_table(texts), fit_normalisation(rows.features)).numbers.numpy()

    np.testing.assert_allclose([numbers[:, 0].mean(), numbers[:, 0].std()], [0, 1], atol=1e-3)
    np.testing.assert_allclose(numbers[:, 1], [-1, 1, 0, 0, 0, 0], atol=1e-3)
    assert numbers[:, 4].tolist() == [0, 0, 1, 1, 1, 1]


def test_features_that_never_varied_in_training_are_not_read() -> None:
    rows, texts = arrange([score_request(features=[1.0 + i, None, 7.0]) for i in range(6)], LABELS, 20)
    normalisation = fit_normalisation(rows.features)
    surprise, _ = arrange([score_request(features=[1.0, 1e9, None])], LABELS, 20)

    numbers = collate(surprise, np.arange(1), text_table(texts), normalisation).numbers.numpy()

    assert numbers[0, 1:6].tolist() == [0.0] * 5


def test_rows_are_picked_in_the_order_asked_for() -> None:
    rows, texts = arrange([shopper(2), shopper(9), shopper(5)], LABELS, 20)

    batch = collate(rows, np.array([2, 0]), text_table(texts), PLAIN)

    assert isinstance(rows, Rows)
    assert batch.lengths.tolist() == [5, 2]
    assert batch.kinds.shape == (2, 8)
