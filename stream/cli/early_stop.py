"""What Ctrl-C and SIGTERM do while a command that runs until stopped is still being imported. Start at end_when_asked.

Nothing has begun by then, so there is nothing to end in order. Imports nothing heavy: it is there before everything else.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

UNTIL_STOPPED = ("demo", "up", "worker")


def end_when_asked(arguments: Sequence[str]) -> None:
    """Let both signals end the process with 0, if `arguments` begin with a verb that later listens for them itself."""
    if arguments[:1] and arguments[0] in UNTIL_STOPPED:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    sys.stderr.write("footfall: stopped before it had started\n")
    os._exit(0)
