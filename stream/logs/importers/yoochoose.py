"""Import Yoochoose sessions by day (Parquet, as prepared for Transformers4Rec) as clicks and derived visits.

A file holds one day and part (train, valid or test), such as `day178_valid.parquet`. A row holds one session: its items in
order, padded with zeros to 20. The files have no users and no times of day. So each session becomes a user of its own, such
as `178-valid-3227` (day, part, session), and the times are made up. The files have no visits either: one is derived per
session. Start at import_yoochoose.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from schemas.errors import DecodeError, LogError
from schemas.events import Click, Event, Visit
from schemas.time_units import DAY_MS, HOUR_MS
from stream.logs.event_log import ImportCounts, LoggedEvent
from stream.logs.importers.logged_events import logged_all

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SOURCE = "Yoochoose (RecSys Challenge 2015), sessions by day; times within a day made up"
DERIVED = [
    "each session is a user of its own, named by day, part (train, valid, test) and session",
    "a visit at the beginning of each session",
    "times: the day and the order of a session's clicks are real; the time of day and the gaps between clicks are made up",
]
FILE = re.compile(r"day(\d{1,4})_([a-z]+)")
DAY_0 = 16_161  # days from 1970-01-01 to the first day of the data, 2014-04-01
CLICK_MS = 30_000  # between two clicks
LATEST_START_MS = DAY_MS - HOUR_MS
COLUMNS = {"session_id", "item_id-count", "item_id-list_seq", "category-list_seq"}
BATCH = 1_000


def import_yoochoose(directory: Path) -> tuple[Iterator[LoggedEvent], ImportCounts]:
    """Read every day file, in order of name. The counts are of rows, and complete once all events are read.

    Raises:
        LogError: the directory holds no day file, or one without the expected columns (when the events are read).
    """
    counts = ImportCounts(derived=DERIVED)
    return _events(directory, counts), counts


def _events(directory: Path, counts: ImportCounts) -> Iterator[LoggedEvent]:
    import duckdb

    paths = [(path, found) for path in sorted(directory.glob("*.parquet")) if (found := FILE.fullmatch(path.stem))]
    if not paths:
        raise LogError(f"{directory} holds no day*_*.parquet, expected the day files of Yoochoose: unpack them there")
    with duckdb.connect(config={"threads": 1}) as database:  # more threads would mix the rows
        for path, found in paths:
            for row in _rows(database, path):
                counts.lines_in += 1
                yield from _session(int(found[1]), found[2], row, counts)


def _rows(database: "DuckDBPyConnection", path: Path) -> Iterator[tuple[Any, ...]]:
    import duckdb

    query = 'SELECT session_id, "item_id-count", "item_id-list_seq", "category-list_seq" FROM read_parquet(?)'
    try:
        rows = database.execute(query, [str(path)])
        while batch := rows.fetchmany(BATCH):
            yield from batch
    except duckdb.Error as error:
        raise LogError(
            f"{path} is not a day file ({error}), expected columns {', '.join(sorted(COLUMNS))}: give Yoochoose's day files"
        ) from error


def _session(day: int, part: str, row: tuple[Any, ...], counts: ImportCounts) -> Iterator[LoggedEvent]:
    """Yield the events of one session, all or none."""
    session, length, items, categories = row
    clicked = [(item, category) for item, category in zip(items or (), categories or (), strict=False) if item]
    if session is None or not clicked:
        counts.drop("no_session" if session is None else "no_items")
        return
    user_id = f"{day}-{part}-{session}"
    start_ms = (DAY_0 + day) * DAY_MS + xxhash.xxh64_intdigest(user_id.encode()) % LATEST_START_MS
    events: list[Event] = [Visit(user_id=user_id, event_time_ms=start_ms, event_id="visit", derived=True)]
    for number, (item, category) in enumerate(clicked, start=1):
        at_ms = start_ms + number * CLICK_MS
        category_id = str(category) if category else None
        events.append(
            Click(user_id=user_id, event_time_ms=at_ms, event_id=f"{number}", item_id=str(item), category=category_id)
        )
    try:
        made = logged_all(events, counts)
    except DecodeError:
        counts.drop("out_of_range")
        return
    counts.keep("click")
    counts.note("clicks_cut_off", max(0, (length or 0) - len(clicked)))
    yield from made
