"""Sum events over rolling windows, from tiles: a tile holds the sums of one time slot, a window is a range of tiles.

A window of length W with tiles of size h is a sawtooth window (Chronon's term). At time t it covers W/h tiles: the tile
that contains t and those before it. Sums are integers, so neither the order of events nor dropped tiles cause rounding
errors. Start at WINDOWS.
"""

from bisect import bisect_left
from collections.abc import Sequence

from msgspec import Struct

from schemas.time_units import DAY_MS, HOUR_MS, MINUTE_MS


class Window(Struct, frozen=True):
    """One rolling window: its name, its length W and its tile size h, in milliseconds."""

    name: str
    length_ms: int
    tile_ms: int


WINDOWS = (
    Window("5m", 5 * MINUTE_MS, MINUTE_MS),
    Window("1h", HOUR_MS, 5 * MINUTE_MS),
    Window("24h", DAY_MS, HOUR_MS),
    Window("7d", 7 * DAY_MS, DAY_MS),
    Window("30d", 30 * DAY_MS, DAY_MS),
)
WINDOW_DAYS = 30
NOTHING = (0, 0, 0, 0, 0, 0)


class Tiles(Struct, array_like=True, gc=False):
    """Measures of one topic over time, all on the same tiles; the first measure counts events.

    `totals` are lifetime sums by measure. `starts` are the tiles' first minutes since 1970 (UTC), ascending. `before` holds,
    by measure, the sum of everything before each tile, so a window is one subtraction. A tile spans one minute while the
    shortest window can count it alone, then the next larger size that some window still distinguishes.
    """

    totals: list[int]
    starts: list[int] = []
    before: list[list[int]] = []

    def add(self, minute: int, values: Sequence[int] = ()) -> None:
        """Add an event at a minute, and a value to each measure after the count."""
        starts, totals = self.starts, self.totals
        if not starts or minute > starts[-1]:
            starts.append(minute)
            for before, total in zip(self.before, totals, strict=True):
                before.append(total)
        elif minute < starts[-1]:
            self._add_late(minute, values)
        totals[0] += 1
        for measure, value in enumerate(values, 1):
            totals[measure] += value

    def _add_late(self, minute: int, values: Sequence[int]) -> None:
        """Insert a tile before later ones, and add the values to their prefix sums."""
        at = bisect_left(self.starts, minute)
        if self.starts[at] != minute:
            self.starts.insert(at, minute)
            for before in self.before:
                before.insert(at, before[at])
        for before, value in zip(self.before, (1, *values), strict=True):
            for later in range(at + 1, len(before)):
                before[later] += value

    def settle(self, minute: int) -> None:
        """Merge tiles that no window from `minute` on distinguishes, and drop those outside all windows; sums stay."""
        starts = self.starts
        if not starts or (len(starts) == 1 and starts[0] >= minute - 4):
            return
        five, hour, day = _first_minutes(minute)
        kept, last = list[int](), -1
        positions = list[int]()
        for position, start in enumerate(starts):
            if start < minute - 4:
                first = start // 5 * 5
                if first < five:
                    first = start // 60 * 60
                    if first < hour:
                        first = start // 1440 * 1440
                        if first < day:
                            continue
                start = first
            if start != last:
                kept.append(start)
                positions.append(position)
                last = start
        if len(kept) < len(starts):
            self.before = [[before[position] for position in positions] for before in self.before]
        self.starts = kept

    def windows(self, minute: int) -> list[tuple[int, int, int, int, int, int]]:
        """Return, by measure, the sums of the windows that end with `minute`, shortest first, then of the lifetime.

        Changes nothing. No event may be of a later minute.
        """
        starts = self.starts
        five, hour, day = _first_minutes(minute)
        in_5m = bisect_left(starts, minute - 4)
        in_1h = bisect_left(starts, five, 0, in_5m)
        in_24h = bisect_left(starts, hour, 0, in_1h)
        in_7d = bisect_left(starts, day + 23 * 1440, 0, in_24h)
        in_30d = bisect_left(starts, day, 0, in_7d)
        end, found = len(starts), []
        for before, total in zip(self.before, self.totals, strict=True):
            within_5m = total - before[in_5m] if in_5m < end else 0
            within_1h = total - before[in_1h] if in_1h < end else 0
            within_24h = total - before[in_24h] if in_24h < end else 0
            within_7d = total - before[in_7d] if in_7d < end else 0
            within_30d = total - before[in_30d] if in_30d < end else 0
            found.append((within_5m, within_1h, within_24h, within_7d, within_30d, total))
        return found


def no_tiles(measures: int) -> Tiles:
    """Return the tiles of a topic without events."""
    return Tiles([0] * measures, [], [[] for _ in range(measures)])


def _first_minutes(minute: int) -> tuple[int, int, int]:
    """Return the first minutes of the windows of 1 hour, 24 hours and 30 days that end with `minute`."""
    return (minute // 5 - 11) * 5, (minute // 60 - 23) * 60, (minute // 1440 - (WINDOW_DAYS - 1)) * 1440
