"""Label samples of users from their later activities: the return, the next categories, the next items.

A label uses only activities after the landmark, after the request's events and before the end of the sample's slice. So
no label reaches into a later slice, and no gap (embargo) between slices is needed. A return after the slice's end is
censored. The time to a return counts from the newest event. If only purchases are returns, it counts from the newest
purchase, and a user without a purchase has no survival label. Start at label.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from models.data.examples import Example, seen_until_ms
from models.data.landmarks import Sample
from schemas.events import Browse, Click, Event, Purchase, Rating, Review
from schemas.time_units import DAY_MS, MINUTE_MS

HORIZONS_DAYS = (1, 3, 7, 14, 30, 60, 90, 180, 360)
RETURN_AFTER_MS = 30 * MINUTE_MS  # of silence; anything sooner is the same session
Return = Literal["any", "purchase"]


class Labelling(Struct, frozen=True, kw_only=True):
    """How labels are made: what counts as a return, how many next interactions and items, and within which time.

    A list shorter than that is a complete label if the user was observed for `sight_days` after the landmark; otherwise it
    is unknown. Only items within `item_days` of the landmark count.
    """

    returns: Return = "any"
    next_interactions: int = 10
    next_items: int = 10
    sight_days: float = 14
    item_days: float | None = None


class Activity(Struct, frozen=True, gc=False):
    """One action of a user, on at most one item; `bought` marks an item paid for and not returned."""

    event_time_ms: int
    item_id: str | None = None
    category: str | None = None
    bought: bool = False


def activities_of(event: Event) -> Iterator[Activity]:
    """Yield an event's activities in its own order; returned goods are activity without an item."""
    at = event.event_time_ms
    if isinstance(event, Purchase):
        bought = [Activity(at, line.item_id, line.category, True) for line in event.lines if not line.returned]
        yield from bought or [Activity(at)]
    elif isinstance(event, Browse | Click | Review | Rating):
        yield Activity(at, event.item_id, event.category)
    else:
        yield Activity(at)


def by_time(activities: Sequence[Activity]) -> list[Activity]:
    """Sort a user's activities by time; equal times stay in the order of arrival."""
    return sorted(activities, key=_time)


def label(
    sample: Sample, activities: Sequence[Activity], until_ms: int, how: Labelling, clusters: Mapping[str, str] | None = None
) -> Example:
    """Label one sample from its user's sorted activities; `until_ms` is the end of its slice.

    `clusters` maps items to categories, for items whose events carry none.
    """
    newest_ms = seen_until_ms(sample.request)
    from_ms = max(sample.landmark_ms, newest_ms)
    future = activities[bisect_right(activities, from_ms, key=_time) : _before(activities, until_ms)]
    observed_ms = until_ms - from_ms
    bought_ms = sample.purchases.last_ms if sample.purchases.count else None
    since_ms = bought_ms if how.returns == "purchase" else newest_ms
    return_ms = None
    if since_ms is not None:
        earliest_ms = since_ms + RETURN_AFTER_MS
        returns = (activity for activity in future if activity.bought or how.returns == "any")
        return_ms = next((activity.event_time_ms for activity in returns if activity.event_time_ms >= earliest_ms), None)
    return Example(
        request=sample.request,
        landmark_ms=sample.landmark_ms,
        slice=sample.slice,
        categories=_next_categories(future, observed_ms, how, clusters or {}),
        items=_next_items(future, from_ms, observed_ms, how),
        observed_ms=0 if since_ms is None else until_ms - since_ms,
        absent_ms=None if return_ms is None or since_ms is None else return_ms - since_ms,
        since_ms=newest_ms if since_ms is None else since_ms,
        purchases=sample.purchases,
    )


def _next_categories(
    future: Sequence[Activity], observed_ms: int, how: Labelling, clusters: Mapping[str, str]
) -> tuple[str, ...] | None:
    found: list[str] = []
    for activity in future:
        name = activity.category or clusters.get(activity.item_id or "")
        if name is not None:
            found.append(name)
            if len(found) == how.next_interactions:
                break
    complete = len(found) == how.next_interactions or observed_ms >= how.sight_days * DAY_MS
    return tuple(dict.fromkeys(found)) if found and complete else None


def _next_items(future: Sequence[Activity], from_ms: int, observed_ms: int, how: Labelling) -> tuple[str, ...] | None:
    limit_ms = observed_ms if how.item_days is None else round(how.item_days * DAY_MS)
    found: dict[str, None] = {}
    for activity in future:
        if activity.event_time_ms > from_ms + limit_ms:
            break
        if activity.item_id is not None:
            found.setdefault(activity.item_id)
            if len(found) == how.next_items:
                break
    needed_ms = how.sight_days * DAY_MS if how.item_days is None else limit_ms
    complete = len(found) == how.next_items or observed_ms >= needed_ms
    return tuple(found) if found and complete else None


def _before(activities: Sequence[Activity], until_ms: int) -> int:
    return bisect_right(activities, until_ms - 1, key=_time)


def _time(activity: Activity) -> int:
    return activity.event_time_ms
