"""The labelled examples of a dataset: what a model sees of a user or a review, and what came of it.

Written by footfall dataset, read by training, evaluation and baselines alike. Knows neither files nor models. Start at
Example.
"""

from enum import StrEnum

from msgspec import Struct

from schemas.scoring import ScoreRequest


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
    both from the newest event that the request has seen.
    """

    request: ScoreRequest
    landmark_ms: int
    slice: Slice
    categories: tuple[str, ...] | None = None
    items: tuple[str, ...] | None = None
    observed_ms: int = 0
    absent_ms: int | None = None


class ReviewExample(Struct, frozen=True, kw_only=True):
    """A review's text and what its author thought: stars from 1 to 5, the mood that they mean, the kind of article."""

    text: str
    slice: Slice
    user_id: str
    event_time_ms: int
    language: str
    stars: float | None = None
    positive: bool | None = None
    category: str | None = None
