"""Combine one user's last 30 days over all source topics: items and categories seen, category weights, active half-hours.

A profile is computed from the states of the topics (user_state.py), so it is never stored. The first snapshot builds it and
later events update it. It is rebuilt when the user's newest event falls on a new day. Start at profile_of.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from msgspec import Struct, field

from models.features.spec import HALF_LIFE_DAYS, KIND_WEIGHTS, KINDS
from models.features.windows import NOTHING, WINDOW_DAYS

FORGOTTEN = -1  # the day of a profile that no longer matches its topics and must be rebuilt
_WEIGHTS = [KIND_WEIGHTS.get(kind, 0) for kind in KINDS]
_DECAY = [round(10_000 * 2 ** (-age / HALF_LIFE_DAYS)) for age in range(WINDOW_DAYS)]
WEIGHTS_TODAY = [weight * _DECAY[0] for weight in _WEIGHTS]
_HOURS = [sum(63 << (48 * day + 6 * third) for day in range(WINDOW_DAYS)) for third in range(8)]


class Part(NamedTuple):
    """The features of one topic's state; valid while its guard is `guard`, up to the minute `until`.

    `counts` and each entry of `sums` are windows as Tiles.windows returns them. `gaps` are those between purchases.
    """

    guard: int
    until: int
    counts: tuple[int, ...]
    sums: Sequence[tuple[int, ...]]
    gaps: list[float | None]


EMPTY = Part(-1, -1, NOTHING, [NOTHING] * 3, [None, None])


class Profile(Struct, gc=False):
    """Thirty days of all topics as of the day `today`; days count from 1970 (UTC).

    `items` and `categories` map each item and category to its newest day; `recent_items` and `recent_categories` count
    those of the last 7 days. `weights` sums kind weights by category, as integers that halve every 7 days. Bit i of
    `half_hours` is set if half-hour i of the 30 days was active.
    """

    today: int
    items: dict[int, int] = {}
    categories: dict[str, int] = {}
    weights: dict[str, int] = {}
    recent_items: int = 0
    recent_categories: int = 0
    half_hours: int = 0
    parts: list[Part] = field(default_factory=lambda: [EMPTY] * (len(KINDS) + 1))
    _rhythm: list[float] = []

    def item_seen(self, item: int, day: int) -> None:
        """Add an item's hash that is new to one topic's `day`."""
        if not self.today - WINDOW_DAYS < day <= self.today:
            return
        before, week = self.items.get(item, 0), self.today - 6
        if day > before:
            self.items[item] = day
            if before < week <= day:
                self.recent_items += 1

    def category_seen(self, kind: int, category: str, day: int, count: int = 1) -> None:
        """Add `count` events of a kind with a category."""
        age = self.today - day
        if not 0 <= age < WINDOW_DAYS:
            return
        weights = self.weights
        weights[category] = weights.get(category, 0) + count * _WEIGHTS[kind] * _DECAY[age]
        before = self.categories.get(category, 0)
        if day > before:
            self.categories[category] = day
            if before < self.today - 6 <= day:
                self.recent_categories += 1

    def active(self, day: int, mask: int) -> None:
        """Add active half-hours of a day: bit i of `mask` is its i-th half-hour."""
        ahead = day - self.today + WINDOW_DAYS - 1
        if 0 <= ahead < WINDOW_DAYS:
            self.half_hours |= mask << 48 * ahead
            self._rhythm = []

    def ranked(self) -> list[str]:
        """List categories, heaviest first, ties by name."""
        names = sorted(self.weights)
        names.sort(key=self.weights.__getitem__, reverse=True)  # stable, also in reverse
        return names

    def rhythm(self) -> list[float]:
        """Return sessions of the last 7 and 30 days, then the share of active half-hours in each 3 hours of the day."""
        if not self._rhythm:
            bits = self.half_hours
            active = bits.bit_count()
            shares = [(bits & hours).bit_count() / active if active else 0.0 for hours in _HOURS]
            self._rhythm = [runs(bits >> 48 * (WINDOW_DAYS - 7)), runs(bits), *shares]
        return self._rhythm


def profile_of(topics: Iterable[Any], today: int) -> Profile:
    """Build the profile from the source topics' states, in the order of KINDS; None is an empty state."""
    profile = Profile(today)
    for kind, topic in enumerate(topics):
        if topic is None:
            continue
        for day, items in topic.items.items():
            for item in items:
                profile.item_seen(item, day)
        for category, days in topic.categories.items():
            for day, count in days.items():
                profile.category_seen(kind, category, day, count)
        for day, mask in topic.slots.items():
            profile.active(day, mask)
    return profile


def runs(bits: int) -> int:
    """Count sessions: maximal runs of active half-hours."""
    return (bits & ~(bits << 1)).bit_count()
