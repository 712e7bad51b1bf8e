"""Read a log in the order in which a live role folds its events: each partition by offset, topics aligned by arrival time.

A log's files are in order of timestamps, which is another order where producers' clocks disagree. The narrow columns are
read first, to find the events that arrived at another time than they say: usually none. Only the days that such an event
leaves or joins are then sorted, out of memory. Start at in_fold_order.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING

from models.features.spec import KINDS
from schemas.errors import LogError
from schemas.time_units import DAY_MS
from stream.fold.ordering import ArrivalTimes, aligned, by_topic
from stream.logs.event_log import COLUMNS, MEMORY, EventLog, LoggedEvent, day_file, read_events

if TYPE_CHECKING:  # a replay of a list needs neither
    import numpy as np
    from duckdb import DuckDBPyConnection
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]
PAGE_ROWS = 122_880  # a row group of DuckDB

# each recorded event's partition, offset and timestamp, and its row in the file of its day
PLACES = """SELECT kind, "partition", "offset", record_ms, file_row_number AS row_number
    FROM read_parquet($paths, file_row_number = true)
    WHERE "offset" IS NOT NULL AND "partition" IS NOT NULL AND list_contains($kinds, kind)"""
# the partitions in which some event lies before one of a lower offset
DISORDERED = f"""CREATE TABLE disordered AS SELECT DISTINCT kind, "partition" FROM (
    SELECT kind, "partition", record_ms, row_number, lag(record_ms) OVER by_offset AS last_ms,
        lag(row_number) OVER by_offset AS last_row
    FROM ({PLACES}) WINDOW by_offset AS (PARTITION BY kind, "partition" ORDER BY "offset")
) WHERE record_ms < last_ms OR (record_ms = last_ms AND row_number < last_row)"""
# their events in offset order: which partition, what timestamp, and the row in the file of its day
BY_OFFSET = f"""CREATE TABLE by_offset AS
    SELECT (CAST(list_position($ranked, kind) AS BIGINT) << 32) | "partition" AS place, record_ms, row_number
    FROM ({PLACES}) SEMI JOIN disordered USING (kind, "partition") ORDER BY place, "offset\""""
DAY = f"CAST(floor(%s / {DAY_MS}) AS BIGINT)"
ARRIVED = "coalesce(arrived_ms, record_ms)"
# the events that arrived on one day, from the files of the days with which they are stamped
OF_DAY = f"""SELECT {COLUMNS} FROM read_parquet($paths, file_row_number = true) AS stamped
    LEFT JOIN moved ON day = {DAY % "record_ms"} AND row_number = file_row_number
    WHERE list_contains($kinds, kind) AND {DAY % ARRIVED} = $day
    ORDER BY {ARRIVED}, list_position($ranked, kind), "partition" NULLS FIRST, "offset", file_row_number"""


def in_fold_order(events: Iterable[LoggedEvent]) -> Iterator[LoggedEvent]:
    """Yield events in the order in which a live role folds them; of a log, a batch is in memory at a time.

    Any other iterable must be a list, which is sorted in memory, or have this order already: see ordering.aligned.

    Raises:
        LogError: the log is damaged, or an iterable that is no list goes back in a partition.
    """
    return _log_in_fold_order(events) if isinstance(events, EventLog) else aligned(events)


def _log_in_fold_order(log: EventLog) -> Iterator[LoggedEvent]:
    with _database(log) as database:
        if _find_moved(database, log):
            yield from _by_days(database, log)
            return
    yield from by_topic((event.record_ms, event) for event in log)


@contextmanager
def _database(log: EventLog) -> "Iterator[DuckDBPyConnection]":
    """Connect to a database in memory that goes on in files; an error while it reads the log is one of the log."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="footfall-") as folder:
        try:
            with duckdb.connect(config={"memory_limit": MEMORY, "threads": 1, "temp_directory": folder}) as database:
                database.execute("SET disabled_optimizers = 'build_side_probe_side'")  # it would hold whole events in memory
                yield database
        except duckdb.Error as error:
            raise LogError(
                f"{log.directory} cannot be put in order ({error}), expected an event log and room in {tempfile.gettempdir()}: "
                "make room, or write the log again"
            ) from error


def _find_moved(database: "DuckDBPyConnection", log: EventLog) -> bool:
    """Write table `moved`, of each event that did not arrive as the files have it, and return whether there is any.

    It holds the day with which an event is stamped, its row in the file of that day, and when it arrived.
    """
    if not log.expected() or not (files := log.files()):
        return False
    selected = {"paths": [str(path) for path in files], "kinds": log.kinds}
    database.execute(DISORDERED, selected)
    if not database.execute("SELECT 1 FROM disordered LIMIT 1").fetchone():
        return False
    database.execute(BY_OFFSET, {**selected, "ranked": list(KINDS)})
    database.execute("CREATE TABLE moved (day BIGINT, row_number BIGINT, arrived_ms BIGINT)")
    for found in _moved(_runs(database)):
        database.register("found", {"day": found[:, 0] // DAY_MS, "row_number": found[:, 1], "arrived_ms": found[:, 2]})
        database.execute("INSERT INTO moved SELECT day, row_number, arrived_ms FROM found")
        database.unregister("found")
    database.execute("DROP TABLE by_offset")
    return True


def _runs(database: "DuckDBPyConnection") -> Iterator[tuple[int, "Rows"]]:
    """Yield table `by_offset` in its order, as a partition and some of its timestamps and row numbers, (R, 2)."""
    import numpy as np

    first = 0
    while True:
        query = "SELECT place, record_ms, row_number FROM by_offset WHERE rowid BETWEEN $first AND $last"
        page = database.execute(query, {"first": first, "last": first + PAGE_ROWS - 1}).fetchnumpy()
        places, rows = page["place"], np.column_stack((page["record_ms"], page["row_number"]))
        starts = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(places)]
        for start, end in pairwise(starts):
            if start < end:
                yield int(places[start]), rows[start:end]
        first += PAGE_ROWS
        if len(places) < PAGE_ROWS:
            return


def _moved(runs: Iterable[tuple[int, "Rows"]]) -> Iterator["Rows"]:
    """Yield the timestamps, row numbers and arrival times, (M, 3), of events that did not arrive as the files have them."""
    import numpy as np

    for _, of_partition in groupby(runs, key=itemgetter(0)):
        times, waiting, arrivals = ArrivalTimes(), np.empty((0, 2), np.int64), np.empty(0, np.int64)
        last = np.full((1, 2), -1 << 62)
        for _, rows in of_partition:
            waiting = np.concatenate((waiting, rows))
            arrivals = np.array(times.add(rows[:, 0].tolist()))
            settled = len(waiting) - times.unsettled
            yield _changed(waiting[:settled], arrivals[:settled], last)
            last = waiting[:settled][-1:] if settled else last
            waiting, arrivals = waiting[settled:], arrivals[settled:]
        yield _changed(waiting, arrivals, last)


def _changed(rows: "Rows", arrivals: "Rows", last: "Rows") -> "Rows":
    """Return those of a partition's rows, after `last`, that arrived at another time or lie behind the next offset's."""
    import numpy as np

    before = np.concatenate((last, rows[:-1]))[: len(rows)]
    swapped = (rows[:, 0] == before[:, 0]) & (rows[:, 1] < before[:, 1])
    changed: Rows = np.column_stack((rows, arrivals))[(arrivals != rows[:, 0]) | swapped]
    return changed


def _by_days(database: "DuckDBPyConnection", log: EventLog) -> Iterator[LoggedEvent]:
    """Yield the events day by day of their arrival: a day that no event leaves or joins as its file has it."""
    expected, count, files = log.expected(), 0, {path.name: path for path in log.files()}
    stamped: dict[int, set[int]] = defaultdict(set)  # day of arrival → days with which its events are stamped
    for day, arrived in database.execute(f"SELECT DISTINCT day, {DAY % 'arrived_ms'} FROM moved").fetchall():
        stamped[arrived] |= {arrived, day}
        stamped[day].add(day)
    days = {day_file(day): day for day in stamped}
    for name, path in files.items():
        if name in days:
            paths = [str(files[other]) for day in sorted(stamped[days[name]]) if (other := day_file(day)) in files]
            values = {"paths": paths, "kinds": log.kinds, "day": days[name], "ranked": list(KINDS)}
            events = read_events(database, OF_DAY, log.directory, **values)
        else:
            events = by_topic((event.record_ms, event) for event in log.of_file(database, path))
        for event in events:
            count += 1
            yield event
    log.check_count(count, expected)
