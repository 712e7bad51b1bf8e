"""Label review texts with their author's stars, split them by time, and keep each text once.

The stars are the author's rating of the same item at about the same time, before the slice ends. If any user wrote the same
text before, the review is left out: otherwise a model would be tested on its training texts. Start at label_reviews.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from models.data.examples import ReviewExample
from models.data.landmarks import Period, period_at
from schemas.events import Review
from schemas.time_units import DAY_MS

RATING_WITHIN_MS = 7 * DAY_MS
POSITIVE_STARS, NEGATIVE_STARS = 4, 2
CHINESE_SHARE = 0.3  # of the letters of a text

Ratings = Mapping[tuple[str, str], Sequence[tuple[int, float]]]  # user and item → time and stars of each rating


class LabelledReviews(NamedTuple):
    """Review examples in order of time, and the number left out by reason."""

    examples: list[ReviewExample]
    left_out: dict[str, int]


def label_reviews(reviews: Iterable[Review], ratings: Ratings, periods: Sequence[Period]) -> LabelledReviews:
    """Label every review with its slice and its author's stars."""
    examples: list[ReviewExample] = []
    left_out: Counter[str] = Counter()
    seen = set[str]()
    for review in sorted(reviews, key=lambda review: (review.event_time_ms, review.user_id, review.review_id)):
        text, period = review.text.strip(), period_at(periods, review.event_time_ms)
        known = same_text(text)
        if not text:
            left_out["no_text"] += 1
        elif period is None:
            left_out["outside_the_slices"] += 1
        elif known in seen:
            left_out["repeated_text"] += 1
        else:
            seen.add(known)
            stars = _stars(review, ratings, period.end_ms)
            examples.append(
                ReviewExample(
                    text=text,
                    slice=period.slice,
                    user_id=review.user_id,
                    event_time_ms=review.event_time_ms,
                    language=language_of(text),
                    stars=stars,
                    positive=None if stars is None or NEGATIVE_STARS < stars < POSITIVE_STARS else stars >= POSITIVE_STARS,
                    category=review.category,
                )
            )
    return LabelledReviews(examples, dict(sorted(left_out.items())))


def same_text(text: str) -> str:
    """Return a text's canonical form, for finding duplicates: one letter case, NFKC, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def language_of(text: str) -> str:
    """Return a text's language by its letters: zh if enough are Chinese, en for other letters, und without any."""
    letters = [letter for letter in text if letter.isalpha()]
    if not letters:
        return "und"
    chinese = sum("\u3400" <= letter <= "\u9fff" for letter in letters)
    return "zh" if chinese >= CHINESE_SHARE * len(letters) else "en"


def _stars(review: Review, ratings: Ratings, until_ms: int) -> float | None:
    at = review.event_time_ms
    near = [
        (abs(time_ms - at), time_ms, stars)
        for time_ms, stars in ratings.get((review.user_id, review.item_id), ())
        if abs(time_ms - at) <= RATING_WITHIN_MS and time_ms < until_ms
    ]
    return min(near)[2] if near else None
