"""Kill or stop this process at a named point of the commit protocol, for chaos tests; does nothing unless armed.

With FOOTFALL_FAULT=kill@P2.sent:3>/tmp/fired, the process writes /tmp/fired at its third arrival at P2.sent, then sends
itself SIGKILL. With `stop` instead of `kill`, it sends itself SIGSTOP. The process reaches a point once per chunk, per
barrier and partition, or per rebalance, never per event. P1 to P5 are steps in docs/explanation/guarantees.md. Start at
reach.
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
    "P4.fenced",  # this worker owns the partition's transactional id, but has not read its rows
    "P5.restored",  # rows are restored, nothing is folded
    "folded",  # rows and totals in memory are ahead of what is durable
    "outputs.acked",  # the broker has the outputs of a chunk whose events are not durable
    "P1.acked",  # the broker has all outputs of this flush
    "P2.begun",
    "P2.sent",  # rows are passed to the producer
    "P2.offsets",  # the open transaction holds rows and offsets
    "P2.committed",  # durable, but not acknowledged
    "P2.acked",
)

_armed: list["Fault"] = []


class Fault(Struct):
    """Describe one fault: send the signal `action` to this process at arrival number `arrival` at `point`."""

    action: str
    point: str
    arrival: int
    record: Path
    arrivals: int = 0


def arm(text: str) -> None:
    """Arm the fault described by `text`; an empty text disarms.

    Raises:
        SettingsError: the text is not a fault.
    """
    _armed.clear()
    if not text:
        return
    found = re.fullmatch(r"(\w+)@([\w.]+):([1-9]\d*)>(.+)", text)
    if found is None or found[1] not in ACTIONS or found[2] not in POINTS:
        expected = f"{'|'.join(ACTIONS)}@POINT:ARRIVAL>FILE, where POINT is one of {', '.join(POINTS)}"
        raise SettingsError(f"{FAULT}: found {text!r}, expected {expected}")
    _armed.append(Fault(found[1], found[2], int(found[3]), Path(found[4])))


def reach(point: str) -> None:
    """Mark that the protocol reached `point`; fire the armed fault at its arrival number."""
    for fault in _armed:
        if fault.point == point:
            fault.arrivals += 1
            if fault.arrivals == fault.arrival:
                fault.record.write_text(f"{fault.action}@{fault.point}:{fault.arrival}")
                os.kill(os.getpid(), ACTIONS[fault.action])
