"""Define the labelled examples of a dataset: a model's input for a user or a review, and its labels.

A user's example has a landmark: the time that separates its input (before) from its labels (after). `footfall dataset`
writes examples; training, evaluation and baselines read them. This module knows neither files nor models. Start at Example.
"""

from enum import StrEnum

from msgspec import Struct

from schemas.scoring import ScoreRequest
from schemas.time_units import DAY_MS

LANDMARK = "landmark"  # the `due` of a request at a sampled time, which no event caused


class Slice(StrEnum):
    """The slices of a dataset, consecutive in time."""

    TRAIN = "train"
    VALIDATION = "validation"
    CALIBRATION = "calibration"
    TEST = "test"


class Purchases(Struct, frozen=True):
    """A user's purchases until a sample: their number, and the times of the first and the last; 0 and 0 without any.

    A purchase event counts if one of its lines is kept. A pure return, whose lines are all returned, does not count.
    """

    count: int = 0
    first_ms: int = 0
    last_ms: int = 0

    def with_one_at(self, at_ms: int) -> "Purchases":
        """Return these purchases and one more, in any order of time."""
        if not self.count:
            return Purchases(1, at_ms, at_ms)
        return Purchases(self.count + 1, min(self.first_ms, at_ms), max(self.last_ms, at_ms))


class Example(Struct, frozen=True, kw_only=True):
    """The scorer's input for a user at a landmark, and the labels; a label of None is unknown and adds no loss.

    `request` holds the state after the user's newest event at or before `landmark_ms`. `categories` are the distinct ones
    of the next interactions, `items` the next distinct items, both in order. `observed_ms` is the observation time and
    `absent_ms` the time until the return (None: censored). Both run from `since_ms`, the start of the silence. That is
    the newest event in the request (also if None), or the newest purchase where only purchases count as a return.
    `purchases` are over the whole log until the landmark; None in a dataset written before they were counted.
    """

    request: ScoreRequest
    landmark_ms: int
    slice: Slice
    categories: tuple[str, ...] | None = None
    items: tuple[str, ...] | None = None
    observed_ms: int = 0
    absent_ms: int | None = None
    since_ms: int | None = None
    purchases: Purchases | None = None


class ReviewExample(Struct, frozen=True, kw_only=True):
    """A review's text and its labels: stars from 1 to 5, the sentiment derived from them, the item's category."""

    text: str
    slice: Slice
    user_id: str
    event_time_ms: int
    language: str
    stars: float | None = None
    positive: bool | None = None
    category: str | None = None


def seen_until_ms(request: ScoreRequest) -> int:
    """Return the time of the newest event in a request: its own, or one of another topic just after it."""
    return max(request.event_time_ms, request.history[-1].event_time_ms if request.history else 0)


def silent_ms(example: Example) -> int:
    """Return how long the user had been silent at the landmark: the left truncation of a survival curve."""
    since = seen_until_ms(example.request) if example.since_ms is None else example.since_ms
    return example.landmark_ms - since


def churned_within(example: Example, horizon_days: float) -> bool | None:
    """Return whether the user stayed away for `horizon_days` after the landmark; None if the horizon is censored.

    A return within a censored horizon is None, too: counting it would overestimate returns.
    """
    end_ms = silent_ms(example) + round(horizon_days * DAY_MS)
    if end_ms > example.observed_ms:
        return None
    return example.absent_ms is None or example.absent_ms > end_ms
