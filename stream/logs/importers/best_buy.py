"""Import Best Buy queries and clicks (CSV, each line wrapped in quotes) as searches and clicks.

Input columns: user, sku (train only), category, query, click_time, query_time. Each line has a search, and a click 3 to
299 s later. A search that is repeated in several lines becomes one event. Times are read as UTC. The files do not say how
many results a search had. Start at import_best_buy.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import DecodeError, LogError
from schemas.events import Click, Event, Search
from stream.logs.event_log import ImportCounts, LoggedEvent
from stream.logs.importers.logged_events import logged_all
from stream.logs.importers.tables import open_text
from stream.logs.importers.times import ISO, time_reader

SOURCE = "Best Buy mobile queries and clicks (ACM hackathon sample), times taken as UTC"
FILES = {  # name → columns; the test file lacks the item clicked
    "train.csv": ["user", "sku", "category", "query", "click_time", "query_time"],
    "test.csv": ["user", "category", "query", "click_time", "query_time"],
}
read_time = time_reader(ISO)


def import_best_buy(directory: Path) -> tuple[Iterator[LoggedEvent], ImportCounts]:
    """Read both files, train first; event ids come from the file name and line number.

    A line without sku becomes a search only. The counts are complete once all events are read.

    Raises:
        LogError: a file is missing, or has other columns (when the events are read).
    """
    counts = ImportCounts()
    return _events(directory, counts), counts


def _events(directory: Path, counts: ImportCounts) -> Iterator[LoggedEvent]:
    searches: set[tuple[str, int, str]] = set()
    for name, columns in FILES.items():
        path = directory / name
        with open_text(path) as file:
            lines = enumerate(file, start=1)
            if (heading := _unwrapped(next(lines, (0, ""))[1])) != columns:
                raise LogError(f"{path} has columns {heading}, expected {columns}: give the directory of the two files")
            for number, line in lines:
                counts.lines_in += 1
                found = _unwrapped(line)
                if len(found) != len(columns):
                    counts.drop("column_count")
                    continue
                yield from _line(f"{path.stem}-{number}", dict(zip(columns, found, strict=True)), searches, counts)


def _line(name: str, row: dict[str, str], searches: set[tuple[str, int, str]], counts: ImportCounts) -> Iterator[LoggedEvent]:
    """Yield a line's search, unless it is known, and its click, if there is one; all or none."""
    searched_ms, clicked_ms = read_time(row["query_time"]), read_time(row["click_time"])
    if searched_ms is None or clicked_ms is None:
        counts.drop("unreadable_time")
        return
    user_id, sku, events = row["user"], row.get("sku"), list[Event]()
    search = (user_id, searched_ms, row["query"])
    if search not in searches:
        events.append(Search(user_id=user_id, event_time_ms=searched_ms, event_id=f"search-{name}", query=row["query"].strip()))
    if sku is not None:
        events.append(
            Click(
                user_id=user_id,
                event_time_ms=clicked_ms,
                event_id=f"click-{name}",
                item_id=sku,
                category=row["category"] or None,
            )
        )
    try:
        made = logged_all(events, counts)
    except DecodeError as error:
        counts.drop(error.reason)
        return
    counts.keep("search" if sku is None else "click")
    counts.note("lines_of_a_known_search", search in searches)
    searches.add(search)
    yield from made


def _unwrapped(line: str) -> list[str]:
    """Parse a line that is wrapped in quotes: its only field is the real line."""
    try:
        outer = next(csv.reader([line.rstrip("\r\n")]), [])
        return next(csv.reader(outer), []) if len(outer) == 1 else outer
    except csv.Error:
        return []
