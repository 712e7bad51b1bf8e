"""Define a minute, an hour and a day in milliseconds, the unit of every field whose name ends in `_ms`."""

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
