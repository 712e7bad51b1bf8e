"""Add late, duplicate and malformed records to clean ones, each with a label that names the fault.

A late record is a clean one that arrives later. Duplicates and malformed records are added to the clean ones. No clean event
changes its content. The result is in order of arrival. Start at add_dirt.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

import msgspec
from msgspec import Struct

from schemas.dead_letter import Reason
from schemas.time_units import DAY_MS, MINUTE_MS
from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shopper import Shopper, SimulatorConfig, plan_shoppers

LATE_MS: Mapping[str, tuple[int, int]] = {
    "late:minutes": (MINUTE_MS, 59 * MINUTE_MS),
    "late:hours": (60 * MINUTE_MS, 23 * 60 * MINUTE_MS),
    "late:beyond-a-day": (DAY_MS + MINUTE_MS, 3 * DAY_MS),
}
LATE_ODDS = (6, 3, 1)
DUPLICATE = "duplicate"
DUPLICATE_WITHIN_MS = 6 * 60 * MINUTE_MS

Fields = dict[str, Any]


class SimulatedEvent(Struct, frozen=True, gc=False):
    """One record and its fault: None, a key of LATE_MS, `duplicate` or a key of MALFORMED."""

    logged: LoggedEvent
    dirt: str | None = None


class Truth(Struct, frozen=True, kw_only=True):
    """The ground truth of a simulation, to check a model or a pipeline against."""

    config: SimulatorConfig
    events: dict[str, int]
    dirt: dict[str, int]
    churned: int
    shoppers: list[Shopper]


def truth(config: SimulatorConfig, events: Iterable[SimulatedEvent]) -> Truth:
    """Return a simulation's ground truth: records by kind (dirty ones included), dirt by label, shoppers as planned."""
    kinds: Counter[str] = Counter()
    dirt: Counter[str] = Counter()
    for event in events:
        kinds[event.logged.kind] += 1
        if event.dirt is not None:
            dirt[event.dirt] += 1
    shoppers = plan_shoppers(config)
    return Truth(
        config=config,
        events=dict(sorted(kinds.items())),
        dirt=dict(sorted(dirt.items())),
        churned=sum(shopper.churn_ms is not None for shopper in shoppers),
        shoppers=shoppers,
    )


def add_dirt(
    rng: Random, clean: Sequence[LoggedEvent], *, late: float, duplicates: float, malformed: float
) -> list[SimulatedEvent]:
    """Delay records, and add duplicate and malformed copies; fractions are of the clean records, each drawn independently.

    A late record is never duplicated, and a duplicate arrives within hours, so that one label describes each record.
    """
    records = []
    for record in clean:
        if rng.random() < late:
            label = rng.choices(list(LATE_MS), LATE_ODDS)[0]
            records.append(SimulatedEvent(_delayed(rng, record, *LATE_MS[label]), label))
            continue
        records.append(SimulatedEvent(record))
        if rng.random() < duplicates:
            records.append(SimulatedEvent(_delayed(rng, record, 1, DUPLICATE_WITHIN_MS), DUPLICATE))
        if rng.random() < malformed:
            label = rng.choice(list(MALFORMED))
            records.append(SimulatedEvent(_delayed(rng, MALFORMED[label][1](record), 1, MINUTE_MS), label))
    records.sort(key=lambda event: event.logged.record_ms)
    return records


def _delayed(rng: Random, record: LoggedEvent, at_least_ms: int, at_most_ms: int) -> LoggedEvent:
    return LoggedEvent(record.kind, record.record_ms + rng.randint(at_least_ms, at_most_ms), record.key, record.value)


def _changed(record: LoggedEvent, change: Callable[[Fields], object]) -> LoggedEvent:
    """Copy a record with changed fields, and with an event id of its own so that only its fault can refuse it."""
    fields = msgspec.json.decode(record.value or b"{}")
    fields["event_id"] += "-bad"
    change(fields)
    return LoggedEvent(record.kind, record.record_ms, record.key, msgspec.json.encode(fields))


def _copied(record: LoggedEvent) -> LoggedEvent:
    return _changed(record, lambda fields: None)


def _negative_price(record: LoggedEvent) -> LoggedEvent:
    """Turn any record into a browse with a negative price."""
    fields = msgspec.json.decode(record.value or b"{}")
    browse = {name: fields[name] for name in ("user_id", "event_time_ms")}
    browse |= {"event_id": f"{fields['event_id']}-bad", "item_id": "kitchen-0000", "price": -4.99}
    return LoggedEvent("browse", record.record_ms, record.key, msgspec.json.encode(browse))


def _with(record: LoggedEvent, *, key: bytes | None, value: bytes | None) -> LoggedEvent:
    return LoggedEvent(record.kind, record.record_ms, key, value)


def _not_a_number(record: LoggedEvent) -> LoggedEvent:
    malformed = _changed(record, lambda fields: fields.update(event_time_ms=0))
    return _with(
        malformed, key=record.key, value=(malformed.value or b"").replace(b'"event_time_ms":0', b'"event_time_ms":NaN')
    )


def _not_utf8(record: LoggedEvent) -> LoggedEvent:
    malformed = _changed(record, lambda fields: fields.update(event_id="@"))
    return _with(malformed, key=record.key, value=(malformed.value or b"").replace(b'"@"', b'"caf\xe9"'))


MALFORMED: Mapping[str, tuple[Reason, Callable[[LoggedEvent], LoggedEvent]]] = {
    "malformed:broken-json": (Reason.BAD_JSON, lambda r: _with(r, key=r.key, value=(r.value or b"")[:-7])),
    "malformed:not-utf8": (Reason.BAD_JSON, _not_utf8),
    "malformed:nan": (Reason.BAD_JSON, _not_a_number),
    "malformed:missing-field": (Reason.MISSING_FIELD, lambda r: _changed(r, lambda fields: fields.pop("event_time_ms"))),
    "malformed:wrong-type": (Reason.WRONG_TYPE, lambda r: _changed(r, lambda fields: fields.update(event_time_ms="noon"))),
    "malformed:negative-price": (Reason.OUT_OF_RANGE, _negative_price),
    "malformed:other-key": (Reason.KEY_MISMATCH, lambda r: _with(r, key=b"somebody-else", value=_copied(r).value)),
    "malformed:no-key": (Reason.MISSING_KEY, lambda r: _with(r, key=None, value=_copied(r).value)),
    "malformed:empty-value": (Reason.EMPTY_VALUE, lambda r: _with(r, key=r.key, value=None)),
}
