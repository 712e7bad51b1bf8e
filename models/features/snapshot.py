"""A user's state → the feature vector, the history and the guard vector of one moment.

The moment is the newest event time of the row, so a snapshot is a function of the events folded, whenever it is taken.
All division happens here, on integers that order cannot change. Start at snapshot.
"""

from operator import attrgetter
from typing import NamedTuple

from msgspec import Struct

from models.features.spec import (
    FEATURE_SPEC,
    HALF_LIFE_DAYS,
    HISTORY_EVENTS,
    KIND_WEIGHTS,
    KINDS,
    SENTIMENT,
    TOP_CATEGORIES,
)
from models.features.tiles import DAY_MS, HOUR_MS, MINUTE_MS, NOTHING, WINDOW_DAYS
from models.features.user_state import (
    AMOUNT,
    BROWSE,
    DEFAULT_TTL_MS,
    PURCHASE,
    RATING,
    RETURNED_AMOUNT,
    RETURNED_LINES,
    SCALE,
    TopicState,
    UserState,
)
from schemas.scoring import HistoryEntry

_EVENT_TIME = attrgetter("event_time_ms")

_WEIGHTS = [KIND_WEIGHTS.get(kind, 0) for kind in KINDS]
_DECAY = [round(10_000 * 2 ** (-age / HALF_LIFE_DAYS)) for age in range(WINDOW_DAYS)]
_TODAY = _DECAY[0]
_HOURS = [sum(63 << (48 * day + 6 * third) for day in range(WINDOW_DAYS)) for third in range(8)]
_W24H, _W7D, _W30D, _LIFE = 2, 3, 4, 5  # positions in what Series.windows returns


class Snapshot(Struct, frozen=True):
    """What a score rests on: `features` follow FEATURE_SPEC, `guard` is kind index → (since, last offset)."""

    at_ms: int
    features: list[float | None]
    history: list[HistoryEntry]
    categories: list[tuple[str, float]]
    guard: dict[int, tuple[int, int]]


def snapshot(state: UserState, ttl_ms: int = DEFAULT_TTL_MS) -> Snapshot:
    """Render a state that has at least one source event; a topic silent for longer than `ttl_ms` counts as empty."""
    at = max(topic.newest_ms for topic in state.topics[:SENTIMENT] if topic is not None)
    topics = [topic if topic is not None and topic.newest_ms >= at - ttl_ms else None for topic in state.topics]
    sources = topics[:SENTIMENT]
    minute = at // MINUTE_MS
    counts: list[tuple[int, ...]] = [NOTHING if topic is None else topic.count.windows(minute) for topic in sources]
    amounts = _sum(topics[PURCHASE], AMOUNT, minute)
    features: list[float | None] = []
    for windows in counts:
        features += windows
    features += _sum(topics[BROWSE], 0, minute)
    features += amounts
    features += _sum(topics[PURCHASE], RETURNED_LINES, minute)
    features += _sum(topics[PURCHASE], RETURNED_AMOUNT, minute)
    ratings, rated = _sum(topics[RATING], 0, minute), counts[RATING]
    feedback = topics[SENTIMENT]
    sentiments = _sum(feedback, 0, minute)
    heard = NOTHING if feedback is None else feedback.count.windows(minute)
    for window in (_W30D, _LIFE):
        features.append(_ratio(ratings[window], rated[window] * SCALE))
        features.append(_ratio(sentiments[window], heard[window] * SCALE))
    today = at // DAY_MS
    distinct, weights = _seen(sources, today)
    features += distinct
    features += [None if topic is None else at - topic.newest_ms for topic in sources]
    features.append(at - min(topic.first_ms for topic in sources if topic is not None))
    purchases = topics[PURCHASE]
    features += _gaps([] if purchases is None else purchases.times)
    bits = _active_half_hours(sources, today)
    day_start = (at // HOUR_MS - 23) * 2 - (today - WINDOW_DAYS + 1) * 48
    features += [_runs(bits >> day_start), _runs(bits >> 48 * (WINDOW_DAYS - 7)), _runs(bits)]
    activity = [sum(window) for window in zip(*counts, strict=True)]
    for rates in (activity, counts[PURCHASE]):
        features.append(_ratio(rates[_W24H] * 7, rates[_W7D]))
        features.append(_ratio(rates[_W7D] * 30, rates[_W30D] * 7))
    active = bits.bit_count()
    features += [(bits & third).bit_count() / active if active else 0.0 for third in _HOURS]
    total = sum(weight for _, weight in weights)
    shares = [(name, weight / total) for name, weight in weights[:HISTORY_EVENTS]]
    top = [share for _, share in shares[:TOP_CATEGORIES]]
    features += top
    features += [None] * (TOP_CATEGORIES - len(top))
    if len(features) != len(FEATURE_SPEC.names):
        raise AssertionError(
            f"snapshot made {len(features)} features, the spec names {len(FEATURE_SPEC.names)}: mend one of them"
        )
    return Snapshot(
        at,
        features,
        _history(sources),
        shares,
        {i: (topic.since, topic.guard) for i, topic in enumerate(topics) if topic is not None},
    )


def _sum(topic: TopicState | None, index: int, minute: int) -> tuple[int, ...]:
    return NOTHING if topic is None else topic.sums[index].windows(minute)


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None


class _Seen(NamedTuple):
    """What the merged item and category sets of all topics give: four counts in spec order, and category weights."""

    distinct: tuple[int, int, int, int]
    weights: list[tuple[str, int]]


def _seen(sources: list[TopicState | None], today: int) -> _Seen:
    """Count distinct items and categories over 7 and 30 days, and weigh categories by kind and age in days.

    A weight halves every 7 days; heaviest first, ties by name.
    """
    week, month = today - 6, today - (WINDOW_DAYS - 1)
    items: set[int] = set()
    older_items: set[int] = set()
    categories: set[str] = set()
    weights: dict[str, int] = {}
    for topic, kind_weight in zip(sources, _WEIGHTS, strict=True):
        if topic is None or not topic.items:
            continue
        for day, seen in topic.items.items():
            if day >= week:
                items.update(seen)
            elif day >= month:
                older_items.update(seen)
        for name, days in topic.categories.items():
            if len(days) == 1 and today in days:
                weight = days[today] * _TODAY
                categories.add(name)
            else:
                weight = 0
                for day, count in days.items():
                    if day >= month:
                        weight += count * _DECAY[today - day]
                        if day >= week:
                            categories.add(name)
                if not weight:
                    continue
            weights[name] = weights.get(name, 0) + kind_weight * weight
    ranked = [(name, -negative) for negative, name in sorted([(-weight, name) for name, weight in weights.items()])]
    all_items = items | older_items if older_items else items
    return _Seen((len(items), len(categories), len(all_items), len(ranked)), ranked)


def _gaps(times: list[int]) -> list[float | None]:
    """Return mean (hours) and population variance (hours squared) of the gaps between purchases."""
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    n = len(gaps)
    if not n:
        return [None, None]
    total = sum(gaps)
    mean = total / (n * HOUR_MS)
    if n < 2:
        return [mean, None]
    return [mean, (n * sum(gap * gap for gap in gaps) - total * total) / (n * n * HOUR_MS * HOUR_MS)]


def _active_half_hours(sources: list[TopicState | None], today: int) -> int:
    """Set bit i for an active half-hour i of the 30-day window; its first day starts at bit 0."""
    bits, first = 0, today - (WINDOW_DAYS - 1)
    for topic in sources:
        if topic is not None:
            for day, mask in topic.slots.items():
                if day >= first:
                    bits |= mask << 48 * (day - first)
    return bits


def _runs(bits: int) -> int:
    """Count sessions: maximal runs of active half-hours inside the window."""
    return (bits & ~(bits << 1)).bit_count()


def _history(sources: list[TopicState | None]) -> list[HistoryEntry]:
    merged = [entry for topic in sources if topic is not None for entry in topic.history]
    merged.sort(key=_EVENT_TIME)  # stable: equal times stay in the order of KINDS
    return merged[-HISTORY_EVENTS:]
