"""The options of `footfall dataset` that split a log's time → the periods of its slices. Start at periods_from."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from schemas.time_units import DAY_MS

if TYPE_CHECKING:
    from stream.logs.event_log import LogManifest


def periods_from(manifest: "LogManifest", shares: str, split: str | None, embargo_days: float) -> "tuple[Any, ...]":
    """Return the four periods: by shares of the log's time, or with the ends that `split` names; bad ones raise ValueError."""
    from models.data.landmarks import periods_of, to_the_minute
    from stream.offline.build_dataset import ends_of

    first_ms, last_ms = manifest.first_record_ms, manifest.last_record_ms
    if first_ms is None or last_ms is None:
        raise ValueError("found an empty log, expected one of some weeks: import, record or simulate one")
    if split is None:
        try:
            ends = ends_of(first_ms, last_ms + 1, [float(share) for share in shares.split(",")])
        except ValueError as error:
            raise ValueError(f"--shares {shares}: {error}") from error
    else:
        ends = [milliseconds(date) for date in split.split(",")]
        if not 3 <= len(ends) <= 4:
            raise ValueError(
                f"found --split {split}, {len(ends)} dates, expected the ends of train, validation and calibration, and "
                "where the test slice does not last to the end of the log, of that"
            )
        ends += [last_ms + 1] if len(ends) == 3 else []
        if ends[-1] > last_ms + 1:
            raise ValueError(f"found --split {split}, expected its end within the log, which ends {to_the_minute(last_ms)}")
    return tuple(periods_of(first_ms, ends, round(embargo_days * DAY_MS)))


def milliseconds(date: str) -> int:
    """Read a date, or a date and time, in UTC unless it names its offset; anything else raises ValueError."""
    try:
        at = datetime.fromisoformat(date.strip())
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except ValueError as error:
        raise ValueError(f"found date {date!r}, expected YYYY-MM-DD or YYYY-MM-DDTHH:MM, in UTC") from error
