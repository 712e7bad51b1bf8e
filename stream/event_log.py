"""Recorded events ↔ a directory of JSON lines: what arrived, when, byte for byte.

One file per UTC day of arrival, lines in order of arrival, and a manifest that is written last. Knows the names of the
source topics, nothing of Kafka; a refused record is kept as faithfully as a good one. Start at write_log.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import msgspec
import orjson
from msgspec import Raw, Struct
from msgspec.structs import replace

from schemas.topics import DAY_MS, SIGNALS, SOURCES

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
OUTPUTS = ("score-request", *SIGNALS, "ad-trigger", "suppression")  # kinds that a log of a live run holds beside its sources
KINDS = (*SOURCES, *OUTPUTS)
MAX_BRACKETS = 500  # deeper JSON may exceed the reader's recursion limit, so it is kept as base64


class LogError(ValueError):
    """A log, or the files to make one from, that cannot be used: the text says found, expected and what to do."""


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


class ImportCounts(Struct, frozen=True, kw_only=True):
    """What became of each line of foreign files: `lines_in` = all of `lines_kept` + all of `lines_dropped`.

    Kept lines are counted by the kind of event they joined, dropped lines by reason; `events` counts what was written,
    `notes` what a reader of the log should know (of kept lines unless its name says otherwise).
    """

    lines_in: int
    lines_kept: dict[str, int]
    lines_dropped: dict[str, int]
    events: dict[str, int]
    notes: dict[str, int] = {}


class LogManifest(Struct, frozen=True, kw_only=True):
    """What a log holds; times are milliseconds since 1970 (UTC), null where the log is empty."""

    source: str
    events: dict[str, int]
    first_record_ms: int | None
    last_record_ms: int | None
    imports: ImportCounts | None = None
    format_version: int = FORMAT_VERSION


class _Line(Struct, frozen=True, gc=False, omit_defaults=True):
    """One line: key and value as text where they are text, as base64 elsewhere, absent where the record has none."""

    kind: str
    record_ms: int
    key: str | None = None
    value: Raw = Raw()
    key_b64: bytes | None = None
    value_b64: bytes | None = None
    partition: int | None = None
    offset: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


_encode = msgspec.json.Encoder().encode
_decode_line = msgspec.json.Decoder(_Line).decode


def write_log(
    directory: Path, events: Iterable[LoggedEvent], *, source: str, imports: ImportCounts | None = None
) -> LogManifest:
    """Write events in order of arrival, equal timestamps in the order given; the manifest comes last.

    Holds all events in memory to sort them. `source` says in words where the events come from.

    Raises:
        LogError: the directory holds something already, or an event's kind is not a source topic.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if found := next(directory.iterdir(), None):
        raise LogError(f"{directory} already holds {found.name}, expected an empty directory: choose another or delete it")
    ordered = sorted(events, key=attrgetter("record_ms"))
    counts = Counter(event.kind for event in ordered)
    if unknown := sorted(set(counts) - set(KINDS)):
        raise LogError(f"found events of kind {', '.join(unknown)}, expected {', '.join(KINDS)}: correct the source")
    for day, of_day in groupby(ordered, key=lambda event: event.record_ms // DAY_MS):
        with (directory / day_file(day)).open("xb") as file:
            file.writelines(map(encode_line, of_day))
    manifest = LogManifest(
        source=source,
        events={kind: counts[kind] for kind in KINDS if counts[kind]},
        first_record_ms=ordered[0].record_ms if ordered else None,
        last_record_ms=ordered[-1].record_ms if ordered else None,
        imports=imports,
    )
    (directory / MANIFEST).write_bytes(msgspec.json.format(_encode(manifest)) + b"\n")
    return manifest


def read_log(directory: Path, kinds: Collection[str] | None = None) -> Iterator[LoggedEvent]:
    """Read events in order of arrival, one day file after the other; holds one line in memory.

    Reads the source topics' events unless `kinds` says otherwise.

    Raises:
        LogError: no manifest, or a line that is damaged or out of order.
    """
    read_manifest(directory)
    last_ms: int | None = None
    wanted = set(SOURCES if kinds is None else kinds)
    for path in sorted(directory.glob("events-*.jsonl")):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    event = decode_line(line)
                except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                    raise LogError(f"{path}:{number} found a damaged line ({error}): write the log again") from error
                if event.kind not in KINDS:
                    raise LogError(f"{path}:{number} found kind {event.kind!r}, expected {', '.join(KINDS)}: correct it")
                if last_ms is not None and event.record_ms < last_ms:
                    raise LogError(
                        f"{path}:{number} found record_ms {event.record_ms}, expected {last_ms} or later: sort the log"
                    )
                last_ms = event.record_ms
                if event.kind in wanted:
                    yield event


def read_manifest(directory: Path) -> LogManifest:
    """Read what a log holds.

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


def day_file(day: int) -> str:
    """Name the file of a UTC day, counted from 1970-01-01."""
    return f"events-{datetime.fromtimestamp(day * DAY_MS / 1000, UTC):%Y-%m-%d}.jsonl"


def encode_line(event: LoggedEvent) -> bytes:
    """Encode one event as one line, ending in a newline, from which the same bytes come back."""
    key, key_b64 = _text_or_bytes(event.key)
    value = event.value
    if value is not None and _is_plain_object(value):
        line = _Line(event.kind, event.record_ms, key, Raw(value), key_b64)
    else:
        line = _Line(event.kind, event.record_ms, key, key_b64=key_b64, value_b64=value)
    line = replace(line, partition=event.partition, offset=event.offset, headers=event.headers)
    return _encode(line) + b"\n"


def decode_line(line: bytes) -> LoggedEvent:
    """Decode one line.

    Raises:
        msgspec.DecodeError: it is not one.
    """
    found = _decode_line(line)
    key = found.key_b64 if found.key is None else found.key.encode()
    value = bytes(found.value) or found.value_b64
    return LoggedEvent(found.kind, found.record_ms, key, value, found.partition, found.offset, found.headers)


def _text_or_bytes(key: bytes | None) -> tuple[str | None, bytes | None]:
    """Split a key into text where it is UTF-8 and bytes where it is not."""
    try:
        return (None if key is None else key.decode()), None
    except UnicodeDecodeError:
        return None, key


def _is_plain_object(value: bytes) -> bool:
    """Tell whether a value can stand in a line verbatim: one JSON object, on one line, nothing around it.

    orjson is stricter than the reader of events (it refuses whole numbers beyond a double, too), so that a line it takes is one
    that other tools can read.
    """
    if not (value.startswith(b"{") and value.endswith(b"}")) or b"\n" in value:
        return False
    if value.count(b"{") + value.count(b"[") > MAX_BRACKETS:
        return False
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return True
