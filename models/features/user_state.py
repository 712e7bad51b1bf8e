"""Apply one user's events to a compact state that has one part per topic.

A part depends only on the events of its own topic, so it does not matter how the topics interleave. `profile.py` and
`snapshot.py` combine the parts. No code here reads a clock: times come from the events. Start at TopicState.apply.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping
from typing import TypeVar

import msgspec
import xxhash
from msgspec import Struct

from models.features.profile import FORGOTTEN, WEIGHTS_TODAY, Profile
from models.features.recent_ids import RecentIds
from models.features.spec import (
    HISTORY_EVENTS_PER_KIND,
    HISTORY_TEXT_CHARS,
    KINDS,
    MAX_CATEGORIES,
    MAX_ITEMS_PER_DAY,
    MAX_PURCHASE_TIMES,
    SENTIMENT,
    SESSION_SLOT_MS,
)
from models.features.windows import WINDOW_DAYS, Tiles, no_tiles
from schemas.events import Event, Purchase, PurchaseLine
from schemas.scoring import HistoryEntry
from schemas.signals import ReviewSentiment
from schemas.time_units import DAY_MS, MINUTE_MS

T = TypeVar("T")

NAME_BYTES, HISTORY_TEXT_BYTES = 64, 72  # limits of a name and of a text in a row
SETTLE_TILES = 96  # tiles of a topic before they are merged: more than the 71 that its windows need
SCALE = 10_000  # ratings and sentiments are summed as integers of 1/10,000
DEFAULT_TTL_MS = 400 * DAY_MS
VISIT, BROWSE, CLICK, SEARCH, PURCHASE, REVIEW, RATING = range(len(KINDS))
_SUMS = {BROWSE: 1, PURCHASE: 3, RATING: 1, SENTIMENT: 1}  # purchases: amount, returned lines and amount


class TopicState(Struct, array_like=True, gc=False):
    """The fold of one user's events of one topic: exact tiles, bounded sets, the newest events, and its guard.

    `since` and `guard` are the offsets of the first and last record folded. `slots` maps a day to a 48-bit mask of its
    active half-hours, `items` a day to the sorted hashes of its items, `categories` a category and a day to a count.
    Days count from 1970 (UTC).
    """

    since: int
    guard: int
    first_ms: int
    newest_ms: int
    tiles: Tiles
    due_ms: int = 0
    ids: RecentIds = msgspec.field(default_factory=RecentIds)
    slots: dict[int, int] = {}
    items: dict[int, list[int]] = {}
    categories: dict[str, dict[int, int]] = {}
    times: list[int] = []
    history: list[HistoryEntry] = []

    def apply(self, kind: int, event: Event, offset: int, rates: Mapping[str, float], profile: Profile | None = None) -> None:
        """Fold one accepted event of this topic into the state, and into the user's `profile` if there is one.

        `kind` indexes KINDS; `rates` gives the reporting-currency value of one unit of each currency. The caller has
        already refused duplicates, late and future events.
        """
        at = event.event_time_ms
        self.guard = offset
        if at > self.newest_ms:
            self.newest_ms = at
        elif at < self.first_ms:
            self.first_ms = at
        minute = at // MINUTE_MS
        day, slot = divmod(at // SESSION_SLOT_MS, 48)
        slots, bit = self.slots, 1 << slot
        mask = slots.get(day)
        if mask is None:
            slots[day] = bit
            if len(slots) > WINDOW_DAYS:
                self.slots = within(slots, self.newest_ms)
            if profile is not None:
                profile.active(day, bit)
        elif not mask & bit:
            slots[day] = mask | bit
            if profile is not None:
                profile.active(day, bit)
        item: str | None = None
        category: str | None = None
        text: str | None = None
        amount = 0
        if kind == PURCHASE:  # _apply_purchase adds to the tiles
            item, category, text, amount = self._apply_purchase(event, minute, day, rates, profile)  # type: ignore[arg-type]
        elif kind == SEARCH:
            text = event.query  # type: ignore[attr-defined]
            self.tiles.add(minute)
        elif kind == VISIT:
            self.tiles.add(minute)
        else:
            item, category = event.item_id, event.category  # type: ignore[attr-defined]
            self._add_item(kind, item, category, day, profile)
            if kind == BROWSE:
                amount, text = event.dwell_ms, event.title  # type: ignore[attr-defined]
                self.tiles.add(minute, (amount,))
            elif kind == CLICK:
                text = event.title  # type: ignore[attr-defined]
                self.tiles.add(minute)
            elif kind == REVIEW:
                text = event.text  # type: ignore[attr-defined]
                self.tiles.add(minute)
            else:
                amount = round(event.rating * SCALE)  # type: ignore[attr-defined]
                self.tiles.add(minute, (amount,))
        if text is not None:
            text = text[:HISTORY_TEXT_CHARS]
            if not text.isascii():
                text = cut(text, HISTORY_TEXT_BYTES)
        if item is not None and not item.isascii():
            item = cut(item, NAME_BYTES)
        if category is not None and not category.isascii():
            category = cut(category, NAME_BYTES)
        entry, history = HistoryEntry(at, KINDS[kind], item, category, amount, text), self.history
        if not history or at > history[-1].event_time_ms:
            history.append(entry)
        else:
            insort(history, entry, key=history_order)
        if len(history) > HISTORY_EVENTS_PER_KIND:
            del history[0]
        if len(self.tiles.starts) > SETTLE_TILES:
            self.tiles.settle(self.newest_ms // MINUTE_MS)

    def apply_sentiment(self, signal: ReviewSentiment, offset: int) -> None:
        """Fold one review's scored sentiment into the tile of the review's own time; null only moves the guard."""
        self.guard = offset
        self.newest_ms = max(self.newest_ms, signal.event_time_ms)
        if signal.sentiment is None:
            return
        self.tiles.add(signal.event_time_ms // MINUTE_MS, (round(signal.sentiment * SCALE),))
        if len(self.tiles.starts) > SETTLE_TILES:
            self.tiles.settle(self.newest_ms // MINUTE_MS)

    def _apply_purchase(
        self, event: Purchase, minute: int, day: int, rates: Mapping[str, float], profile: Profile | None
    ) -> tuple[str, str | None, str | None, int]:
        rate = rates[event.currency]
        bought = returned = returned_lines = 0
        largest: PurchaseLine = event.lines[0]
        largest_amount = -1
        for line in event.lines:
            amount = round(line.unit_price * line.quantity * rate * 100)
            self._add_item(PURCHASE, line.item_id, line.category, day, profile)
            if line.returned:
                returned += amount
                returned_lines += 1
            else:
                bought += amount
            if amount > largest_amount:
                largest, largest_amount = line, amount
        self.tiles.add(minute, (bought, returned_lines, returned))
        if returned_lines < len(event.lines):
            insort(self.times, event.event_time_ms)
            if len(self.times) > MAX_PURCHASE_TIMES:
                del self.times[0]
        return largest.item_id, largest.category, largest.title, bought - returned

    def _add_item(self, kind: int, item: str, category: str | None, day: int, profile: Profile | None) -> None:
        key = xxhash.xxh32_intdigest(item.encode())
        hashes = self.items.get(day)
        if hashes is None:
            hashes = self.items[day] = [key]
            if len(self.items) > WINDOW_DAYS:
                self.items = within(self.items, self.newest_ms) or {day: hashes}
            if profile is not None:
                profile.item_seen(key, day)
        elif len(hashes) < MAX_ITEMS_PER_DAY:
            at = bisect_left(hashes, key)
            if at == len(hashes) or hashes[at] != key:
                hashes.insert(at, key)
                if profile is not None:
                    profile.item_seen(key, day)
        if category is None:
            return
        if not category.isascii():
            category = cut(category, NAME_BYTES)
        days = self.categories.get(category)
        if days is None:
            if len(self.categories) >= MAX_CATEGORIES + MAX_CATEGORIES // 2:
                self._drop_old_categories()
                if profile is not None:
                    profile.today = FORGOTTEN
            self.categories[category] = {day: 1}
        elif day in days:
            days[day] += 1
            if profile is not None and day == profile.today:  # the profile has this category and day already
                profile.weights[category] += WEIGHTS_TODAY[kind]
                return
        else:
            days[day] = 1
            if len(days) > WINDOW_DAYS:
                self.categories[category] = within(days, self.newest_ms) or {day: days[day]}
        if profile is not None:
            profile.category_seen(kind, category, day)

    def _drop_old_categories(self) -> None:
        ranked = sorted(self.categories, key=lambda name: (-max(self.categories[name]), name))[:MAX_CATEGORIES]
        self.categories = {name: self.categories[name] for name in ranked}

    def normalize(self) -> None:
        """Merge tiles that no window distinguishes, so that equal states have equal bytes; later snapshots are unchanged."""
        self.tiles.settle(self.newest_ms // MINUTE_MS)
        self.ids.trim()


class UserState(Struct, gc=False):
    """All topics of one user: index i < 7 is KINDS[i], index 7 the review sentiment that the scorer feeds back.

    `profile` is derived from the topics and not stored: see `profile.py`.
    """

    topics: list[TopicState | None]
    profile: Profile | None = None


def new_user() -> UserState:
    """Return the empty state of a new user."""
    return UserState([None] * (len(KINDS) + 1))


def new_topic(kind: int, offset: int, at_ms: int) -> TopicState:
    """Return a topic's empty state, to be folded from the record at `offset`."""
    return TopicState(offset, offset - 1, at_ms, at_ms, no_tiles(1 + _SUMS.get(kind, 0)))


def history_order(entry: HistoryEntry) -> tuple[int, str, int, str]:
    """Return the sort key of a kind's history: event time, then content, so that the order is total."""
    return entry.event_time_ms, entry.item_id or "", entry.amount, entry.text or ""


def within(days: dict[int, T], newest_ms: int) -> dict[int, T]:
    """Keep the days inside the 30-day window that ends at `newest_ms`."""
    oldest = newest_ms // DAY_MS - (WINDOW_DAYS - 1)
    return {day: value for day, value in days.items() if day >= oldest}


def cut(text: str, limit_bytes: int) -> str:
    """Truncate a text to `limit_bytes` of UTF-8, between characters."""
    if len(text) * (1 if text.isascii() else 4) <= limit_bytes:
        return text
    return text.encode()[:limit_bytes].decode(errors="ignore")
