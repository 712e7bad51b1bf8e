"""A user's row of version 1, as values → as version 2 holds it. Start at from_version_1."""

from typing import Any

from models.features.recent_ids import from_joined

TILE_MINUTES = (1, 5, 60, 1440)


def from_version_1(values: list[Any]) -> list[Any]:
    """Version 1 kept each measure on tiles of its own, and the hashes of ids one after another."""
    (topics,) = values
    return [[None if topic is None else _topic(topic) for topic in topics]]


def _topic(topic: list[Any]) -> list[Any]:
    since, guard, first_ms, newest_ms, due_ms, ids, count, sums, *others = topic
    return [since, guard, first_ms, newest_ms, _tiles([count, *sums]), due_ms, from_joined(ids), *others]


def _tiles(series: list[list[Any]]) -> list[Any]:
    by_start = [_by_start(tiles) for _, *tiles in series]
    starts = sorted(set().union(*by_start))
    totals = [total for total, *_ in series]
    before = []
    for total, values in zip(totals, by_start, strict=True):
        left, column = total, list[int]()
        for start in reversed(starts):
            left -= values.get(start, 0)
            column.append(left)
        before.append(column[::-1])
    return [totals, starts, before]


def _by_start(tiles: list[dict[int, int]]) -> dict[int, int]:
    found: dict[int, int] = {}
    for size, values in zip(TILE_MINUTES, tiles, strict=True):
        for number, value in values.items():
            found[number * size] = found.get(number * size, 0) + value
    return found
