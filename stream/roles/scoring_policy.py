"""Which events are due for a score: pure decisions on event time.

ScoringPolicy sees an event and what its own topic left in the user's row, nothing else. So the set of scored events is
the same at any speed and in any interleaving of topics. Start at ScoringPolicy.is_due.
"""

from msgspec import Struct

from models.features.spec import KINDS
from models.features.user_state import CLICK, PURCHASE, REVIEW, SEARCH, VISIT, TopicState
from schemas.events import Event
from schemas.time_units import MINUTE_MS

ALWAYS_DUE = frozenset({PURCHASE, REVIEW, SEARCH})


class ScoringPolicy(Struct, frozen=True, kw_only=True):
    """When to score: `every_clicks` counts one user's clicks; the times are event time in milliseconds.

    `arrivals` are the kinds whose first event, and first event after a pause, is scored: a visit opens every session of
    a shop that sends visits. `min_gap_ms` holds between two scores that one topic causes; purchases, reviews and
    searches ignore it.
    """

    arrivals: frozenset[int] = frozenset({VISIT})

    pause_ms: int = 30 * MINUTE_MS
    every_clicks: int = 20
    min_gap_ms: int = MINUTE_MS
    score_lateness_ms: int = 10 * MINUTE_MS

    def is_due(self, kind: int, event: Event, record_ms: int, past: TopicState | None) -> str | None:
        """Say why this event deserves a score, or None; `past` is its topic's state before it."""
        at = event.event_time_ms
        due: str | None = None
        if kind in ALWAYS_DUE:
            due = KINDS[kind]
        else:
            if kind in self.arrivals:
                if past is None:
                    due = "first"
                elif at - past.newest_ms > self.pause_ms:
                    due = "return"
            if due is None and kind == CLICK and (1 if past is None else past.tiles.totals[0] + 1) % self.every_clicks == 0:
                due = "clicks"
            if due is None or (past is not None and past.due_ms and at - past.due_ms < self.min_gap_ms):
                return None
        return None if at < record_ms - self.score_lateness_ms else due
