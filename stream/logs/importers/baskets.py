"""Lines of a table, one item each → purchases of up to MAX_LINES lines, each perhaps with the visit it implies.

Start at Baskets.
"""

from collections.abc import Iterator

from schemas.events import Event, Purchase, PurchaseLine, Visit
from schemas.fields import MAX_LINES


class Baskets:
    """Lines put together by user and order, in the order of the first line of each; all of them held in memory."""

    def __init__(self, prefix: str) -> None:
        """Begin without lines; event ids are `prefix`, the number of the basket, and that of its part."""
        self._prefix = prefix
        self._found: dict[tuple[str, object], list[PurchaseLine]] = {}
        self._heads: list[tuple[str, int, str, str | None]] = []

    def add(self, user_id: str, order: object, at_ms: int, currency: str, order_id: str | None, line: PurchaseLine) -> None:
        """Put a line into its basket, whose time and currency are those of its first line."""
        lines = self._found.get((user_id, order))
        if lines is None:
            lines = self._found[user_id, order] = []
            self._heads.append((user_id, at_ms, currency, order_id))
        lines.append(line)

    def events(self, *, visits: bool) -> Iterator[Event]:
        """Make the purchases, with `visits` each after a derived visit of the same time."""
        baskets = zip(self._heads, self._found.values(), strict=True)
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
