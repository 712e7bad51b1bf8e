"""Events that carry no category are read as of their items', wherever a model knows them."""

import pytest

from models.network.inputs import arrange, vocabulary
from models.serving.item_categories import HALF_LIFE_DAYS, with_item_categories
from schemas.time_units import DAY_MS
from tests.builders import NOW_MS, history_entry, score_request

CATEGORIES = {"mug-1": "kitchen", "rake-1": "garden"}
KNOWN = vocabulary(["garden", "kitchen"])


def test_an_event_without_a_category_is_read_as_its_items() -> None:
    bare = [history_entry(item_id=item, category=None) for item in ("rake-1", "mug-1", "unheard-of", None)]

    (filled,) = with_item_categories([score_request(history=bare, categories=[])], CATEGORIES)

    assert [entry.category for entry in filled.history] == ["garden", "kitchen", None, None]
    assert arrange([filled], KNOWN, 20)[0].categories[0, :4].tolist() == [1, 2, 0, 0]


def test_what_an_event_says_itself_wins_over_the_items_category() -> None:
    request = score_request(history=[history_entry(item_id="rake-1", category="kitchen")], categories=[("kitchen", 1.0)])

    assert with_item_categories([request], CATEGORIES) == [request]


def test_shares_that_a_request_lacks_are_those_of_its_history_newer_and_weightier_events_first() -> None:
    old, new = NOW_MS - HALF_LIFE_DAYS * DAY_MS, NOW_MS
    history = [
        history_entry(event_time_ms=old, kind="purchase", item_id="rake-1", category=None),  # weight 5, halved
        history_entry(event_time_ms=new, kind="click", item_id="mug-1", category=None),  # weight 2
        history_entry(event_time_ms=new, kind="visit", item_id=None, category=None, text=None),
    ]

    (filled,) = with_item_categories([score_request(history=history, categories=[])], CATEGORIES)

    assert [name for name, _ in filled.categories] == ["garden", "kitchen"]
    assert [share for _, share in filled.categories] == pytest.approx([2.5 / 4.5, 2 / 4.5])
    assert arrange([filled], KNOWN, 20)[0].shares[0].tolist() == pytest.approx([2.5 / 4.5, 2 / 4.5])


def test_a_user_of_whom_no_category_is_known_has_no_shares() -> None:
    looks = [history_entry(kind="visit", item_id=None, category=None), history_entry(item_id="unheard-of", category=None)]

    for history in ([], looks):
        (filled,) = with_item_categories([score_request(history=history, categories=[])], CATEGORIES)
        assert filled.categories == []
