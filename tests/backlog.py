"""Generate a day of a shop's events in seven topics of very different rates, in order of arrival. Start at backlog."""

import json
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

import msgspec

from models.features.spec import KINDS
from schemas.codec import encode
from schemas.scoring import ScoreRequest
from schemas.time_units import DAY_MS, HOUR_MS
from stream.logs.event_log import LoggedEvent
from stream.offline.replay_log import Replay
from tests.builders import browse, click, purchase, rating, review, search, visit

RATES = {"click": 1000, "browse": 500, "visit": 100, "search": 30, "rating": 5, "purchase": 2, "review": 1}
BUILDERS: dict[str, Callable[..., Any]] = {
    "click": click,
    "browse": browse,
    "visit": visit,
    "search": search,
    "rating": rating,
    "purchase": purchase,
    "review": review,
}
LATE_SHARE = 0.01


def backlog(count: int, *, end_ms: int, random: Random, users: int) -> list[LoggedEvent]:
    """Draw `count` records of the day before `end_ms`: each topic evenly spread, 1 % of them late.

    A late event happened more than a day before it arrived, the others less than half a second.
    """
    kinds = random.choices(list(RATES), list(RATES.values()), k=count - len(KINDS)) + list(KINDS)
    times = sorted(random.sample(range(end_ms - DAY_MS, end_ms), count))
    random.shuffle(kinds)
    events = []
    for number, (kind, arrived) in enumerate(zip(kinds, times, strict=True)):
        delay = random.randrange(20, 500)
        if random.random() < LATE_SHARE:
            delay = DAY_MS + random.randrange(1, 3 * HOUR_MS)
        user = f"u-{random.randrange(users)}"
        changes: dict[str, Any] = {"user_id": user, "event_time_ms": arrived - delay, "event_id": f"e-{number}"}
        if kind == "review":
            changes["review_id"] = f"r-{number}"
        if kind == "purchase":
            changes["currency"] = "GBP"
        events.append(LoggedEvent(kind, arrived, user.encode(), encode(BUILDERS[kind](**changes))))
    return events


def topic_after_topic(events: Sequence[LoggedEvent]) -> list[LoggedEvent]:
    """Order records as a worker would that reads the small topics to their ends first."""
    return sorted(events, key=lambda event: RATES[event.kind])


def late(events: Iterable[LoggedEvent]) -> int:
    """Count events that happened more than a day before they arrived."""
    return sum(event.record_ms - json.loads(event.value or b"")["event_time_ms"] > DAY_MS for event in events)


def requests_of(replay: Replay, events: Iterable[LoggedEvent]) -> dict[str, ScoreRequest]:
    """Fold events in the given order and return the resulting score requests without their send times."""
    found = (output.message for output in replay.fold(events))
    return {message.request_id: untimed(message) for message in found if isinstance(message, ScoreRequest)}


def untimed(request: ScoreRequest) -> ScoreRequest:
    """Return a request without what differs from run to run: its timings, and the id of its source topic."""
    source = msgspec.structs.replace(request.source, topic_id="")
    return msgspec.structs.replace(request, timings=None, source=source)  # type: ignore[arg-type]


def differing(found: dict[str, ScoreRequest], wanted: dict[str, ScoreRequest]) -> list[ScoreRequest]:
    """Return the wanted requests that are missing or differ in `found`."""
    return [request for name, request in wanted.items() if found.get(name) != request]


def behind(replay: Replay, events: Iterable[LoggedEvent], *, more_than_ms: int) -> int:
    """Count records more than `more_than_ms` older than the newest one of their partition number, over all topics."""
    newest: dict[int, int] = {}
    count = 0
    for event in events:
        number = replay.partition_of(event.key)
        newest[number] = max(event.record_ms, newest.get(number, event.record_ms))
        count += event.record_ms < newest[number] - more_than_ms
    return count
