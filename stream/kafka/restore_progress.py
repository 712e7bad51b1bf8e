"""How far a restore has come, for the log, /readyz and /metrics. Start at RestoreProgress."""

from typing import Any

import structlog
from msgspec import Struct

LOG_EVERY_SECONDS = 1.0

log = structlog.get_logger()


class RestoreProgress(Struct):
    """Positions of the changelog that were read, of how many; `rows` counts records, which compaction makes fewer."""

    total: int = 0
    started: float = 0.0
    read: int = 0
    rows: int = 0
    seconds: float = 0.0
    logged: float = 0.0  # seconds after the start

    def advance(self, read: int, rows: int, now: float) -> None:
        """Take what was read until `now`, in seconds of a monotonic clock; logs at most once a second."""
        self.read, self.rows, self.seconds = read, self.rows + rows, now - self.started
        if self.seconds - self.logged >= LOG_EVERY_SECONDS:
            self.logged = self.seconds
            log.info("restoring", percent=round(100 * read / max(1, self.total)), **self.facts())

    def end(self, now: float) -> None:
        """Note that everything was read."""
        self.read, self.seconds = self.total, now - self.started

    def facts(self) -> dict[str, Any]:
        """Return rows, time and rate for a log line."""
        rate = round(self.rows / self.seconds) if self.seconds else 0
        return {"rows": self.rows, "seconds": round(self.seconds, 2), "rows_per_second": rate}
