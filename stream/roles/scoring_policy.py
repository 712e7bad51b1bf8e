"""Decide which events are scored, without a clock.

ScoringPolicy reads an event, its record timestamp, and the state of the event's own topic in the user's row. The same events
are therefore scored at any speed and in any interleaving of topics. Start at ScoringPolicy.is_due.
"""

from msgspec import Struct

from models.features.spec import KINDS
from models.features.user_state import CLICK, PURCHASE, REVIEW, SEARCH, VISIT, TopicState
from schemas.events import Event
from schemas.time_units import MINUTE_MS

ALWAYS_DUE = frozenset({PURCHASE, REVIEW, SEARCH})


class ScoringPolicy(Struct, frozen=True, kw_only=True):
    """Configure when to score: `every_clicks` counts one user's clicks; durations are event time in milliseconds.

    `arrivals` are the kinds whose first event, and whose first event after a pause, is scored. In a shop that sends visits,
    a visit opens every session. `min_gap_ms` is the minimum between two scores caused by one topic; purchases, reviews and
    searches ignore it.
    """

    arrivals: frozenset[int] = frozenset({VISIT})

    pause_ms: int = 30 * MINUTE_MS
    every_clicks: int = 20
    min_gap_ms: int = MINUTE_MS
    score_lateness_ms: int = 10 * MINUTE_MS

    def is_due(self, kind: int, event: Event, record_ms: int, past: TopicState | None) -> str | None:
        """Return why this event is scored, or None if it is not; `past` is its topic's state before the event."""
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
