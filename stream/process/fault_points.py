"""Named points of the protocol at which a chaos test kills or stops this process; inert unless armed.

FOOTFALL_FAULT=kill@P2.sent:3>/tmp/fired is a kill -9 of itself at the third arrival at P2.sent, written down in
/tmp/fired before it happens; `stop` is a SIGSTOP. A point is passed once per chunk or barrier, never per event; the
numbers are the steps of the protocol in DECISIONS.md. Start at reach.
"""

import os
import re
import signal
from pathlib import Path

from msgspec import Struct

from schemas.errors import SettingsError

FAULT = "FOOTFALL_FAULT"
ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
POINTS = (
    "P4.fenced",  # the partition's transactional id is ours, its rows are not read yet
    "P5.restored",  # rows are read, nothing is folded
    "folded",  # rows and totals in memory are ahead of what is durable
    "outputs.acked",  # the broker has the outputs of a chunk whose events are not applied for good
    "P1.acked",  # the broker has the outputs of everything in this flush
    "P2.begun",
    "P2.sent",  # rows are handed to the producer
    "P2.offsets",  # the open transaction holds rows and offsets
    "P2.committed",  # durable, not acknowledged
    "P2.acked",
)

_armed: list["Fault"] = []


class Fault(Struct):
    """One fault: send `action` to this process at arrival number `arrival` at `point`."""

    action: str
    point: str
    arrival: int
    record: Path
    arrivals: int = 0


def arm(text: str) -> None:
    """Arm the fault that `text` describes; an empty text disarms.

    Raises:
        SettingsError: the text describes no fault.
    """
    _armed.clear()
    if not text:
        return
    found = re.fullmatch(r"(\w+)@([\w.]+):([1-9]\d*)>(.+)", text)
    if found is None or found[1] not in ACTIONS or found[2] not in POINTS:
        expected = f"{'|'.join(ACTIONS)}@POINT:ARRIVAL>FILE with a point of {', '.join(POINTS)}"
        raise SettingsError(f"{FAULT}: found {text!r}, expected {expected}")
    _armed.append(Fault(found[1], found[2], int(found[3]), Path(found[4])))


def reach(point: str) -> None:
    """Pass a point of the protocol: the armed fault fires here when its turn has come."""
    for fault in _armed:
        if fault.point == point:
            fault.arrivals += 1
            if fault.arrivals == fault.arrival:
                fault.record.write_text(f"{fault.action}@{fault.point}:{fault.arrival}")
                os.kill(os.getpid(), ACTIONS[fault.action])
