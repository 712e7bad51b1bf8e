"""Make child processes end together with their parent, and end them on request.

On Linux, the kernel kills a child when its parent dies, even if the parent was killed. On other systems, children end only
if the parent stops them before it ends. This module knows neither Kafka nor roles. Start at die_with_parent.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], None]:
    """Return the function that a child runs between fork and exec, so that the kernel kills it when this process dies.

    Start such a child from the main thread: the kernel kills it when the thread that forked it ends.
    """
    parent = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None

    def in_child() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # the parent died before prctl was called
                os._exit(1)

    return in_child


def end_child(process: "subprocess.Popen[bytes]", seconds: float) -> int:
    """Send SIGTERM, after `seconds` SIGKILL, and return the exit code; a child that has ended gets no signal."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def running_processes(sessions: set[int]) -> list[int]:
    """List the processes of these sessions that still run, without zombies; empty where there is no /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_bytes().rsplit(b")", 1)[1].split()[:4]
        except OSError:
            continue  # it ended meanwhile
        if int(session) in sessions and state not in (b"Z", b"X"):
            found.append(int(stat.parent.name))
    return sorted(found)
