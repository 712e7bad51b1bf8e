"""Collect from a log what the labels of a dataset need beside the rows. Start at LabelSources.add."""

from collections import defaultdict
from collections.abc import Collection

from msgspec import Struct, field

from models.data.examples import Purchases
from models.data.labels import Activity, activities_of
from schemas.events import Browse, Click, Event, Purchase, Rating, Review


class LabelSources(Struct):
    """Collects from the log, by user or by item, what labels need beside the rows.

    `titles` maps an item without a category to its first title: place in the log, time of arrival, title. `first_seen_ms`
    maps an item to the time of its first activity. `ratings` are complete once `forget_users` was called.
    """

    activities: dict[str, list[Activity]] = field(default_factory=lambda: defaultdict(list))
    purchases: dict[str, Purchases] = {}
    titles: dict[str, tuple[int, int, str]] = {}
    first_seen_ms: dict[str, int] = {}
    has_categories: bool = False
    reviews: dict[tuple[str, str], Review] = {}
    ratings: dict[tuple[str, str], list[tuple[int, float]]] = {}
    rated: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    reviewed: set[tuple[str, str]] = set()

    def add(self, event: Event, arrived_ms: int, *, applied: bool, place: int = 0) -> None:
        """Add the event at a `place` of the log; one that came too late for the rows is not `applied`."""
        user = event.user_id
        for activity in activities_of(event):
            self.activities[user].append(activity)
            if (item := activity.item_id) is not None:
                self.has_categories |= bool(activity.category)
                at_ms = activity.event_time_ms
                self.first_seen_ms[item] = min(at_ms, self.first_seen_ms.get(item, at_ms))
        if isinstance(event, Purchase):
            if applied and not all(line.returned for line in event.lines):
                self.purchases[user] = self.purchases_of(user).with_one_at(event.event_time_ms)
            for line in event.lines:
                self._title(line.item_id, line.category, line.title, place, arrived_ms)
        elif isinstance(event, Browse | Click):
            self._title(event.item_id, event.category, event.title, place, arrived_ms)
        elif isinstance(event, Review):
            self.reviews.setdefault((user, event.review_id), event)
            self.reviewed.add((user, event.item_id))
        elif isinstance(event, Rating):
            self.rated[user, event.item_id].append((event.event_time_ms, event.rating))

    def purchases_of(self, user: str) -> Purchases:
        """Return a user's purchases so far."""
        return self.purchases.get(user, Purchases())

    def forget_users(self, kept: Collection[str]) -> None:
        """Drop what is known of users, except activities of those `kept`, reviews, and ratings of what their user reviewed."""
        self.activities = defaultdict(list, {user: found for user, found in self.activities.items() if user in kept})
        self.purchases.clear()
        self.ratings |= {pair: self.rated[pair] for pair in self.reviewed & self.rated.keys()}
        self.rated.clear()
        self.reviewed.clear()

    def _title(self, item_id: str, category: str | None, title: str | None, place: int, arrived_ms: int) -> None:
        if category is None and title and (item_id not in self.titles or place < self.titles[item_id][0]):
            self.titles[item_id] = place, arrived_ms, title
