"""Write and read event logs: directories of Parquet files that hold every record byte for byte.

A log has one file per UTC day of arrival, with its records in order. The manifest is written last, so a log without one is
not complete. A record that a role would refuse is kept like any other. This module knows topic kinds, but not Kafka. Start
at write_log and read_log.
"""

import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
from msgspec import Struct

from schemas.errors import LogError
from schemas.time_units import DAY_MS
from schemas.topics import SIGNALS, SOURCES

if TYPE_CHECKING:  # loaded where a log is read or written: a role that does neither starts without it
    from duckdb import DuckDBPyConnection

MANIFEST, UNFINISHED = "manifest.json", "unfinished"  # the other is a folder of events that are not sorted yet
FORMAT_VERSION = 2
OUTPUTS = ("score-request", *SIGNALS, "ad-trigger", "suppression")  # kinds that a log of a live run holds beside its sources
KINDS = (*SOURCES, *OUTPUTS)
WRITE_BATCH, READ_BATCH = 20_000, 4_096  # events held in memory
MEMORY = "512MB"  # beyond it, sorting goes on in files
COLUMNS = 'kind, record_ms, key, value, "partition", "offset", headers'
SCHEMA = """kind VARCHAR, record_ms BIGINT, key BLOB, value BLOB, "partition" INTEGER, "offset" BIGINT,
    headers STRUCT("name" VARCHAR, "value" BLOB)[]"""


class LoggedEvent(Struct, frozen=True, gc=False):
    """One record of a topic; `record_ms` is its Kafka timestamp (arrival), key, value and headers its exact bytes.

    A recorded event keeps its partition and offset, a made or imported one has none until it is sent or replayed.
    """

    kind: str
    record_ms: int
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    offset: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class ImportCounts(Struct, kw_only=True):
    """Count each line of imported files by outcome: `lines_in` = all of `lines_kept` + all of `lines_dropped`.

    Kept lines are counted by the kind of event they joined, dropped lines by reason; `events` counts what was written,
    `notes` what a reader of the log should know (of kept lines unless its name says otherwise), `derived` says in words
    what of the events is not in the files. An importer counts while its events are read: complete when they are.
    """

    lines_in: int = 0
    lines_kept: dict[str, int] = {}
    lines_dropped: dict[str, int] = {}
    events: dict[str, int] = {}
    notes: dict[str, int] = {}
    derived: list[str] = []

    def keep(self, kind: str) -> None:
        """Count a line that became part of an event of this kind."""
        self.lines_kept[kind] = self.lines_kept.get(kind, 0) + 1

    def drop(self, reason: str) -> None:
        """Count a line that became part of no event."""
        self.lines_dropped[str(reason)] = self.lines_dropped.get(reason, 0) + 1

    def make(self, kind: str) -> None:
        """Count an event."""
        self.events[kind] = self.events.get(kind, 0) + 1

    def note(self, name: str, count: int = 1) -> None:
        """Count an observation that readers of the log should know."""
        self.notes[name] = self.notes.get(name, 0) + count


class RecordedPartition(Struct, frozen=True):
    """The offsets of one partition that a recorded log holds: from `first` up to, but not including, `next`.

    The log begins where the topic did if `first` is 0. Offsets between may be missing: transactions leave such gaps. The topic
    id is empty where the broker has none.
    """

    kind: str
    topic: str
    partition: int
    first: int
    next: int
    topic_id: str = ""


class LogManifest(Struct, frozen=True, kw_only=True):
    """The content of a log's manifest; times are milliseconds since 1970 (UTC), null if the log is empty."""

    source: str
    events: dict[str, int]
    first_record_ms: int | None
    last_record_ms: int | None
    imports: ImportCounts | None = None
    recorded: list[RecordedPartition] = []
    format_version: int = FORMAT_VERSION

    @property
    def partitions(self) -> int | None:
        """The partition count of the recorded topics; None for events that have no partition yet."""
        return max((found.partition + 1 for found in self.recorded), default=None)

    @property
    def topic_ids(self) -> dict[str, str]:
        """The ids of the recorded topics by kind, where the broker had any."""
        return {found.kind: found.topic_id for found in self.recorded if found.topic_id}


def write_log(
    directory: Path, events: Iterable[LoggedEvent], *, source: str, imports: ImportCounts | None = None
) -> LogManifest:
    """Write events in order of arrival; equal timestamps keep the given order. The manifest is written last.

    Holds a batch of events in memory and sorts in files. `source` says in words where the events come from.

    Raises:
        LogError: the directory holds something already, or an event's kind is none of a log.
    """
    with LogWriter(directory) as writer:
        writer.add(events)
        return writer.finish(source=source, imports=imports)


class LogWriter:
    """Write a log event by event; a log that is not finished is removed."""

    def __init__(self, directory: Path) -> None:
        """Start a log; a directory that is not empty raises LogError."""
        import duckdb

        refuse_used(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._waiting, self._counts = list[LoggedEvent](), Counter[str]()
        self._directory, self._unfinished = directory, directory / UNFINISHED
        self._unfinished.mkdir()
        self._database = duckdb.connect(self._unfinished / "events.duckdb", config={"memory_limit": MEMORY})
        self._database.execute(f"CREATE TABLE arrived ({SCHEMA})")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        shutil.rmtree(self._unfinished, ignore_errors=True)
        if not (self._directory / MANIFEST).exists():
            for path in self._directory.glob("events-*.parquet"):
                path.unlink()

    def add(self, events: Iterable[LoggedEvent]) -> None:
        """Add events in any order of arrival; up to one batch stays in memory.

        Raises:
            LogError: an event's kind is none of a log.
        """
        for event in events:
            self._waiting.append(event)
            if len(self._waiting) >= WRITE_BATCH:
                self._write_waiting()

    def _write_waiting(self) -> None:
        from stream.logs.event_columns import columns_of

        batch, self._waiting = self._waiting, []
        found = Counter(event.kind for event in batch)
        if unknown := sorted(set(found) - set(KINDS)):
            raise LogError(f"found events of kind {', '.join(unknown)}, expected {', '.join(KINDS)}: correct the source")
        self._counts += found
        self._database.register("batch", columns_of(batch))
        self._database.execute(f"INSERT INTO arrived SELECT {COLUMNS} FROM batch")
        self._database.unregister("batch")

    def finish(
        self, *, source: str, imports: ImportCounts | None = None, recorded: Collection[RecordedPartition] = ()
    ) -> LogManifest:
        """Sort the added events, write one file per day, then the manifest.

        Raises:
            LogError: an event's kind is none of a log.
        """
        from models.data.parquet_files import copy_to_parquet

        if self._waiting:
            self._write_waiting()
        sorted_events = f"CREATE TABLE sorted AS SELECT {COLUMNS} FROM arrived ORDER BY record_ms, rowid"
        self._database.execute(f"{sorted_events}; DROP TABLE arrived")
        span = self._database.execute("SELECT min(record_ms), max(record_ms) FROM sorted").fetchone() or (None, None)
        days = self._database.execute(
            f"SELECT DISTINCT CAST(floor(record_ms / {DAY_MS}) AS BIGINT) FROM sorted ORDER BY 1"
        ).fetchall()
        for (day,) in days:
            of_day = f"SELECT {COLUMNS} FROM sorted WHERE record_ms BETWEEN {day * DAY_MS} AND {(day + 1) * DAY_MS - 1}"
            copy_to_parquet(self._database, f"{of_day} ORDER BY rowid", self._directory / day_file(day))
        manifest = LogManifest(
            source=source,
            events={kind: self._counts[kind] for kind in KINDS if self._counts[kind]},
            first_record_ms=span[0],
            last_record_ms=span[1],
            imports=imports,
            recorded=list(recorded),
        )
        (self._directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        return manifest


class EventLog:
    """The events of a log in order of arrival; each iteration reads the files again, with one batch in memory.

    Raises:
        LogError: no manifest, a damaged file, events out of order, or fewer or more than the manifest says.
    """

    def __init__(self, directory: Path, kinds: Collection[str]) -> None:
        """Read these kinds of events."""
        self.directory, self.kinds = directory, list(kinds)

    def __iter__(self) -> Iterator[LoggedEvent]:
        import duckdb

        expected, last_ms, count = self.expected(), -(1 << 63), 0
        with duckdb.connect(config={"memory_limit": MEMORY, "threads": 1}) as database:  # more would mix a large file's rows
            for path in self.files():
                for event in self.of_file(database, path):
                    if event.record_ms < last_ms:
                        raise LogError(
                            f"found record_ms {event.record_ms} after {last_ms} in {path}, expected ascending times: import or "
                            "record the log again"
                        )
                    last_ms = event.record_ms
                    count += 1
                    yield event
        self.check_count(count, expected)

    def files(self) -> list[Path]:
        """Return the files of all days, in order."""
        return sorted(self.directory.glob("events-*.parquet"))

    def of_file(self, database: "DuckDBPyConnection", path: Path) -> Iterator[LoggedEvent]:
        """Yield the events of one file in its order."""
        query = f"SELECT {COLUMNS} FROM read_parquet($path) WHERE list_contains($kinds, kind)"
        return read_events(database, query, path, path=str(path), kinds=self.kinds)

    def expected(self) -> int:
        """Return how many events the manifest promises."""
        manifest = read_manifest(self.directory)
        return sum(manifest.events.get(kind, 0) for kind in self.kinds)

    def check_count(self, found: int, expected: int) -> None:
        """Refuse a log with another number of events than its manifest promises."""
        if found != expected:
            raise LogError(
                f"{self.directory}: found {found} events of {', '.join(self.kinds)}, expected {expected} as {MANIFEST} says: a "
                "file was added or is missing; undo that or write the log again"
            )


def read_log(directory: Path, kinds: Collection[str] | None = None) -> EventLog:
    """Return a log's events in order of arrival, of the source topics unless `kinds` says otherwise.

    Where producers' clocks disagree, this is not the order of offsets: log_order.in_fold_order gives that.
    """
    return EventLog(directory, SOURCES if kinds is None else kinds)


def read_manifest(directory: Path) -> LogManifest:
    """Read the manifest of a log.

    Raises:
        LogError: there is no log, or one of a format this code does not read.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise LogError(f"{directory} has no {MANIFEST}, expected a complete event log: import, simulate or record one there")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=LogManifest)
    except msgspec.DecodeError as error:
        raise LogError(
            f"{path} is not a manifest ({error}), expected one of format {FORMAT_VERSION}: write the log again"
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise LogError(f"{path} has format {manifest.format_version}, expected {FORMAT_VERSION}: write the log again")
    return manifest


def refuse_used(directory: Path) -> None:
    """Refuse a directory that a log cannot be written to, before any work is done.

    Raises:
        LogError: it is no directory, or holds something already.
    """
    if directory.exists() and not directory.is_dir():
        raise LogError(f"{directory} is a file, expected a directory: choose another")
    if found := next(directory.iterdir(), None) if directory.exists() else None:
        raise LogError(f"{directory} already holds {found.name}, expected an empty directory: choose another or delete it")


def day_file(day: int) -> str:
    """Return the file name of a UTC day, counted from 1970-01-01."""
    return f"events-{datetime.fromtimestamp(day * DAY_MS / 1000, UTC):%Y-%m-%d}.parquet"


def read_events(database: "DuckDBPyConnection", query: str, where: Path, **values: Any) -> Iterator[LoggedEvent]:
    """Yield the events that a query for COLUMNS gives, in its order; an error of DuckDB names the file or folder `where`."""
    import duckdb

    try:
        rows = database.execute(query, values)
        while batch := rows.fetchmany(READ_BATCH):
            for kind, record_ms, key, value, partition, offset, headers in batch:
                named = tuple((header["name"], header["value"]) for header in headers) if headers else ()
                yield LoggedEvent(kind, record_ms, key, value, partition, offset, named)
    except duckdb.Error as error:
        raise LogError(f"{where} is damaged ({error}), expected a day of an event log: write the log again") from error
