"""Exit at once on Ctrl-C or SIGTERM while a long-running command is still being imported.

Nothing runs yet, so no shutdown is needed. This module imports nothing slow, because it is imported before everything else.
Start at exit_on_signal.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

UNTIL_STOPPED = ("demo", "up", "worker")


def exit_on_signal(arguments: Sequence[str]) -> None:
    """Make both signals exit with 0 if `arguments` begin with a command that installs its own handlers later."""
    if arguments[:1] and arguments[0] in UNTIL_STOPPED:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    sys.stderr.write("footfall: stopped before the command started\n")
    os._exit(0)
