import msgspec
import numpy as np
import pytest
import torch

from models.network.inputs import (
    RARE_ITEMS,
    TIME_BUCKETS,
    Batch,
    Normalisation,
    Rows,
    arrange,
    collate,
    fit_normalisation,
    vocabulary,
)
from models.network.network import Network, NetworkConfig
from models.network.rhythm import RHYTHM_NAMES
from schemas.scoring import ScoreRequest
from schemas.time_units import DAY_MS, MINUTE_MS
from tests.builders import NOW_MS, history_entry, score_request

LABELS = ["garden", "kitchen"]
KNOWN = vocabulary(LABELS)
FEATURES = 3
NUMBERS = FEATURES + len(RHYTHM_NAMES)
CONFIG = NetworkConfig(text_dimension=8, numbers=NUMBERS, labels=2, horizons=6, width=16, heads=2, max_events=20)
PLAIN = Normalisation([0.0] * NUMBERS, [1.0] * NUMBERS)


def shopper(events: int, **changes: object) -> ScoreRequest:
    start = NOW_MS - events * MINUTE_MS
    kinds = ("visit", "browse", "click", "search", "purchase", "rating")
    history = [
        history_entry(event_time_ms=start + i * MINUTE_MS, kind=kinds[i % 6], amount=100 * i, text=f"thing {i % 7}")
        for i in range(events)
    ]
    return score_request(history=history, **changes)


def batch_of(*requests: ScoreRequest) -> Batch:
    rows, texts = arrange(requests, KNOWN, CONFIG.max_events)
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

    assert [tuple(part.shape) for part in logits] == [(1, 2), (1, 6), (1,), (1, 0), (1, 0)]
    assert all(torch.isfinite(part).all() for part in logits)


def test_only_the_newest_events_are_read() -> None:
    rows, _ = arrange([shopper(30)], KNOWN, max_events=20)

    assert rows.lengths[0] == 20
    assert rows.amounts.shape == (1, 20)
    assert rows.ages[0, -1] < rows.ages[0, 0]


def test_an_event_is_read_by_its_category_where_it_has_no_text() -> None:
    entries = [history_entry(text=None, category="garden"), history_entry(text="", category=None), history_entry()]

    rows, texts = arrange([score_request(history=entries)], KNOWN, 20)

    assert texts == ["garden", "Blue mug"]
    assert rows.texts[0, :3].tolist() == [1, 0, 2]
    assert rows.categories[0, :3].tolist() == [1, 0, 2]


def test_a_review_is_read_in_full_for_sentiment_and_a_query_is_not() -> None:
    review = score_request(kind="review", text="Lovely", history=[])
    search = score_request(kind="search", text="mug", history=[])

    rows, texts = arrange([review, search], KNOWN, 20)

    assert texts == ["Lovely"]
    assert rows.reviews.tolist() == [1, 0]


def test_categories_that_are_no_label_are_left_out() -> None:
    rows, _ = arrange([score_request(categories=[("unheard of", 0.75), ("kitchen", 0.25)])], KNOWN, 20)

    assert rows.shares.tolist() == [[0.0, 0.25]]


def test_stars_are_read_on_their_own_scale_and_returned_money_is_negative() -> None:
    entries = [history_entry(kind="rating", amount=50_000), history_entry(kind="purchase", amount=-2_000)]

    rows, _ = arrange([score_request(history=entries)], KNOWN, 20)

    assert rows.amounts[0, 0] == 1
    assert rows.amounts[0, 1] < 0


def test_times_from_the_future_to_years_ago_have_a_bucket() -> None:
    entries = [history_entry(event_time_ms=NOW_MS + shift) for shift in (-4_000 * DAY_MS, -60 * DAY_MS, -1_000, 0, 5_000)]

    ages = arrange([score_request(history=entries)], KNOWN, 20)[0].ages[0, :5].tolist()

    assert ages == sorted(ages, reverse=True)
    assert ages[0] == TIME_BUCKETS - 1
    assert ages[3] == ages[4] == 0


def test_normalised_training_features_have_mean_zero_and_deviation_one_and_unknown_ones_are_marked() -> None:
    requests = [score_request(features=[float(10**i), None if i > 1 else float(i), 7.0]) for i in range(6)]
    rows, texts = arrange(requests, KNOWN, 20)

    numbers = collate(rows, np.arange(6), text_table(texts), fit_normalisation(rows.features)).numbers.numpy()

    np.testing.assert_allclose([numbers[:, 0].mean(), numbers[:, 0].std()], [0, 1], atol=1e-3)
    np.testing.assert_allclose(numbers[:, 1], [-1, 1, 0, 0, 0, 0], atol=1e-3)
    assert numbers[:, NUMBERS + 1].tolist() == [0, 0, 1, 1, 1, 1]


def test_features_that_never_varied_in_training_are_not_read() -> None:
    rows, texts = arrange([score_request(features=[1.0 + i, None, 7.0]) for i in range(6)], KNOWN, 20)
    normalisation = fit_normalisation(rows.features)
    surprise, _ = arrange([score_request(features=[1.0, 1e9, None])], KNOWN, 20)

    numbers = collate(surprise, np.arange(1), text_table(texts), normalisation).numbers.numpy()

    assert numbers[0, 1:FEATURES].tolist() == [0.0] * 2
    assert numbers[0, NUMBERS : NUMBERS + FEATURES].tolist() == [0.0] * 3


def test_rows_are_picked_in_the_order_asked_for() -> None:
    rows, texts = arrange([shopper(2), shopper(9), shopper(5)], KNOWN, 20)

    batch = collate(rows, np.array([2, 0]), text_table(texts), PLAIN)

    assert isinstance(rows, Rows)
    assert batch.lengths.tolist() == [5, 2]
    assert batch.kinds.shape == (2, 8)


def test_a_causal_network_does_not_read_how_long_ago_an_event_was() -> None:
    torch.manual_seed(0)
    causal = Network(msgspec.structs.replace(CONFIG, causal=True)).eval()
    batch = batch_of(shopper(4))
    later = batch._replace(ages=batch.ages + 3)

    with torch.inference_mode():
        torch.testing.assert_close(causal.states(batch), causal.states(later))


def test_known_items_have_rows_of_their_own_and_rare_ones_share_some() -> None:
    known = vocabulary(LABELS, ["mug", "lamp"])
    entries = [history_entry(item_id=item) for item in ("lamp", None, "unheard of")]

    rows, _ = arrange([score_request(history=entries)], known, 20)

    assert rows.items[0, :2].tolist() == [2, 0]
    assert 2 < rows.items[0, 2] <= 2 + RARE_ITEMS


def test_a_network_with_items_ranks_them_and_reads_them() -> None:
    known, config = vocabulary(LABELS, ["mug", "lamp"]), msgspec.structs.replace(CONFIG, items=2)
    torch.manual_seed(0)
    ranks = Network(config).eval()
    requests = [score_request(history=[history_entry(item_id=item)]) for item in ("mug", "lamp")]
    rows, texts = arrange(requests, known, 20)

    with torch.inference_mode():
        batch = collate(rows, np.arange(2), text_table(texts), PLAIN)
        items = ranks(batch).items
        user = ranks.now(ranks.states(batch), batch)
        some = ranks.item_logits(user, torch.tensor([1]))

    assert items.shape == (2, 2)
    assert not torch.allclose(items[0], items[1])
    torch.testing.assert_close(some[:, 0], items[:, 1])


def test_a_blend_is_between_the_network_and_the_plain_model() -> None:
    torch.manual_seed(0)
    blended = Network(CONFIG).eval()
    torch.nn.init.normal_(blended.plain.hazards.weight)
    batch = batch_of(shopper(4))

    def hazards(share: float) -> torch.Tensor:
        blended.plain.shares[0] = share
        with torch.inference_mode():
            return blended(batch).hazards

    alone, plain, half = hazards(1.0), hazards(0.0), hazards(0.5)

    torch.testing.assert_close(plain, blended.plain.hazards(batch.numbers).detach())
    torch.testing.assert_close(half, (alone + plain) / 2)
