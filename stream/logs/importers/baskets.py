"""Group order lines, one item each, into purchases of up to MAX_LINES lines, optionally with a derived visit before each.

Start at Baskets.
"""

from collections.abc import Iterator

from schemas.events import Event, Purchase, PurchaseLine, Visit
from schemas.fields import MAX_LINES


class Baskets:
    """Groups lines by user and order, in the order of each group's first line; holds all of them in memory."""

    def __init__(self, prefix: str) -> None:
        """Start without lines; event ids are made of `prefix`, the basket number and the part number."""
        self._prefix = prefix
        self._lines: dict[tuple[str, object], list[PurchaseLine]] = {}
        self._heads: list[tuple[str, int, str, str | None]] = []

    def add(self, user_id: str, order: object, at_ms: int, currency: str, order_id: str | None, line: PurchaseLine) -> None:
        """Add a line to its basket; a basket has the time and currency of its first line."""
        lines = self._lines.get((user_id, order))
        if lines is None:
            lines = self._lines[user_id, order] = []
            self._heads.append((user_id, at_ms, currency, order_id))
        lines.append(line)

    def events(self, *, visits: bool) -> Iterator[Event]:
        """Yield the purchases; with `visits`, yield a derived visit of the same time before each."""
        baskets = zip(self._heads, self._lines.values(), strict=True)
        for number, ((user_id, at_ms, currency, order_id), lines) in enumerate(baskets, start=1):
            if visits:
                yield Visit(user_id=user_id, event_time_ms=at_ms, event_id=f"{self._prefix}-{number}-visit", derived=True)
            for part, first in enumerate(range(0, len(lines), MAX_LINES), start=1):
                yield Purchase(
                    user_id=user_id,
                    event_time_ms=at_ms,
                    event_id=f"{self._prefix}-{number}-{part}",
                    currency=currency,
                    lines=lines[first : first + MAX_LINES],
                    order_id=order_id,
                )
