from typing import Any

import msgspec
import pytest

from models.dataset import (
    HORIZONS_DAYS,
    Activity,
    Example,
    Sample,
    Split,
    collect_activities,
    label,
    label_return,
    label_sample,
    sample_requests,
    split_by_time,
)
from schemas.scoring import ScoreRequest
from tests.builders import (
    DAY_MS,
    NOW_MS,
    browse,
    click,
    history_entry,
    purchase,
    purchase_line,
    rating,
    review,
    score_request,
    visit,
)

FAR_MS = NOW_MS + 400 * DAY_MS
MINUTE_MS = 60_000
NEVER = (None,) * len(HORIZONS_DAYS)


def request(**changes: Any) -> ScoreRequest:
    return score_request(**{"history": [history_entry()]} | changes)


def did(after_ms: int, category: str | None = None, kind: str = "browse") -> Activity:
    return Activity(NOW_MS + after_ms, kind, category)


def labelled(*activities: Activity, until_ms: int = FAR_MS) -> Example:
    return label(request(), list(activities), until_ms)


def test_nothing_that_a_request_has_seen_is_in_its_labels() -> None:
    past = [did(-5 * DAY_MS, "garden"), did(0, "kitchen"), did(0, "kitchen", "click")]

    example = labelled(*past)

    assert example.interest is None
    assert example.absent_ms is None


def test_an_event_of_another_topic_newer_than_the_requests_own_is_past_too() -> None:
    history = [history_entry(), history_entry(event_time_ms=NOW_MS + 5 * MINUTE_MS, category="garden")]

    example = label(request(history=history), [did(5 * MINUTE_MS, "garden"), did(6 * MINUTE_MS, "books")], FAR_MS)

    assert example.interest == {"books"}


def test_interest_is_the_categories_of_the_next_ten_interactions() -> None:
    ten = [did(i * MINUTE_MS, "garden" if i % 2 else "books") for i in range(1, 11)]

    example = labelled(did(1, None, "visit"), *ten, did(DAY_MS, "toys"))

    assert example.interest == {"garden", "books"}


def test_few_interactions_are_all_there_were_only_after_two_weeks_of_sight() -> None:
    few = [did(MINUTE_MS, "garden"), did(2 * MINUTE_MS, "books")]

    assert labelled(*few, until_ms=NOW_MS + 14 * DAY_MS).interest == {"garden", "books"}
    assert labelled(*few, until_ms=NOW_MS + 13 * DAY_MS).interest is None
    assert labelled().interest is None


def test_activity_of_the_same_session_is_no_return() -> None:
    assert labelled(did(29 * MINUTE_MS)).absent_ms is None
    assert labelled(did(29 * MINUTE_MS), did(30 * MINUTE_MS)).absent_ms == 30 * MINUTE_MS


@pytest.mark.parametrize(
    ("absent_days", "expected"),
    [
        (0.5, (True, None, None, None, None, None)),
        (1, (True, None, None, None, None, None)),
        (5, (False, False, True, None, None, None)),
        (60, (False, False, False, False, False, True)),
        (61, (False, False, False, False, False, False)),
        (None, (False, False, False, False, False, False)),
    ],
)
def test_a_user_is_at_risk_until_the_bin_of_the_return(absent_days: float | None, expected: tuple[bool | None, ...]) -> None:
    absent_ms = None if absent_days is None else round(absent_days * DAY_MS)

    assert label_return(absent_ms, 400 * DAY_MS) == expected


def test_a_bin_cut_by_the_end_of_sight_is_unknown_even_with_a_return_in_it() -> None:
    assert label_return(None, 10 * DAY_MS) == (False, False, False, None, None, None)
    assert label_return(9 * DAY_MS, 10 * DAY_MS) == (False, False, False, None, None, None)
    assert label_return(2 * DAY_MS, 10 * DAY_MS) == (False, True, None, None, None, None)
    assert label_return(None, DAY_MS - 1) == NEVER


def test_labels_see_nothing_beyond_the_end_of_their_slice() -> None:
    split = Split(train_until_ms=NOW_MS + DAY_MS, calibration_until_ms=NOW_MS + 10 * DAY_MS, test_until_ms=FAR_MS)
    activities = {"u-1": [did(2 * DAY_MS, "garden")]}
    later = request(request_id="later", event_time_ms=NOW_MS + DAY_MS, history=[])
    last = request(request_id="last", event_time_ms=NOW_MS + 10 * DAY_MS, history=[])
    beyond = request(request_id="beyond", event_time_ms=FAR_MS, history=[])

    slices = label_sample(Sample([request(), later, last, beyond], []), activities, split)

    assert [[example.request.request_id for example in part] for part in slices] == [["request-1"], ["later"], ["last"]]
    assert [(part[0].absent_ms, part[0].observed_ms) for part in slices] == [
        (None, DAY_MS),
        (DAY_MS, 9 * DAY_MS),
        (None, FAR_MS - NOW_MS - 10 * DAY_MS),
    ]


@pytest.mark.parametrize(("stars", "positive"), [(5.0, True), (4.0, True), (3.0, None), (2.0, False), (1.0, False)])
def test_a_review_is_called_by_the_stars_for_the_same_item(stars: float, positive: bool | None) -> None:
    events = [
        review(item_id="mug-1"),
        rating(item_id="mug-1", rating=stars, event_time_ms=NOW_MS + 9_000),
        rating(item_id="mug-1", rating=3.0, event_time_ms=NOW_MS - DAY_MS),
        rating(item_id="mug-2", rating=3.0, event_time_ms=NOW_MS + 1_000),
    ]
    reviewed = request(kind="review", text="Words.")

    activities = collect_activities(events)["u-1"]

    assert label(reviewed, activities, FAR_MS).positive is positive
    assert label(request(kind="click"), activities, FAR_MS).positive is None


def test_a_review_without_stars_for_its_item_near_its_time_is_not_called() -> None:
    reviewed = request(kind="review", text="Words.")
    far = collect_activities([review(), rating(rating=5.0, event_time_ms=NOW_MS + 8 * DAY_MS)])["u-1"]

    assert label(reviewed, far, FAR_MS).positive is None
    assert label(reviewed, [], FAR_MS).positive is None


def test_activities_are_sorted_and_an_event_that_came_twice_counts_once() -> None:
    lines = [purchase_line(), purchase_line(item_id="spade", category="garden"), purchase_line(item_id="x", returned=True)]
    events = [
        purchase(lines=lines),
        click(event_time_ms=NOW_MS - 5),
        click(event_time_ms=NOW_MS - 5),
        browse(),
        visit(user_id="b"),
    ]

    activities = collect_activities(events)

    assert [(done.kind, done.category) for done in activities["u-1"]] == [
        ("click", "kitchen"),
        ("browse", "kitchen"),
        ("purchase", "kitchen"),
        ("purchase", "garden"),
    ]
    assert activities["b"] == [Activity(NOW_MS, "visit")]


def test_bringing_goods_back_is_activity_but_no_interest() -> None:
    activities = collect_activities([purchase(lines=[purchase_line(returned=True)])])

    assert activities["u-1"] == [Activity(NOW_MS, "purchase")]


def test_every_user_is_drawn_from_alike_and_the_same_seed_draws_the_same() -> None:
    requests = [
        request(request_id=f"{user}-{i}", user_id=f"user-{user}", event_time_ms=NOW_MS + i)
        for i in range(200)
        for user in range(5)
    ]

    sample = sample_requests(requests, per_user=8, max_requests=1_000, seed=3)

    assert len(sample.requests) == 40
    assert sample == sample_requests(requests, per_user=8, max_requests=1_000, seed=3)
    assert sample != sample_requests(requests, per_user=8, max_requests=1_000, seed=4)
    assert len(sample_requests(requests, per_user=8, max_requests=10, seed=3).requests) == 10
    mean = sum(found.event_time_ms - NOW_MS for found in sample.requests) / 40
    assert 70 < mean < 130


def test_reviews_that_were_not_drawn_teach_sentiment_alone() -> None:
    requests = [request(request_id=f"r-{i}", event_time_ms=NOW_MS + i, history=[]) for i in range(50)]
    reviews = [msgspec.structs.replace(requests[0], request_id="review", kind="review", text="Good.")]
    activities = {"u-1": [Activity(NOW_MS, "review", None, "mug"), Activity(NOW_MS + 9, "rating", None, "mug", 5.0)]}
    split = Split(train_until_ms=FAR_MS, calibration_until_ms=FAR_MS, test_until_ms=FAR_MS)

    sample = sample_requests([*reviews, *requests], per_user=1, max_requests=10, seed=1)
    examples = label_sample(sample, activities, split).train

    assert [found.request_id for found in sample.reviews] == ["review"]
    assert [(example.positive, example.observed_ms) for example in examples if example.request.kind == "review"] == [(True, 0)]


def test_time_is_cut_by_shares_of_what_the_log_covers() -> None:
    activities = {"a": [Activity(1_000, "visit")], "b": [Activity(2_000, "visit"), Activity(11_000, "visit")]}

    split = split_by_time(activities, train=0.5, calibration=0.2)

    assert split == Split(train_until_ms=6_000, calibration_until_ms=8_000, test_until_ms=11_001)
    with pytest.raises(ValueError, match="found no events"):
        split_by_time({}, train=0.5, calibration=0.2)
