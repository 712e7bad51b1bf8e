"""Read golden_users.yaml: scripted shoppers, and the scores that any sensible model must give them.

This module turns each script of steps into events. It neither folds nor scores them: golden_checks.py compares the scores.
Start at Golden.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from schemas.errors import EvaluationError
from schemas.events import Browse, Click, Event, Purchase, PurchaseLine, Rating, Review, Search, Visit
from schemas.scoring import EventKind
from schemas.time_units import DAY_MS, HOUR_MS, MINUTE_MS

GOLDEN_USERS = Path(__file__).parent / "golden_users.yaml"
SHOPPER = "shopper"  # the user who is scored, after their last step
START_MS = 1_767_607_200_000  # a Monday, 10:00 UTC
UNITS_MS = {"d": DAY_MS, "h": HOUR_MS, "m": MINUTE_MS}
CURRENCY = "GBP"

Duration = Annotated[str, Meta(pattern=r"^\d+[dhm]( \d+[dhm])*$")]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Sentiment = Literal["positive", "negative"]


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One action, `at` a time after the story's start, repeated `times` times at intervals of `every`."""

    do: EventKind
    at: Duration
    times: Annotated[int, Meta(ge=1, le=1000)] = 1
    every: Duration = "1d"
    who: str = SHOPPER
    item: str = "item-1"
    category: str | None = None
    title: str | None = None
    text: str = ""  # of a search or review
    price: float = 10.0
    stars: float = 5.0
    seconds: int = 20  # of a browse


class RiskBounds(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds on the risk of no return `within` a time, after the shopper was `silent` for a time."""

    silent: Duration
    within: Duration
    at_least: Share = 0.0
    at_most: Share = 1.0


class TopInterest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A category that must be among the most probable interests."""

    category: str
    within_top: Annotated[int, Meta(ge=1)]


class Story(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One shopper's script and the scores expected after it; `sentiment` is that of the review that ends it."""

    about: str
    script: Annotated[list[Step], Meta(min_length=1)]
    risk: list[RiskBounds] = []
    interest: list[TopInterest] = []
    sentiment: Sentiment | None = None

    def kinds(self) -> frozenset[str]:
        """Return the kinds of events that the shopper causes."""
        return frozenset(step.do for step in self.script if step.who == SHOPPER)


class Moment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A story, `silent` after its end."""

    story: str
    silent: Duration


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two moments: the risk of no return `within` a time must be more than `by` higher at `higher` than at `lower`."""

    about: str
    lower: Moment
    higher: Moment
    within: Duration
    by: Share = 0.0


class Golden(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of golden_users.yaml."""

    stories: dict[str, Story]
    orders: list[Order] = []


def load_golden(path: Path = GOLDEN_USERS) -> Golden:
    """Read a file of stories (YAML).

    Raises:
        EvaluationError: the file is missing or invalid.
    """
    try:
        golden = msgspec.yaml.decode(path.read_bytes(), type=Golden)
    except (OSError, msgspec.DecodeError) as error:
        raise EvaluationError(f"golden users {path}: {error}, expected stories as in {GOLDEN_USERS}") from error
    for order in golden.orders:
        for name in (order.lower.story, order.higher.story):
            if name not in golden.stories:
                raise EvaluationError(
                    f"golden users {path}: found no story {name!r}, expected it for the entry {order.about!r} of orders"
                )
    for name, story in golden.stories.items():
        theirs = [kind for kind, event in events_of(story) if event.user_id == SHOPPER]
        if not theirs or theirs[-1] == "rating" or (story.sentiment and theirs[-1] != "review"):
            last = "review" if story.sentiment else "step of the shopper other than a rating"
            raise EvaluationError(
                f"golden users {path}: found another last step in story {name!r}, expected a {last} as its last"
            )
    return golden


def events_of(story: Story, start_ms: int = START_MS) -> list[tuple[EventKind, Event]]:
    """Return a script's events with their kinds, in order of time; ids depend on the place in the script alone."""
    events = [
        (step.do, _event(step, start_ms + millis(step.at) + number * millis(step.every), f"{place}-{number}"))
        for place, step in enumerate(story.script)
        for number in range(step.times)
    ]
    return sorted(events, key=lambda event: event[1].event_time_ms)


def millis(duration: str) -> int:
    """Convert a duration such as "3d 2h" to milliseconds."""
    return sum(int(part[:-1]) * UNITS_MS[part[-1]] for part in duration.split())


def _event(step: Step, at_ms: int, event_id: str) -> Event:
    who: dict[str, Any] = {"user_id": step.who, "event_time_ms": at_ms, "event_id": event_id}
    item = step.item
    match step.do:
        case "visit":
            return Visit(**who)
        case "browse":
            dwell_ms = step.seconds * 1000
            return Browse(**who, item_id=item, category=step.category, title=step.title, price=step.price, dwell_ms=dwell_ms)
        case "click":
            return Click(**who, item_id=item, category=step.category, title=step.title)
        case "search":
            return Search(**who, query=step.text)
        case "purchase":
            line = PurchaseLine(item_id=item, quantity=1, unit_price=step.price, category=step.category, title=step.title)
            return Purchase(**who, currency=CURRENCY, lines=[line])
        case "review":
            return Review(**who, review_id=event_id, item_id=item, text=step.text, category=step.category)
        case "rating":
            return Rating(**who, item_id=item, rating=step.stars, category=step.category)
