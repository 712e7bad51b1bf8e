import pytest

from models.data.examples import Example, Purchases, Slice, churned_within, silent_ms
from models.data.labels import Activity, Labelling, activities_of, label
from models.data.landmarks import Sample
from schemas.time_units import DAY_MS, MINUTE_MS
from tests.builders import NOW_MS, click, history_entry, purchase, purchase_line, score_request, visit

FAR_MS = NOW_MS + 400 * DAY_MS


def did(after_ms: int, item: str | None = None, category: str | None = None, *, bought: bool = False) -> Activity:
    return Activity(NOW_MS + after_ms, item, category, bought)


def labelled(
    *done: Activity,
    silent_ms: int = 0,
    until_ms: int = FAR_MS,
    how: Labelling | None = None,
    since_ms: int | None = None,
    clusters: dict[str, str] | None = None,
) -> Example:
    bought = Purchases() if since_ms is None else Purchases(1, since_ms, since_ms)
    look = Sample(score_request(history=[history_entry()]), NOW_MS + silent_ms, Slice.TRAIN, bought)
    return label(look, done, until_ms, how or Labelling(), clusters)


def test_nothing_at_or_before_the_landmark_is_in_a_label() -> None:
    example = labelled(did(-DAY_MS, "a", "x"), did(0, "b", "y"), did(3 * DAY_MS, "c", "z"), silent_ms=3 * DAY_MS)

    assert (example.items, example.categories, example.absent_ms) == (None, None, None)


def test_what_another_topic_showed_of_the_time_after_the_events_own_is_past_too() -> None:
    history = [history_entry(), history_entry(event_time_ms=NOW_MS + 5 * MINUTE_MS)]
    look = Sample(score_request(history=history), NOW_MS + 5 * MINUTE_MS, Slice.TRAIN, Purchases())

    example = label(look, [did(5 * MINUTE_MS, "a"), did(DAY_MS, "b")], FAR_MS, Labelling())

    assert example.items == ("b",)
    assert example.absent_ms == DAY_MS - 5 * MINUTE_MS


def test_absence_and_sight_are_counted_from_the_newest_event_seen_not_from_the_landmark() -> None:
    example = labelled(did(9 * DAY_MS), silent_ms=4 * DAY_MS, until_ms=NOW_MS + 20 * DAY_MS)

    assert (example.absent_ms, example.observed_ms, silent_ms(example)) == (9 * DAY_MS, 20 * DAY_MS, 4 * DAY_MS)


def test_activity_of_the_same_session_is_no_return() -> None:
    assert labelled(did(29 * MINUTE_MS)).absent_ms is None
    assert labelled(did(29 * MINUTE_MS), did(30 * MINUTE_MS)).absent_ms == 30 * MINUTE_MS


def test_labels_see_nothing_from_the_end_of_their_slice_on() -> None:
    example = labelled(did(10 * DAY_MS, "a", "x"), until_ms=NOW_MS + 10 * DAY_MS)

    assert (example.items, example.absent_ms, example.observed_ms) == (None, None, 10 * DAY_MS)


def test_with_purchases_as_returns_silence_runs_from_the_newest_purchase_seen() -> None:
    how = Labelling(returns="purchase")
    browsed, bought = did(2 * DAY_MS, "a"), did(5 * DAY_MS, "b", bought=True)

    example = labelled(browsed, bought, silent_ms=DAY_MS, since_ms=NOW_MS - 3 * DAY_MS, how=how)

    assert (example.absent_ms, silent_ms(example)) == (8 * DAY_MS, 4 * DAY_MS)
    assert example.observed_ms == FAR_MS - NOW_MS + 3 * DAY_MS


def test_a_user_who_never_bought_teaches_nothing_of_purchases_as_returns() -> None:
    example = labelled(did(DAY_MS, "a", bought=True), how=Labelling(returns="purchase"))

    assert (example.absent_ms, example.observed_ms) == (None, 0)
    assert churned_within(example, 1) is None


def test_interest_is_the_distinct_categories_of_the_next_ten_interactions_in_order() -> None:
    ten = [did(i * MINUTE_MS, f"item-{i}", "garden" if i % 2 else "books") for i in range(1, 11)]

    example = labelled(did(1), *ten, did(DAY_MS, "item-11", "toys"))

    assert example.categories == ("garden", "books")
    assert example.items == tuple(f"item-{i}" for i in range(1, 11))


def test_an_item_that_comes_again_is_one_of_the_next_items_once() -> None:
    assert labelled(did(1, "a"), did(2, "b"), did(3, "a")).items == ("a", "b")


def test_few_interactions_are_all_there_were_only_after_two_weeks_of_sight() -> None:
    few = [did(MINUTE_MS, "a", "garden"), did(2 * MINUTE_MS, "b", "books")]

    assert labelled(*few, until_ms=NOW_MS + 14 * DAY_MS).categories == ("garden", "books")
    assert labelled(*few, until_ms=NOW_MS + 13 * DAY_MS).categories is None
    assert labelled(*few, until_ms=NOW_MS + 13 * DAY_MS).items is None
    assert labelled().categories is None


def test_items_may_be_asked_for_within_a_few_days_only() -> None:
    how = Labelling(item_days=7)
    done = [did(DAY_MS, "a"), did(8 * DAY_MS, "b")]

    assert labelled(*done, how=how).items == ("a",)
    assert labelled(*done, how=how, until_ms=NOW_MS + 6 * DAY_MS).items is None


def test_clusters_name_the_category_of_items_that_have_none() -> None:
    done = [did(1, "a"), did(2, "b", "books"), did(3, "c")]

    assert labelled(*done, clusters={"a": "mugs", "b": "never"}).categories == ("mugs", "books")


def test_goods_sent_back_are_activity_but_no_item_and_no_purchase() -> None:
    lines = [purchase_line(item_id="a"), purchase_line(item_id="b", returned=True)]

    assert [(done.item_id, done.bought) for done in activities_of(purchase(lines=lines))] == [("a", True)]
    assert [(done.item_id, done.bought) for done in activities_of(purchase(lines=lines[1:]))] == [(None, False)]
    assert [(done.item_id, done.bought) for done in activities_of(click(item_id="c"))] == [("c", False)]
    assert [done.item_id for done in activities_of(visit())] == [None]


@pytest.mark.parametrize(
    ("absent_days", "observed_days", "expected"),
    [
        (None, 40, True),
        (None, 34, None),
        (33, 40, False),
        (35, 40, False),
        (36, 40, True),
        (10, 34, None),
    ],
)
def test_churn_is_known_only_where_the_horizon_was_watched_to_its_end(
    absent_days: int | None, observed_days: int, expected: bool | None
) -> None:
    example = Example(
        request=score_request(history=[]),
        landmark_ms=NOW_MS + 5 * DAY_MS,
        slice=Slice.TEST,
        observed_ms=observed_days * DAY_MS,
        absent_ms=None if absent_days is None else absent_days * DAY_MS,
    )

    assert churned_within(example, 30) is expected
