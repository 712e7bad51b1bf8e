"""Write lines to a file descriptor in a thread, so that a reader that stopped reading blocks no caller.

Lines wait in memory up to a number of bytes. Beyond it the oldest are dropped and counted, and a notice takes their place
once the reader reads again. Knows nothing of logging. Start at LineWriter.write.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Callable

WAITING_BYTES = 4 << 20
WRITE_BYTES = 1 << 16
RETRY_SECONDS = 0.2  # a descriptor that fails is tried again with the next lines after this time


class LineWriter:
    """Writes lines in order; `dropped` counts all that were not written."""

    def __init__(self, fd: int, notice: Callable[[int], str], *, waiting_bytes: int = WAITING_BYTES) -> None:
        """Write to `fd`, which stays open; `notice(n)` is the text written in place of `n` dropped lines."""
        self._fd, self._notice, self._limit = fd, notice, waiting_bytes
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0  # of the lines that wait
        self._writing = False
        self._missing = 0  # dropped since the last notice
        self.dropped = 0
        threading.Thread(target=self._run, name="line-writer", daemon=True).start()

    def write(self, line: str) -> None:
        """Queue one line, which ends with a newline; never blocks."""
        data = line.encode(errors="backslashreplace")
        with self._changed:
            self._waiting.append(data)
            self._bytes += len(data)
            while self._bytes > self._limit and len(self._waiting) > 1:
                self._bytes -= len(self._waiting.popleft())
                self._drop(1)
            self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Wait until all queued lines are written, for at most `seconds`; return whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._writing, seconds)

    def _drop(self, lines: int) -> None:
        self._missing += lines
        self.dropped += lines

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                missing, self._missing = self._missing, 0
                lines: list[bytes] = []
                size = 0
                while self._waiting and (not lines or size + len(self._waiting[0]) <= WRITE_BYTES):
                    lines.append(self._waiting.popleft())
                    size += len(lines[-1])
                self._bytes -= size
                self._writing = True
            notice = self._notice(missing).encode(errors="backslashreplace") if missing else b""
            written = _write_all(self._fd, notice + b"".join(lines))
            with self._changed:
                self._writing = False
                if not written:
                    self._missing += missing
                    self._drop(len(lines))
                self._changed.notify_all()
                if not written:
                    self._changed.wait(RETRY_SECONDS)


def _write_all(fd: int, data: bytes) -> bool:
    """Write all bytes, blocking; return whether that succeeded: a closed pipe or a full disk loses them."""
    left = memoryview(data)
    try:
        while left:
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:  # another program that shares the terminal made it non-blocking
                select.select([], [fd], [], RETRY_SECONDS)
    except (OSError, ValueError):
        return False
    return True
