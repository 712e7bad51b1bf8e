"""Replayed score requests and what their users did next → labelled examples, split by time.

A label rests only on what happened strictly after everything its request has seen, and before its slice ends: so no
label reaches into a later slice, and none needs an embargo. Pure, and memory grows with the sample, not with the log.
Start at label_sample.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from msgspec import Struct

from schemas.events import Browse, Click, Event, Purchase, Rating, Review
from schemas.scoring import ScoreRequest

MINUTE_MS, DAY_MS = 60_000, 86_400_000
HORIZONS_DAYS = (1, 3, 7, 14, 30, 60)
RETURN_AFTER_MS = 30 * MINUTE_MS  # sooner is the same session
NEXT_INTERACTIONS = 10
INTEREST_SIGHT_MS = 14 * DAY_MS  # how long fewer interactions must have been awaited to count as all there were
RATING_WITHIN_MS = 7 * DAY_MS
POSITIVE_STARS, NEGATIVE_STARS = 4, 2


class Activity(Struct, frozen=True, gc=False):
    """One thing a user did; an interaction is one with a category."""

    event_time_ms: int
    kind: str
    category: str | None = None
    item_id: str | None = None
    stars: float | None = None


class Example(Struct, frozen=True):
    """A request and what came of it within `observed_ms`; None is unknown and teaches nothing.

    `interest` holds the categories of the next interactions, `absent_ms` is the time until the user came back (None:
    not while observed), `positive` the mood of a review.
    """

    request: ScoreRequest
    interest: frozenset[str] | None = None
    observed_ms: int = 0
    absent_ms: int | None = None
    positive: bool | None = None


class Sample(NamedTuple):
    """Requests to learn everything from, and further reviews to learn sentiment alone from."""

    requests: list[ScoreRequest]
    reviews: list[ScoreRequest]


class Split(Struct, frozen=True, kw_only=True):
    """Three slices of time, one after the other: train, calibration, test."""

    train_until_ms: int
    calibration_until_ms: int
    test_until_ms: int


class Slices(NamedTuple):
    """The examples of every slice, in order of time."""

    train: list[Example]
    calibration: list[Example]
    test: list[Example]


def collect_activities(events: Iterable[Event]) -> dict[str, list[Activity]]:
    """Sort what every user did by time; an event that arrived twice counts once."""
    seen: dict[str, set[Activity]] = defaultdict(set)
    for event in events:
        seen[event.user_id].update(_activities(event))
    return {user: sorted(found, key=_order) for user, found in seen.items()}


def split_by_time(activities: Mapping[str, Sequence[Activity]], *, train: float, calibration: float) -> Split:
    """Cut the time that the log covers: the first share is for training, the next for calibration, the rest for tests.

    Raises:
        ValueError: there is no activity.
    """
    ends = [(done[0].event_time_ms, done[-1].event_time_ms) for done in activities.values() if done]
    if not ends:
        raise ValueError("found no events, expected a log of some weeks: import or simulate one")
    first, last = min(start for start, _ in ends), max(end for _, end in ends)
    cuts = [first + round((last - first) * share) for share in (train, train + calibration)]
    return Split(train_until_ms=cuts[0], calibration_until_ms=cuts[1], test_until_ms=last + 1)


def sample_requests(requests: Iterable[ScoreRequest], *, per_user: int, max_requests: int, seed: int) -> Sample:
    """Draw at most `per_user` requests and as many reviews of every user, then at most `max_requests`, in order of time.

    Every request of a user is as likely as any other; the draw depends on the seed and the order of requests alone.
    """
    rng = Random(seed)
    kept: dict[str, list[ScoreRequest]] = defaultdict(list)
    reviews: dict[str, list[ScoreRequest]] = defaultdict(list)
    seen: dict[tuple[str, bool], int] = defaultdict(int)
    for request in requests:
        user = request.user_id
        pools = ((kept, False), (reviews, True)) if request.kind == "review" else ((kept, False),)
        for pool, key in pools:
            seen[user, key] += 1
            _reservoir(rng, pool[user], request, seen[user, key], per_user)
    drawn = [request for pool in kept.values() for request in pool]
    if len(drawn) > max_requests:
        drawn = rng.sample(drawn, max_requests)
    ids = {request.request_id for request in drawn}
    further = [request for pool in reviews.values() for request in pool if request.request_id not in ids]
    return Sample(sorted(drawn, key=_by_time), sorted(further, key=_by_time))


def label_sample(sample: Sample, activities: Mapping[str, Sequence[Activity]], split: Split) -> Slices:
    """Label every request by what its user did next within its own slice."""
    slices = Slices([], [], [])
    ends = (split.train_until_ms, split.calibration_until_ms, split.test_until_ms)
    for requests, sentiment_only in ((sample.requests, False), (sample.reviews, True)):
        for request in requests:
            place = bisect_right(ends, seen_until_ms(request))
            if place < len(ends):
                done = activities.get(request.user_id, ())
                if sentiment_only:
                    example = Example(request, positive=label_sentiment(request, done))
                else:
                    example = label(request, done, ends[place])
                slices[place].append(example)
    for examples in slices:
        examples.sort(key=lambda example: _by_time(example.request))
    return slices


def label(request: ScoreRequest, activities: Sequence[Activity], until_ms: int) -> Example:
    """Label one request by its user's sorted activities strictly after what it has seen and before `until_ms`."""
    at = seen_until_ms(request)
    future = [done for done in activities[bisect_right(activities, at, key=_time) :] if done.event_time_ms < until_ms]
    categories = [done.category for done in future if done.category is not None][:NEXT_INTERACTIONS]
    awaited = len(categories) == NEXT_INTERACTIONS or until_ms - at >= INTEREST_SIGHT_MS
    back_ms = next((done.event_time_ms for done in future if done.event_time_ms >= at + RETURN_AFTER_MS), None)
    return Example(
        request,
        interest=frozenset(categories) if categories and awaited else None,
        observed_ms=until_ms - at,
        absent_ms=None if back_ms is None else back_ms - at,
        positive=label_sentiment(request, activities),
    )


def label_return(absent_ms: int | None, observed_ms: int) -> tuple[bool | None, ...]:
    """Say for each bin, up to that of the return, whether the user came back in it; None is unknown or no question.

    A bin that is not observed to its end is unknown even if the user came back in it: counting only the returns of a
    cut bin would make returning look likelier than it is.
    """
    labels: list[bool | None] = []
    for days in HORIZONS_DAYS:
        back_before = bool(labels) and labels[-1] is not False
        if back_before or days * DAY_MS > observed_ms:
            labels.append(None)
        else:
            labels.append(absent_ms is not None and absent_ms <= days * DAY_MS)
    return tuple(labels)


def seen_until_ms(request: ScoreRequest) -> int:
    """Return the time of the newest event that a request rests on: its own, or one of another topic just after it."""
    return max(request.event_time_ms, request.history[-1].event_time_ms if request.history else 0)


def label_sentiment(request: ScoreRequest, activities: Sequence[Activity]) -> bool | None:
    """Call a review by the stars that its author gave the same item at about the same time; None is between or unknown."""
    if request.kind != "review" or not request.text:
        return None
    at = request.event_time_ms
    items = {done.item_id for done in activities if done.kind == "review" and done.event_time_ms == at}
    ratings = [
        (abs(done.event_time_ms - at), done.stars)
        for done in activities
        if done.stars is not None and done.item_id in items and abs(done.event_time_ms - at) <= RATING_WITHIN_MS
    ]
    stars = min(ratings)[1] if ratings else None
    return None if stars is None or NEGATIVE_STARS < stars < POSITIVE_STARS else stars >= POSITIVE_STARS


def _activities(event: Event) -> list[Activity]:
    at, kind = event.event_time_ms, type(event).__name__.lower()
    if isinstance(event, Purchase):
        bought = [Activity(at, kind, line.category, line.item_id) for line in event.lines if not line.returned]
        return bought or [Activity(at, kind)]
    if isinstance(event, Rating):
        return [Activity(at, kind, event.category, event.item_id, event.rating)]
    if isinstance(event, Browse | Click | Review):
        return [Activity(at, kind, event.category, event.item_id)]
    return [Activity(at, kind)]


def _reservoir(rng: Random, pool: list[ScoreRequest], request: ScoreRequest, seen: int, size: int) -> None:
    if len(pool) < size:
        pool.append(request)
    elif (place := rng.randrange(seen)) < size:
        pool[place] = request


def _time(activity: Activity) -> int:
    return activity.event_time_ms


def _order(activity: Activity) -> tuple[int, str, str, str]:
    return activity.event_time_ms, activity.kind, activity.item_id or "", activity.category or ""


def _by_time(request: ScoreRequest) -> tuple[int, str]:
    return request.event_time_ms, request.request_id
