"""Compute the feature vector, the history and the guard vector (first and last offset per topic) from a user's state.

Time is that of the user's newest event, so a snapshot depends on the events alone, not on a clock. Sums are integers and
are divided only at the end, so rounding does not depend on the order of events. Start at snapshot.
"""

from operator import attrgetter

from msgspec import Struct

from models.features.profile import EMPTY, Part, profile_of, runs
from models.features.spec import (
    FEATURE_SPEC,
    HISTORY_EVENTS,
    SENTIMENT,
    TOP_CATEGORIES,
)
from models.features.user_state import (
    BROWSE,
    DEFAULT_TTL_MS,
    PURCHASE,
    RATING,
    SCALE,
    TopicState,
    UserState,
)
from models.features.windows import WINDOW_DAYS
from schemas.scoring import HistoryEntry
from schemas.time_units import DAY_MS, HOUR_MS, MINUTE_MS

_EVENT_TIME = attrgetter("event_time_ms")

_W5M, _W1H, _W24H, _W7D, _W30D, _LIFE = range(6)  # positions in what Series.windows returns


class Snapshot(Struct, frozen=True):
    """The input of one score: `features` follow FEATURE_SPEC, `guard` maps a kind index to (since, last offset)."""

    at_ms: int
    features: list[float | None]
    history: list[HistoryEntry]
    categories: list[tuple[str, float]]
    guard: dict[int, tuple[int, int]]


def snapshot(state: UserState, ttl_ms: int = DEFAULT_TTL_MS) -> Snapshot:
    """Render a state that has at least one source event; a topic without events for `ttl_ms` counts as empty."""
    topics = state.topics
    newest = [topic.newest_ms for topic in topics[:SENTIMENT] if topic is not None]
    at = max(newest)
    today, minute, profile = at // DAY_MS, at // MINUTE_MS, state.profile
    if at - ttl_ms > min(newest) or ((feedback := topics[SENTIMENT]) is not None and feedback.newest_ms < at - ttl_ms):
        topics = [topic if topic is not None and topic.newest_ms >= at - ttl_ms else None for topic in topics]
        profile = profile_of(topics[:SENTIMENT], today)
    elif profile is None or profile.today != today:
        profile = state.profile = profile_of(topics[:SENTIMENT], today)
    parts = profile.parts.copy()
    for kind, topic in enumerate(topics):
        if topic is None:
            parts[kind] = EMPTY
        elif parts[kind].guard != topic.guard or minute > parts[kind].until:
            parts[kind] = profile.parts[kind] = _part(topic, minute)
    sources, counts = topics[:SENTIMENT], [part.counts for part in parts[:SENTIMENT]]
    features: list[float | None] = []
    for windows in counts:
        features += windows
    for sums in (parts[BROWSE].sums[0], *parts[PURCHASE].sums):
        features += sums
    ratings, rated = parts[RATING].sums[0], parts[RATING].counts
    sentiments, scored = parts[SENTIMENT].sums[0], parts[SENTIMENT].counts
    for window in (_W30D, _LIFE):
        features.append(_ratio(ratings[window], rated[window] * SCALE))
        features.append(_ratio(sentiments[window], scored[window] * SCALE))
    features += (profile.recent_items, profile.recent_categories, len(profile.items), len(profile.categories))
    features += [None if topic is None else at - topic.newest_ms for topic in sources]
    features.append(at - min([topic.first_ms for topic in sources if topic is not None]))
    features += parts[PURCHASE].gaps
    last_day = (at // HOUR_MS - 23) * 2 - (today - WINDOW_DAYS + 1) * 48  # the first half-hour of the last 24 hours
    features.append(runs(profile.half_hours >> last_day))
    sessions_and_hours = profile.rhythm()
    features += sessions_and_hours[:2]
    for within_24h, within_7d, within_30d in (
        [sum([windows[window] for windows in counts]) for window in (_W24H, _W7D, _W30D)],
        counts[PURCHASE][_W24H:_LIFE],
    ):
        features.append(_ratio(within_24h * 7, within_7d))
        features.append(_ratio(within_7d * 30, within_30d * 7))
    features += sessions_and_hours[2:]
    weights, total = profile.weights, sum(profile.weights.values())
    shares = [(name, weights[name] / total) for name in profile.ranked()[:HISTORY_EVENTS]]
    top = [share for _, share in shares[:TOP_CATEGORIES]]
    features += top
    features += [None] * (TOP_CATEGORIES - len(top))
    if len(features) != len(FEATURE_SPEC.names):
        raise AssertionError(
            f"found {len(features)} features in a snapshot, expected {len(FEATURE_SPEC.names)}: fix snapshot or FEATURE_SPEC"
        )
    return Snapshot(
        at,
        features,
        _history(sources),
        shares,
        {i: (topic.since, topic.guard) for i, topic in enumerate(topics) if topic is not None},
    )


def _part(topic: TopicState, minute: int) -> Part:
    """Compute one topic's features, and the last minute for which they hold without a new event."""
    counts, *sums = topic.tiles.windows(minute)
    tile = 1 if counts[_W5M] else 5 if counts[_W1H] else 60 if counts[_W24H] else 1440  # minutes of the next tile to expire
    gaps = gap_statistics(topic.times) if topic.times else EMPTY.gaps
    return Part(topic.guard, minute // tile * tile + tile - 1, counts, sums, gaps)


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None


def gap_statistics(times: list[int]) -> list[float | None]:
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


def _history(sources: list[TopicState | None]) -> list[HistoryEntry]:
    merged: list[HistoryEntry] = []
    for topic in sources:
        if topic is not None:
            merged += topic.history
    merged.sort(key=_EVENT_TIME)  # stable: events with equal times stay in the order of KINDS
    return merged[-HISTORY_EVENTS:]
