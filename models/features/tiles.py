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
    """One measure over time: its lifetime sum, and its sums by tile: a minute, 5 minutes, an hour, a day since 1970 (UTC)."""

    total: int = 0
    minutes: dict[int, int] = {}
    fives: dict[int, int] = {}
    hours: dict[int, int] = {}
    days: dict[int, int] = {}

    def add(self, minute: int, value: int) -> None:
        """Add `value` at a minute; out-of-window tiles it creates are invisible and go at the next prune."""
        self.total += value
        tiles = self.minutes
        tiles[minute] = tiles.get(minute, 0) + value
        tile = minute // 5
        tiles = self.fives
        tiles[tile] = tiles.get(tile, 0) + value
        tile = minute // 60
        tiles = self.hours
        tiles[tile] = tiles.get(tile, 0) + value
        tile //= 24
        tiles = self.days
        tiles[tile] = tiles.get(tile, 0) + value

    def prune(self, minute: int) -> None:
        """Drop the tiles that no window at or after `minute` can count."""
        self.minutes = tiles_from(self.minutes, minute - 4)
        self.fives = tiles_from(self.fives, minute // 5 - 11)
        self.hours = tiles_from(self.hours, minute // 60 - 23)
        self.days = tiles_from(self.days, minute // 1440 - (WINDOW_DAYS - 1))

    def windows(self, minute: int) -> tuple[int, int, int, int, int, int]:
        """Sum the windows that end with `minute`, shortest first, then the lifetime."""
        days, today = self.days, minute // 1440
        return (
            sum_from(self.minutes, minute - 4),
            sum_from(self.fives, minute // 5 - 11),
            sum_from(self.hours, minute // 60 - 23),
            sum_from(days, today - 6),
            sum_from(days, today - (WINDOW_DAYS - 1)),
            self.total,
        )


def tiles_from(tiles: dict[int, int], first: int) -> dict[int, int]:
    """Keep the tiles numbered `first` or later."""
    if tiles and min(tiles) < first:
        return {tile: value for tile, value in tiles.items() if tile >= first}
    return tiles


def sum_from(tiles: dict[int, int], first: int) -> int:
    """Sum the tiles numbered `first` or later."""
    if not tiles:
        return 0
    if min(tiles) >= first:
        return sum(tiles.values())
    return sum([value for tile, value in tiles.items() if tile >= first])
