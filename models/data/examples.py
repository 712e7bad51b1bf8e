"""The labelled examples of a dataset: what a model sees of a user or a review, and what came of it.

Written by footfall dataset, read by training, evaluation and baselines alike. Knows neither files nor models. Start at
Example.
"""

from enum import StrEnum

from msgspec import Struct

from schemas.scoring import ScoreRequest
from schemas.time_units import DAY_MS

LANDMARK = "landmark"  # what a request is due for that no event caused: a question asked at a drawn time


class Slice(StrEnum):
    """The slices of a dataset, one after the other in time."""

    TRAIN = "train"
    VALIDATION = "validation"
    CALIBRATION = "calibration"
    TEST = "test"


class Example(Struct, frozen=True, kw_only=True):
    """A user at a landmark, as the scorer would see them, and what came of it; None is unknown and teaches nothing.

    `request` holds the state after the user's newest event at or before `landmark_ms`; the user has been silent since
    then. `categories` are the distinct ones of the next interactions and `items` the next distinct items, in order.
    `observed_ms` is how long the user was watched and `absent_ms` the time until the return (None: not while watched),
    both from `since_ms`, where the silence began: at the newest event that the request has seen (also where it is None),
    or, where only purchases count as a return, at the newest purchase seen.
    """

    request: ScoreRequest
    landmark_ms: int
    slice: Slice
    categories: tuple[str, ...] | None = None
    items: tuple[str, ...] | None = None
    observed_ms: int = 0
    absent_ms: int | None = None
    since_ms: int | None = None


class ReviewExample(Struct, frozen=True, kw_only=True):
    """A review's text and what its author thought: stars from 1 to 5, the sentiment that they mean, the kind of article."""

    text: str
    slice: Slice
    user_id: str
    event_time_ms: int
    language: str
    stars: float | None = None
    positive: bool | None = None
    category: str | None = None


def seen_until_ms(request: ScoreRequest) -> int:
    """Return the time of the newest event that a request rests on: its own, or one of another topic just after it."""
    return max(request.event_time_ms, request.history[-1].event_time_ms if request.history else 0)


def silent_ms(example: Example) -> int:
    """Return how long the user had been silent at the landmark: where a survival curve is entered."""
    since = seen_until_ms(example.request) if example.since_ms is None else example.since_ms
    return example.landmark_ms - since


def churned_within(example: Example, horizon_days: float) -> bool | None:
    """Say whether the user stayed away for `horizon_days` after the landmark; None where that was not watched to its end.

    A return inside a horizon that was cut short is unknown too: counting it would make returning look likelier than it is.
    """
    end_ms = silent_ms(example) + round(horizon_days * DAY_MS)
    if end_ms > example.observed_ms:
        return None
    return example.absent_ms is None or example.absent_ms > end_ms
