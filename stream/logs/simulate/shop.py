"""Simulate a shop's events: sessions of visits, searches, browses and clicks, then purchases, reviews, ratings, returns.

A configuration becomes records in order of arrival, and equal configurations give equal bytes. The simulation uses no clock,
no files and no Kafka. The plan of each shopper is in shopper.py. Start at simulate.
"""

from operator import attrgetter
from random import Random
from typing import NamedTuple

from schemas.codec import encode
from schemas.events import Browse, Click, Event, Purchase, PurchaseLine, Rating, Review, Search, Visit
from schemas.time_units import DAY_MS, HOUR_MS
from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.dirt import SimulatedEvent, add_dirt
from stream.logs.simulate.shop_texts import CATEGORIES, Item, Shelf, catalogue, query, review
from stream.logs.simulate.shopper import EXPLORING, Shopper, SimulatorConfig, plan_shoppers

PURCHASE_SLACK = 0.5  # share of the mean session gap by which a purchase may come before it is due
PAGES = ("/", "/sale", "/new-in", "/basket", "/account")
REFERRERS = (None, "newsletter", "search-engine", "social", "price-comparison")


class TimedEvent(NamedTuple):
    """One event before it is encoded; sorted by time, equal times keep their order within the shopper."""

    at_ms: int
    kind: str
    event: Event


def simulate(config: SimulatorConfig) -> list[SimulatedEvent]:
    """Return every record of the period, in order of arrival; each takes about 500 bytes of memory.

    A record arrives within half a second of its event unless it is dirt. Dirt only changes or adds arrivals: the clean
    events of a seed are the same with any fraction of dirt.
    """
    shelves = catalogue(Random(f"{config.seed}:catalogue"), items=config.items, zipf_exponent=config.item_exponent)
    clean = []
    for number, shopper in enumerate(plan_shoppers(config)):
        rng = Random(f"{config.seed}:events:{number}")
        key = shopper.user_id.encode()
        for made in _Lifetime(config, shopper, number, shelves, rng).events():
            clean.append(LoggedEvent(made.kind, made.at_ms + 20 + int(rng.random() * 400), key, encode(made.event)))
    clean.sort(key=attrgetter("record_ms"))
    return add_dirt(
        Random(f"{config.seed}:dirt"), clean, late=config.late, duplicates=config.duplicates, malformed=config.malformed
    )


class _Lifetime:
    """One shopper's time in the shop: draws session after session and collects their events."""

    def __init__(self, config: SimulatorConfig, shopper: Shopper, number: int, shelves: dict[str, Shelf], rng: Random) -> None:
        self.config, self.shopper, self.shelves, self.rng = config, shopper, shelves, rng
        self.prefix = f"{config.seed:x}-{number:x}-"
        self.until_ms = config.end_ms if shopper.churn_ms is None else shopper.churn_ms
        self.purchase_due_ms = shopper.joined_ms + self._gap_ms(
            shopper.mean_purchase_gap_days * rng.random(), shopper.purchase_regularity
        )
        self.made: list[TimedEvent] = []
        self.orders = 0

    def events(self) -> list[TimedEvent]:
        """Return the events from joining to churn or to the end of the period, in order of time."""
        at_ms = self.shopper.joined_ms
        while at_ms < self.until_ms:
            self._draw_session(at_ms)
            at_ms = self._next_session_ms(at_ms)
        self.made = [made for made in self.made if made.at_ms < self.until_ms]
        self.made.sort(key=attrgetter("at_ms"))
        return self.made

    def _next_session_ms(self, at_ms: int) -> int:
        """Draw the next session's time: after a personal gap, up to four times as long near churn, near the usual hour."""
        stretch = 1 + 3 * self.shopper.decline_at(at_ms)
        gap_ms = self._gap_ms(self.shopper.mean_session_gap_days * stretch, self.shopper.session_regularity)
        next_ms = at_ms + max(45 * 60_000, gap_ms)
        if gap_ms > DAY_MS:
            hour = self.shopper.usual_hour + self.rng.gauss(0, 2)
            next_ms = next_ms // DAY_MS * DAY_MS + int(min(23.5, max(0.0, hour)) * HOUR_MS)
        return next_ms

    def _gap_ms(self, mean_days: float, regularity: float) -> int:
        return int(self.rng.gammavariate(regularity, mean_days / regularity) * DAY_MS)

    def _add(self, at_ms: int, event: Event) -> None:
        self.made.append(TimedEvent(at_ms, type(event).__name__.lower(), event))

    def _common(self, at_ms: int) -> tuple[str, int, str]:
        return self.shopper.user_id, at_ms, f"{self.prefix}{len(self.made):x}"

    def _draw_category(self, at_ms: int) -> str:
        if self.rng.random() < EXPLORING:
            return self.rng.choice(CATEGORIES)
        weights = self.shopper.interests_at(at_ms)
        return self.rng.choices(list(weights), list(weights.values()))[0]

    def _draw_item(self, category: str) -> Item:
        shelf = self.shelves[category]
        return self.rng.choices(shelf.items, cum_weights=shelf.cumulative_weights)[0]

    def _draw_session(self, at_ms: int) -> None:
        """Draw one session: a visit, then browses of items of one category, now and then of another."""
        rng, decline = self.rng, self.shopper.decline_at(at_ms)
        user, when, event_id = self._common(at_ms)
        visit = Visit(
            user_id=user, event_time_ms=when, event_id=event_id, page=rng.choice(PAGES), referrer=rng.choice(REFERRERS)
        )
        self._add(at_ms, visit)
        category = self._draw_category(at_ms)
        browsed: list[Item] = []
        for _ in range(max(1, round(rng.uniform(2.5, 6.0) * (1 - 0.65 * decline)))):
            if rng.random() < 0.15:
                category = self._draw_category(at_ms)
            item = self._draw_item(category)
            browsed.append(item)
            at_ms = self._draw_browse(at_ms, item, decline)
        if at_ms >= self.purchase_due_ms - self._slack_ms(decline):
            self._buy(
                at_ms + int(rng.uniform(20, 240) * 1000),
                rng.sample(browsed, min(len(browsed), rng.choice((1, 1, 2, 3)))),
                decline,
            )

    def _slack_ms(self, decline: float) -> int:
        return int(PURCHASE_SLACK * self.shopper.mean_session_gap_days * (1 - decline) * DAY_MS)

    def _draw_browse(self, at_ms: int, item: Item, decline: float) -> int:
        """Draw a browse of an item, perhaps after a search, perhaps with a click; return the time afterwards."""
        rng = self.rng
        at_ms += int(rng.uniform(3, 40) * 1000)
        if rng.random() < 0.3:
            user, when, event_id = self._common(at_ms)
            found = int(rng.expovariate(1 / 25))
            self._add(
                at_ms, Search(user_id=user, event_time_ms=when, event_id=event_id, query=query(rng, item), result_count=found)
            )
            at_ms += int(rng.uniform(2, 25) * 1000)
        wanted = item.category in self.shopper.interests_at(at_ms)
        dwell_ms = min(900_000, int(rng.lognormvariate(10.0 if wanted else 8.8, 0.8) * (1 - 0.5 * decline)))
        user, when, event_id = self._common(at_ms)
        browse = Browse(
            user_id=user,
            event_time_ms=when,
            event_id=event_id,
            item_id=item.item_id,
            dwell_ms=dwell_ms,
            category=item.category,
            title=item.title,
            price=item.price,
        )
        self._add(at_ms, browse)
        if rng.random() < (0.6 if wanted else 0.2) * (1 - 0.6 * decline):
            target = rng.choices(("link", "cart", "favourite"), (70, 12, 18))[0]
            self._click(at_ms + int(rng.random() * dwell_ms), item, target)
        return at_ms + dwell_ms

    def _click(self, at_ms: int, item: Item, target: str) -> None:
        user, when, event_id = self._common(at_ms)
        click = Click(
            user_id=user,
            event_time_ms=when,
            event_id=event_id,
            item_id=item.item_id,
            category=item.category,
            title=item.title,
            target=target,
        )
        self._add(at_ms, click)

    def _buy(self, at_ms: int, items: list[Item], decline: float) -> None:
        """Add cart clicks and a purchase; days later some items are returned, some are reviewed or rated."""
        rng, shopper = self.rng, self.shopper
        for item in items:
            self._click(at_ms - int(rng.uniform(5, 20) * 1000), item, "cart")
        self.orders += 1
        order_id = f"order-{self.prefix}{self.orders}"
        quantities = [min(12, 1 + int(rng.expovariate(1.6))) for _ in items]
        self._pay(at_ms, order_id, [_line(item, count, False) for item, count in zip(items, quantities, strict=True)])
        stretch = 1 + 2 * decline
        self.purchase_due_ms = at_ms + self._gap_ms(shopper.mean_purchase_gap_days * stretch, shopper.purchase_regularity)
        item, stars = items[0], self._stars(items[0], decline)
        if rng.random() < (0.3 if stars <= 2 else 0.05):
            self._pay(at_ms + int(rng.uniform(3, 14) * DAY_MS), order_id, [_line(item, quantities[0], True)])
        after_ms = at_ms + int(rng.uniform(1.5, 9) * DAY_MS)
        opinion = rng.random()
        if opinion < 0.28:
            user, when, event_id = self._common(after_ms)
            review_event = Review(
                user_id=user,
                event_time_ms=when,
                event_id=event_id,
                review_id=f"review-{event_id}",
                item_id=item.item_id,
                text=review(rng, item, stars),
                category=item.category,
            )
            self._add(after_ms, review_event)
        if opinion < 0.42:
            after_ms += int(rng.uniform(1, 30) * 1000)
            user, when, event_id = self._common(after_ms)
            rating = Rating(
                user_id=user,
                event_time_ms=when,
                event_id=event_id,
                item_id=item.item_id,
                rating=float(stars),
                category=item.category,
            )
            self._add(after_ms, rating)

    def _pay(self, at_ms: int, order_id: str, lines: list[PurchaseLine]) -> None:
        user, when, event_id = self._common(at_ms)
        purchase = Purchase(
            user_id=user, event_time_ms=when, event_id=event_id, currency=self.config.currency, lines=lines, order_id=order_id
        )
        self._add(at_ms, purchase)

    def _stars(self, item: Item, decline: float) -> int:
        """Draw the stars of an item from the shopper's satisfaction, the item's quality, and the decline."""
        raw = 1.5 + 3.2 * self.shopper.satisfaction + item.quality - 2.0 * decline + self.rng.gauss(0, 0.9)
        return max(1, min(5, round(raw)))


def _line(item: Item, quantity: int, returned: bool) -> PurchaseLine:
    return PurchaseLine(
        item_id=item.item_id,
        quantity=quantity,
        unit_price=item.price,
        category=item.category,
        title=item.title,
        returned=returned,
    )
