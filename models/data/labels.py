"""What users did → what came of each look at them: the return, the next categories, the next items.

A label rests only on what happened strictly after the landmark (and after everything the request has seen) and before
the look's slice ends, so no label reaches into a later slice and none needs an embargo; what ends with the slice is
censored there. The silence and the return are of one kind: where any activity is a return, silence runs from the newest
event seen; where only a purchase is, from the newest purchase seen, and a user without one has no curve to learn
from. Pure. Start at label.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from models.data.examples import Example, seen_until_ms
from models.data.landmarks import Look
from schemas.events import Browse, Click, Event, Purchase, Rating, Review
from schemas.time_units import DAY_MS, MINUTE_MS

HORIZONS_DAYS = (1, 3, 7, 14, 30, 60, 90, 180, 360)
RETURN_AFTER_MS = 30 * MINUTE_MS  # of silence; sooner is the same session
Return = Literal["any", "purchase"]


class Labelling(Struct, frozen=True, kw_only=True):
    """How labels are made: what counts as a return, how many interactions and items are asked for, and for how long.

    Fewer interactions or items than asked for are all there were if the user was watched for `sight_days` after the
    landmark; else they are unknown. Items are looked for within `item_days`.
    """

    returns: Return = "any"
    next_interactions: int = 10
    next_items: int = 10
    sight_days: float = 14
    item_days: float | None = None


class Activity(Struct, frozen=True, gc=False):
    """One thing a user did, to at most one item; `bought` is an item paid for and not sent back."""

    event_time_ms: int
    item_id: str | None = None
    category: str | None = None
    bought: bool = False


def activities_of(event: Event) -> Iterator[Activity]:
    """Yield what an event says that a user did, in its own order; goods sent back are activity with no item."""
    at = event.event_time_ms
    if isinstance(event, Purchase):
        bought = [Activity(at, line.item_id, line.category, True) for line in event.lines if not line.returned]
        yield from bought or [Activity(at)]
    elif isinstance(event, Browse | Click | Review | Rating):
        yield Activity(at, event.item_id, event.category)
    else:
        yield Activity(at)


def by_time(activities: Sequence[Activity]) -> list[Activity]:
    """Sort a user's activities by time; those of one time stay in the order of arrival."""
    return sorted(activities, key=_time)


def label(
    look: Look, activities: Sequence[Activity], until_ms: int, how: Labelling, clusters: Mapping[str, str] | None = None
) -> Example:
    """Label one look by its user's sorted activities; `until_ms` is the end of its slice.

    `clusters` names the category of items (item → name) whose events carry none.
    """
    seen_ms = seen_until_ms(look.request)
    from_ms = max(look.landmark_ms, seen_ms)
    future = activities[bisect_right(activities, from_ms, key=_time) : _before(activities, until_ms)]
    watched_ms = until_ms - from_ms
    since_ms = look.since_ms if how.returns == "purchase" else seen_ms
    back_ms = None
    if since_ms is not None:
        earliest_ms = since_ms + RETURN_AFTER_MS
        returns = (done for done in future if done.bought or how.returns == "any")
        back_ms = next((done.event_time_ms for done in returns if done.event_time_ms >= earliest_ms), None)
    return Example(
        request=look.request,
        landmark_ms=look.landmark_ms,
        slice=look.slice,
        categories=_next_categories(future, watched_ms, how, clusters or {}),
        items=_next_items(future, from_ms, watched_ms, how),
        observed_ms=0 if since_ms is None else until_ms - since_ms,
        absent_ms=None if back_ms is None or since_ms is None else back_ms - since_ms,
        since_ms=seen_ms if since_ms is None else since_ms,
    )


def _next_categories(
    future: Sequence[Activity], watched_ms: int, how: Labelling, clusters: Mapping[str, str]
) -> tuple[str, ...] | None:
    found: list[str] = []
    for done in future:
        name = done.category or clusters.get(done.item_id or "")
        if name is not None:
            found.append(name)
            if len(found) == how.next_interactions:
                break
    awaited = len(found) == how.next_interactions or watched_ms >= how.sight_days * DAY_MS
    return tuple(dict.fromkeys(found)) if found and awaited else None


def _next_items(future: Sequence[Activity], from_ms: int, watched_ms: int, how: Labelling) -> tuple[str, ...] | None:
    limit_ms = watched_ms if how.item_days is None else round(how.item_days * DAY_MS)
    found: dict[str, None] = {}
    for done in future:
        if done.event_time_ms > from_ms + limit_ms:
            break
        if done.item_id is not None:
            found.setdefault(done.item_id)
            if len(found) == how.next_items:
                break
    sight_ms = how.sight_days * DAY_MS if how.item_days is None else limit_ms
    awaited = len(found) == how.next_items or watched_ms >= sight_ms
    return tuple(found) if found and awaited else None


def _before(activities: Sequence[Activity], until_ms: int) -> int:
    return bisect_right(activities, until_ms - 1, key=_time)


def _time(activity: Activity) -> int:
    return activity.event_time_ms
