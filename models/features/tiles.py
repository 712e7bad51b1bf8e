"""Sums over rolling windows, kept as tiles of event time.

A window W with tile size h is a sawtooth window (Chronon's term): its value at time t counts the tiles whose start lies
in (floor(t/h)·h - W, floor(t/h)·h]. Values are integers, so that neither order nor eviction leaves a residue. Start at
WINDOWS.
"""

from msgspec import Struct

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


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


class Series(Struct, array_like=True, gc=False):
    """One measure over time: its lifetime sum, and its sums by tile: a minute, 5 minutes, an hour, a day since 1970 (UTC).

    A value lies in one tile only: of a minute while the shortest window can count it, then of the next larger size that
    a window can still tell apart. Each window's tiles are a whole number of the smaller ones, so its sum stays exact.
    """

    total: int = 0
    minutes: dict[int, int] = {}
    fives: dict[int, int] = {}
    hours: dict[int, int] = {}
    days: dict[int, int] = {}

    def add(self, minute: int, value: int) -> None:
        """Add `value` at a minute; a late one waits in its minute's tile for the next settle."""
        self.total += value
        tiles = self.minutes
        tiles[minute] = tiles.get(minute, 0) + value

    def settle(self, minute: int) -> None:
        """Move each value to the largest tile that the windows at or after `minute` need; drop what left them all."""
        if self.minutes:
            self.minutes = _moved(self.minutes, minute - 4, self.fives, 5)
        if self.fives:
            self.fives = _moved(self.fives, minute // 5 - 11, self.hours, 12)
        if self.hours:
            self.hours = _moved(self.hours, minute // 60 - 23, self.days, 24)
        first = minute // 1440 - (WINDOW_DAYS - 1)
        if self.days and min(self.days) < first:
            self.days = {day: value for day, value in self.days.items() if day >= first}

    def order(self) -> None:
        """Sort the tiles, so that equal sums are equal bytes however they came about."""
        self.minutes, self.fives = _ordered(self.minutes), _ordered(self.fives)
        self.hours, self.days = _ordered(self.hours), _ordered(self.days)

    def windows(self, minute: int) -> tuple[int, int, int, int, int, int]:
        """Sum the windows that end with `minute`, shortest first, then the lifetime; changes nothing."""
        five, hour, today = minute // 5 - 11, minute // 60 - 23, minute // 1440
        within_5m = within_1h = within_24h = 0
        minutes, fives, hours, days = self.minutes, self.fives, self.hours, self.days
        if not (minutes or fives or hours or days):
            return 0, 0, 0, 0, 0, self.total
        older = False  # whether a tile smaller than a day is a day's by now
        if minutes:
            if min(minutes) >= minute - 4:
                within_5m = sum(minutes.values())
            else:
                for tile, value in minutes.items():
                    if tile >= minute - 4:
                        within_5m += value
                    elif tile // 5 >= five:
                        within_1h += value
                    elif tile // 60 >= hour:
                        within_24h += value
                    else:
                        older = True
        if fives:
            if min(fives) >= five:
                within_1h += sum(fives.values())
            else:
                for tile, value in fives.items():
                    if tile >= five:
                        within_1h += value
                    elif tile // 12 >= hour:
                        within_24h += value
                    else:
                        older = True
        if hours:
            if min(hours) >= hour:
                within_24h += sum(hours.values())
            else:
                within_24h += sum([value for tile, value in hours.items() if tile >= hour])
                older = True
        if older:
            days = self._settled(minute).days
        within_1h += within_5m
        within_24h += within_1h
        if not days:
            return within_5m, within_1h, within_24h, within_24h, within_24h, self.total
        oldest = min(days)
        if oldest >= today - 6:
            within_7d = within_30d = within_24h + sum(days.values())
        else:
            within_7d = within_24h + sum([value for day, value in days.items() if day >= today - 6])
            if oldest > today - WINDOW_DAYS:
                within_30d = within_24h + sum(days.values())
            else:
                within_30d = within_24h + sum([value for day, value in days.items() if day > today - WINDOW_DAYS])
        return within_5m, within_1h, within_24h, within_7d, within_30d, self.total

    def _settled(self, minute: int) -> "Series":
        copied = Series(self.total, self.minutes, self.fives.copy(), self.hours.copy(), self.days.copy())
        copied.settle(minute)
        return copied


def _moved(tiles: dict[int, int], first: int, larger: dict[int, int], size: int) -> dict[int, int]:
    """Add the tiles before `first` to the larger tiles, each of `size` of them, and return the rest."""
    if min(tiles) >= first:
        return tiles
    kept = {}
    for tile, value in tiles.items():
        if tile >= first:
            kept[tile] = value
        else:
            tile //= size
            larger[tile] = larger.get(tile, 0) + value
    return kept


def _ordered(tiles: dict[int, int]) -> dict[int, int]:
    if len(tiles) < 2:
        return tiles
    numbers, sorted_numbers = list(tiles), sorted(tiles)
    return tiles if numbers == sorted_numbers else {tile: tiles[tile] for tile in sorted_numbers}
