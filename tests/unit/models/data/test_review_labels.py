import pytest

from models.data.examples import Slice
from models.data.landmarks import periods_of
from models.data.review_labels import label_reviews, language_of, same_text
from schemas.time_units import DAY_MS
from tests.builders import NOW_MS, USER, review

PERIODS = periods_of(NOW_MS, [NOW_MS + days * DAY_MS for days in (10, 20, 30, 40)], DAY_MS)


@pytest.mark.parametrize(("stars", "positive"), [(5, True), (4, True), (3, None), (2, False), (1, False), (None, None)])
def test_four_stars_praise_and_two_blame(stars: float | None, positive: bool | None) -> None:
    ratings = {} if stars is None else {(USER, "mug-1"): [(NOW_MS + 1, float(stars))]}

    (example,) = label_reviews([review()], ratings, PERIODS).examples

    assert (example.stars, example.positive, example.slice, example.category) == (stars, positive, Slice.TRAIN, "kitchen")


def test_the_nearest_rating_of_the_same_item_counts_within_a_week_and_within_the_slice() -> None:
    at = NOW_MS + 5 * DAY_MS
    ratings = {(USER, "mug-1"): [(NOW_MS, 1.0), (at + DAY_MS, 5.0)], (USER, "mug-2"): [(at, 1.0)]}
    late = {(USER, "mug-1"): [(NOW_MS + 10 * DAY_MS, 5.0)]}

    assert label_reviews([review(event_time_ms=at)], ratings, PERIODS).examples[0].stars == 5.0
    assert label_reviews([review(event_time_ms=at)], late, PERIODS).examples[0].stars is None
    assert (
        label_reviews([review(event_time_ms=NOW_MS)], {(USER, "mug-1"): [(at + 3 * DAY_MS, 5.0)]}, PERIODS).examples[0].stars
        is None
    )


def test_a_text_is_in_one_slice_only_and_what_is_left_out_is_counted() -> None:
    written = [
        review(review_id="r-1", text="A lovely mug."),
        review(review_id="r-2", text=" a  LOVELY mug.", event_time_ms=NOW_MS + 35 * DAY_MS),
        review(review_id="r-3", text="Broken.", event_time_ms=NOW_MS + 35 * DAY_MS),
        review(review_id="r-4", text=" "),
        review(review_id="r-5", text="In the embargo.", event_time_ms=NOW_MS + 10 * DAY_MS),
    ]

    found = label_reviews(written, {}, PERIODS)

    assert [(example.slice, example.text) for example in found.examples] == [
        (Slice.TRAIN, "A lovely mug."),
        (Slice.TEST, "Broken."),
    ]
    assert found.left_out == {"no_text": 1, "outside_the_slices": 1, "repeated_text": 1}


@pytest.mark.parametrize(
    ("text", "language"),
    [("A lovely mug.", "en"), ("这个杯子很好", "zh"), ("iPhone 手机很好用", "zh"), ("5/5 :-)", "und"), ("Très bon", "en")],
)
def test_a_language_is_told_by_its_letters(text: str, language: str) -> None:
    assert language_of(text) == language


def test_texts_are_the_same_whatever_their_case_form_and_spaces() -> None:
    assert same_text("Ｇｒｅａｔ\n mug ") == same_text("great mug")
