"""Track the progress of a restore for the log, /readyz and /metrics. Start at RestoreProgress."""

from typing import Any

import structlog
from msgspec import Struct

LOG_EVERY_SECONDS = 1.0

log = structlog.get_logger()


class RestoreProgress(Struct):
    """Count changelog offsets `read` of `total`; `rows` counts records, which are fewer after compaction."""

    total: int = 0
    started: float = 0.0
    read: int = 0
    rows: int = 0
    seconds: float = 0.0
    logged: float = 0.0  # seconds after the start

    def advance(self, read: int, rows: int, now: float) -> None:
        """Record offsets read in total and rows read since the last call, at `now` (monotonic seconds); log once a second."""
        self.read, self.rows, self.seconds = read, self.rows + rows, now - self.started
        if self.seconds - self.logged >= LOG_EVERY_SECONDS:
            self.logged = self.seconds
            percent = round(100 * read / max(1, self.total))
            log.info(
                "restoring", percent=percent, **self.facts(), action="reading the changelog; source topics are read after it"
            )

    def end(self, now: float) -> None:
        """Record that the restore is complete."""
        self.read, self.seconds = self.total, now - self.started

    def facts(self) -> dict[str, Any]:
        """Return changelog records, seconds and rate for a log line."""
        rate = round(self.rows / self.seconds) if self.seconds else 0
        return {"changelog_records": self.rows, "seconds": round(self.seconds, 2), "records_per_second": rate}
