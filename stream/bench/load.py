"""Generate the load of every benchmark: seven event types over a day of event time, as JSON of about 200 bytes.

In shape `sessions`, a session is 40 events of one user, about ten seconds apart. In shape `independent`, the user and time of
each event are drawn independently. Users are drawn by Zipf(1.1). Equal seeds give equal events, so that a sender in another
process can generate them again. Start at load.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from schemas.time_units import DAY_MS
from stream.logs.event_log import LoggedEvent

Shape = Literal["sessions", "independent"]
SHAPES: tuple[Shape, ...] = ("sessions", "independent")
SESSION = 40  # events of one session; the first is a visit
ZIPF = 1.1
USERS = 100_000
START_MS = 1_760_000_000_000
SHARES = {"browse": 0.40, "click": 0.56, "search": 0.01, "purchase": 0.01, "review": 0.003, "rating": 0.017}
NAMES = ("visit", *SHARES)
TITLE = "Hand made oak garden lantern with heart"

Numbers = npt.NDArray[np.int64]


class Load(Struct, frozen=True):
    """`count` events as columns, each of shape (count,), in generation order; `order` sorts them by time."""

    seed: int
    users: Numbers
    times_ms: Numbers
    kinds: Numbers  # index into NAMES
    items: Numbers
    order: Numbers

    @property
    def count(self) -> int:
        """Number of events."""
        return len(self.order)

    def events(self) -> Iterator[LoggedEvent]:
        """Render the events in order of time."""
        for i in self.order.tolist():
            yield self._render(i)

    def positions(self) -> dict[str, int]:
        """Map each event id to its place in the order of time."""
        return {event_id(self.seed, i): place for place, i in enumerate(self.order.tolist())}

    def _render(self, i: int) -> LoggedEvent:
        kind, at, user = NAMES[self.kinds[i]], int(self.times_ms[i]), f"u-{self.users[i]:06d}"
        body: dict[str, Any] = {"user_id": user, "event_time_ms": at, "event_id": event_id(self.seed, i)}
        body |= _details(kind, i, int(self.items[i]))
        return LoggedEvent(kind, at, user.encode(), json.dumps(body, separators=(",", ":")).encode())


def event_id(seed: int, i: int) -> str:
    """Return the id of the `i`-th event of a load."""
    return f"{seed:04x}-{i:012x}-{i * 40503 % 65536:04x}"


def load(count: int, *, shape: Shape = "sessions", users: int = USERS, seed: int = 1, start_ms: int = START_MS) -> Load:
    """Draw `count` events of one day."""
    numbers = np.random.default_rng(seed)
    weights = np.arange(1, users + 1, dtype=np.float64) ** -ZIPF
    shares = weights / weights.sum()
    if shape == "sessions":
        sessions = count // SESSION + 1
        who = numbers.choice(users, size=sessions, p=shares).repeat(SESSION)[:count]
        starts = numbers.integers(0, DAY_MS - SESSION * 10_000, size=sessions).repeat(SESSION)[:count]
        times = start_ms + starts + (np.arange(count) % SESSION) * 10_000 + numbers.integers(0, 10_000, size=count)
        kinds = 1 + numbers.choice(len(SHARES), size=count, p=list(SHARES.values()))
        kinds[::SESSION] = 0
    else:
        who = numbers.choice(users, size=count, p=shares)
        times = start_ms + numbers.integers(0, DAY_MS, size=count)
        kinds = 1 + numbers.choice(len(SHARES), size=count, p=list(SHARES.values()))
        kinds[numbers.random(count) < 1 / SESSION] = 0
    items = (numbers.zipf(1.3, size=count) - 1) % 5000
    return Load(seed, who, times, kinds, items, np.argsort(times, kind="stable"))


def _details(kind: str, i: int, number: int) -> dict[str, Any]:
    item, category = f"sku-{number:05d}", f"category-{number % 12:02d}"
    if kind == "visit":
        return {"page": "/category/garden-and-outdoor/lanterns", "referrer": "newsletter-autumn-offers"}
    if kind == "search":
        return {"query": "oak garden lantern with heart", "result_count": 24}
    if kind == "purchase":
        line = {"item_id": item, "quantity": 2, "unit_price": 12.5, "category": category, "title": TITLE}
        return {"currency": "GBP", "lines": [line]}
    thing = {"item_id": item, "category": category}
    if kind == "browse":
        return thing | {"dwell_ms": 12_500, "title": TITLE}
    if kind == "click":
        return thing | {"title": TITLE}
    if kind == "review":
        return thing | {"review_id": f"r-{i}", "text": "It looks lovely by the door and the wood feels solid."}
    return thing | {"rating": 4.0}
