"""Parse times as shops write them into milliseconds since 1970 (UTC), and detect the format of a column.

Start at time_reader and fitting_format.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from schemas.errors import LogError

ISO, SECONDS, MILLISECONDS = "iso", "seconds", "milliseconds"
DATES = ("%Y%m%d", "%d.%m.%Y", "%d.%m.%y", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d/%m/%y", "%m/%d/%y")
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
FORMATS = (ISO, SECONDS, MILLISECONDS, *(date + clock for date in DATES for clock in CLOCKS))
FIRST_TEXTS = 200  # texts that narrow the formats down; all texts are then read only by those left
EARLIEST_S = 100_000_000  # 1973: a smaller whole number is a date written in digits, or not a time
LATEST_S = 100_000_000_000  # a larger number is in milliseconds

TimeReader = Callable[[str], int | None]


def time_reader(form: str, zone: str = "UTC") -> TimeReader:
    """Build a reader of one format: iso, seconds, milliseconds, or of `strptime`; it returns None for what is not a time.

    `zone` applies to times without a zone of their own.

    Raises:
        LogError: there is no such zone.
    """
    try:
        where = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise LogError(f"found time zone {zone!r}, expected a name such as Europe/Berlin or UTC: correct it") from error

    @lru_cache(maxsize=1 << 16)
    def read(text: str) -> int | None:
        text = text.strip()
        try:
            if form in (SECONDS, MILLISECONDS):
                return _number(text, form)
            at = datetime.fromisoformat(text) if form == ISO else datetime.strptime(text, form)  # noqa: DTZ007, zone comes below
            milliseconds = int((at if at.tzinfo else at.replace(tzinfo=where)).timestamp() * 1000)
        except (ValueError, OverflowError, OSError):
            return None
        return milliseconds if milliseconds >= 0 else None

    return read


def fitting_format(texts: Iterable[str], option: str) -> str:
    """Return the format that reads the most of some times.

    Raises:
        LogError: no format reads at least half of them, or two formats read equally many and differ; `option` is the CLI
            option that names the format.
    """
    distinct = list(dict.fromkeys(stripped for text in texts if (stripped := text.strip())))
    best = _best(FORMATS, distinct[:FIRST_TEXTS])
    if len(best) > 1:
        best = _best(best, distinct)
    readers = [time_reader(form) for form in best]
    if 2 * sum(readers[0](text) is not None for text in distinct) < max(1, len(distinct)):
        raise LogError(f"found times such as {distinct[:3]}, expected a common format: name it, as in {option} '%d.%m.%Y'")
    if any(len({reader(text) for reader in readers}) > 1 for text in distinct):
        raise LogError(f"found times such as {distinct[:3]}, which fit {' and '.join(best)}: choose one by {option}")
    return best[0]


def _best(forms: Sequence[str], texts: Sequence[str]) -> list[str]:
    fits = {form: sum(map(_fits(form), texts)) for form in forms}
    return [form for form, count in fits.items() if count == max(fits.values())]


def _fits(form: str) -> Callable[[str], bool]:
    reader = time_reader(form)

    def fits(text: str) -> bool:
        digits = text.isascii() and text.isdigit()
        if form == ISO and digits:
            return False  # %Y%m%d is the narrower format
        return reader(text) is not None

    return fits


def _number(text: str, form: str) -> int | None:
    seconds = float(text) / (1 if form == SECONDS else 1000)
    return int(seconds * 1000 + 0.5) if EARLIEST_S <= seconds < LATEST_S else None
