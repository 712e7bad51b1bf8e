"""Import Taobao's UserBehavior.csv as browses, clicks and purchases.

Input lines, without a heading: user, item, category, behaviour, unix seconds. `pv` is a browse, `cart` and `fav` are
clicks, `buy` is a purchase. The file has no prices or quantities, so each purchase is one piece at 0 CNY. Features of money
are meaningless. The setting reporting_currency must be CNY, or currency_rates must hold a rate for CNY. Start at
import_taobao.
"""

from collections import Counter
from pathlib import Path

from schemas.codec import encode_event
from schemas.errors import DecodeError, LogError
from schemas.events import Browse, Click, Event, Purchase, PurchaseLine
from stream.logs.event_log import ImportCounts, LoggedEvent

SOURCE = "Taobao UserBehavior, purchases without price"
CURRENCY = "CNY"
KINDS = {"pv": "browse", "cart": "click", "fav": "click", "buy": "purchase"}
TARGETS = {"cart": "cart", "fav": "favourite"}
EARLIEST_S = 1_000_000_000  # September 2001; a number with fewer digits is from a truncated line


def import_taobao(path: Path) -> tuple[list[LoggedEvent], ImportCounts]:
    """Read the file in its order; event ids come from the line number, from 1. All events are held in memory.

    A record's timestamp is its event time, since the file has no arrival times and so no late events.

    Raises:
        LogError: there is no such file.
    """
    if not path.is_file():
        raise LogError(f"{path} is not a file, expected UserBehavior.csv: unpack it there")
    events: list[LoggedEvent] = []
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    lines_in = 0
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for lines_in, line in enumerate(file, start=1):
            made = _event(line, f"tb-{lines_in}")
            if isinstance(made, str):
                dropped[made] += 1
                continue
            events.append(made)
            notes["purchases_without_price"] += made.kind == "purchase"
    kept = dict(sorted(Counter(event.kind for event in events).items()))
    counts = ImportCounts(
        lines_in=lines_in, lines_kept=kept, lines_dropped=dict(sorted(dropped.items())), events=dict(kept), notes=dict(notes)
    )
    return events, counts


def _event(line: str, event_id: str) -> LoggedEvent | str:
    """Return the event of one line, or the reason why it is dropped."""
    columns = line.rstrip("\r\n").split(",")
    if len(columns) != 5:
        return "truncated" if not line.endswith("\n") else "malformed"
    user_id, item_id, category, behaviour, seconds = columns
    if behaviour not in KINDS:
        return "unknown_behaviour"
    if not (seconds.isascii() and seconds.isdigit() and int(seconds) >= EARLIEST_S):
        return "truncated" if not line.endswith("\n") else "unreadable_time"
    event = _struct(behaviour, user_id, item_id, category, int(seconds) * 1000, event_id)
    try:
        value = encode_event(event)
    except DecodeError:
        return "out_of_range"
    return LoggedEvent(KINDS[behaviour], event.event_time_ms, user_id.encode(), value)


def _struct(behaviour: str, user_id: str, item_id: str, category: str, at_ms: int, event_id: str) -> Event:
    if behaviour == "pv":
        return Browse(user_id=user_id, event_time_ms=at_ms, event_id=event_id, item_id=item_id, category=category)
    if behaviour == "buy":
        line = PurchaseLine(item_id=item_id, quantity=1, unit_price=0.0, category=category)
        return Purchase(user_id=user_id, event_time_ms=at_ms, event_id=event_id, currency=CURRENCY, lines=[line])
    target = TARGETS[behaviour]
    return Click(user_id=user_id, event_time_ms=at_ms, event_id=event_id, item_id=item_id, category=category, target=target)
