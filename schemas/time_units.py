"""Define units of time in milliseconds, the unit of every timestamp and duration on the wire and in a row."""

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
