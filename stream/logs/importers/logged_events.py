"""Encode an importer's events as log records that arrive at their event time. Start at logged."""

from collections.abc import Iterable, Mapping

from schemas.codec import encode_event
from schemas.events import Event
from schemas.topics import SOURCES
from stream.logs.event_log import ImportCounts, LoggedEvent

KINDS: Mapping[type[Event], str] = {struct: kind for kind, struct in SOURCES.items()}
SAMPLES = 3  # of each reason

Samples = dict[str, list[str]]  # reason → a few refused lines: line number and error


def logged(event: Event, counts: ImportCounts) -> LoggedEvent:
    """Encode an event and count it.

    Raises:
        DecodeError: a role would refuse it; nothing is counted.
    """
    return logged_all([event], counts)[0]


def logged_all(events: Iterable[Event], counts: ImportCounts) -> list[LoggedEvent]:
    """Encode the events of one line, all or none, and count them.

    Raises:
        DecodeError: a role would refuse one; nothing is counted.
    """
    made = [LoggedEvent(KINDS[type(e)], e.event_time_ms, e.user_id.encode(), encode_event(e)) for e in events]
    for event in made:
        counts.make(event.kind)
    return made


def reject(counts: ImportCounts, samples: Samples, line: int, reason: str, detail: str) -> None:
    """Count a refused line by its reason, and keep the first few of each reason for display."""
    counts.drop(reason)
    if len(shown := samples.setdefault(reason, [])) < SAMPLES:
        shown.append(f"line {line}: {detail}")
