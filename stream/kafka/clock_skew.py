"""Compare this worker's clock with the broker's, by the append times that the broker returns for what was sent.

Start at ClockSkew.note.
"""

import time
from collections.abc import Iterable
from typing import Any

import structlog

LOG_APPEND_TIME = 1  # the timestamp type of a topic that the broker stamps
WARN_SECONDS = 60.0
REPEAT_SECONDS = 600.0

log = structlog.get_logger()


class ClockSkew:
    """Hold by how many seconds the broker's clock is ahead of this worker's; None before the first append time."""

    def __init__(self) -> None:
        """Start without a comparison."""
        self.seconds: float | None = None
        self._warned_at = float("-inf")

    def note(self, sent: Iterable[Any], now: float, monotonic: float) -> None:
        """Take the metadata of acknowledged records; `now` is this worker's epoch time in seconds.

        Topics that keep the producer's timestamp say nothing about the broker's clock.
        """
        appended = [one.timestamp for one in sent if getattr(one, "timestamp_type", None) == LOG_APPEND_TIME]
        if not appended:
            return
        self.seconds = max(appended) / 1000 - now
        if abs(self.seconds) > WARN_SECONDS and monotonic - self._warned_at > REPEAT_SECONDS:
            self._warned_at = monotonic
            log.warning(
                "clock_differs",
                broker_ahead_seconds=round(self.seconds),
                worker_time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
                action="nothing is lost, since the broker stamps outputs; set this machine's clock, or the broker's",
            )
