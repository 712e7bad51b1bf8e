"""Turn the split options of `footfall dataset` into the time periods of its slices. Start at periods_from."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from schemas.time_units import DAY_MS

if TYPE_CHECKING:
    from stream.logs.event_log import LogManifest


def periods_from(manifest: "LogManifest", shares: str, split: str | None, embargo_days: float) -> "tuple[Any, ...]":
    """Return the four periods, from shares of the log's time or the end dates in `split`; bad options raise ValueError."""
    from models.data.landmarks import periods_of, to_the_minute
    from stream.offline.build_dataset import slice_ends

    first_ms, last_ms = manifest.first_record_ms, manifest.last_record_ms
    if first_ms is None or last_ms is None:
        raise ValueError("found an empty log, expected several weeks of events: import, record or simulate a log")
    if split is None:
        try:
            ends = slice_ends(first_ms, last_ms + 1, [float(share) for share in shares.split(",")])
        except ValueError as error:
            raise ValueError(f"--shares {shares}: {error}") from error
    else:
        ends = [milliseconds(date) for date in split.split(",")]
        if not 3 <= len(ends) <= 4:
            raise ValueError(
                f"found --split {split}, {len(ends)} dates, expected the ends of train, validation and calibration, "
                "and optionally of test, which otherwise ends with the log"
            )
        ends += [last_ms + 1] if len(ends) == 3 else []
        if ends[-1] > last_ms + 1:
            raise ValueError(f"found --split {split}, expected dates within the log, which ends {to_the_minute(last_ms)}")
    return tuple(periods_of(first_ms, ends, round(embargo_days * DAY_MS)))


def milliseconds(date: str) -> int:
    """Parse a date, or a date and time, in UTC unless it has an offset; anything else raises ValueError."""
    try:
        at = datetime.fromisoformat(date.strip())
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except ValueError as error:
        raise ValueError(f"found date {date!r}, expected YYYY-MM-DD or YYYY-MM-DDTHH:MM, in UTC") from error
