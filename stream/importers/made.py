"""An event an importer made → the record of a log, as if it had arrived when it happened. Start at logged."""

from collections.abc import Mapping

from schemas.codec import encode_event
from schemas.events import Event
from schemas.topics import SOURCES
from stream.event_log import ImportCounts, LoggedEvent

KINDS: Mapping[type[Event], str] = {struct: kind for kind, struct in SOURCES.items()}
SAMPLES = 3  # of each reason

Samples = dict[str, list[str]]  # reason → a few refused lines: number and what is wrong


def logged(event: Event, counts: ImportCounts, *, record_ms: int | None = None) -> LoggedEvent:
    """Encode an event and count it.

    Raises:
        DecodeError: a role would refuse it; nothing is counted.
    """
    value = encode_event(event)
    kind = KINDS[type(event)]
    counts.make(kind)
    return LoggedEvent(kind, event.event_time_ms if record_ms is None else record_ms, event.user_id.encode(), value)


def reject(counts: ImportCounts, samples: Samples, line: int, reason: str, detail: str) -> None:
    """Count a refused line by its reason, and keep the first ones of each reason to be shown."""
    counts.drop(reason)
    if len(shown := samples.setdefault(reason, [])) < SAMPLES:
        shown.append(f"line {line}: {detail}")
