import json
from datetime import UTC, datetime

import duckdb
import pytest

from schemas.errors import LogError
from schemas.time_units import DAY_MS
from stream.logs.event_log import (
    KINDS,
    WRITE_BATCH,
    ImportCounts,
    LoggedEvent,
    LogWriter,
    RecordedPartition,
    read_log,
    read_manifest,
    write_log,
)

NOON_MS = int(datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp() * 1000)


def logged(record_ms=NOON_MS, *, kind="click", key=b"u-1", value=b'{"user_id":"u-1"}'):
    return LoggedEvent(kind, record_ms, key, value)


@pytest.mark.parametrize(
    "value",
    [
        b'{"user_id":"u-1","price":1.50}',
        b'{ "spaced" : [1,  2] , "unknown":{"a":null} }',
        b' {"a":1} ',
        b'{"a":1}\n',
        b'{"a":\n1}',
        b'{"a":"caf\xc3\xa9 \\u00e9 \\n"}',
        b'{"a":"caf\xe9"}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":1',
        b'{"a":1},"key":"x"}',
        b'{"a":1,"a":2}',
        b'{"a":' + b"[" * 800 + b"]" * 800 + b"}",
        b"[1]",
        b'{"a":' + b"9" * 500 + b"}",
        b"null",
        b"{}",
        b"",
        b"\x00\xff",
        None,
    ],
)
def test_every_value_comes_back_byte_for_byte(tmp_path, value):
    write_log(tmp_path / "log", [logged(value=value)], source="test")

    assert list(read_log(tmp_path / "log")) == [logged(value=value)]


@pytest.mark.parametrize("key", [b"u-1", b"", b"\xff\xfe", "ключ".encode(), b'"\n', None])
def test_every_key_comes_back_byte_for_byte(tmp_path, key):
    write_log(tmp_path / "log", [logged(key=key)], source="test")

    assert list(read_log(tmp_path / "log")) == [logged(key=key)]


def test_partition_offset_and_headers_of_a_recorded_event_come_back(tmp_path):
    headers = (("x-event-id", b"e-1"), ("", b""), ("x-event-id", b"\xff\x00"), ("ключ", b"v"))
    recorded = [LoggedEvent("click", NOON_MS, b"u-1", b"{}", 3, 2**40, headers), LoggedEvent("click", NOON_MS, None, None)]

    write_log(tmp_path, recorded, source="test")

    assert list(read_log(tmp_path)) == recorded


def test_the_columns_are_those_of_the_contract(tmp_path):
    write_log(tmp_path, [logged()], source="test")

    columns = duckdb.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(tmp_path / "events-2026-03-04.parquet")]).fetchall()

    assert [column[:2] for column in columns] == [
        ("kind", "VARCHAR"),
        ("record_ms", "BIGINT"),
        ("key", "BLOB"),
        ("value", "BLOB"),
        ("partition", "INTEGER"),
        ("offset", "BIGINT"),
        ("headers", 'STRUCT("name" VARCHAR, "value" BLOB)[]'),
    ]


def test_events_are_written_in_order_of_arrival_and_ties_in_the_order_given(tmp_path):
    third, first, second = logged(NOON_MS + 1), logged(NOON_MS, kind="visit"), logged(NOON_MS, kind="search")

    write_log(tmp_path, [third, first, second], source="test")

    assert list(read_log(tmp_path)) == [first, second, third]


def test_each_utc_day_of_arrival_has_a_file_of_its_own(tmp_path):
    midnight_ms = NOON_MS + DAY_MS // 2

    write_log(tmp_path, [logged(midnight_ms), logged(midnight_ms - 1)], source="test")

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "events-2026-03-04.parquet",
        "events-2026-03-05.parquet",
        "manifest.json",
    ]


def test_many_events_with_few_timestamps_keep_the_order_given_over_batches(tmp_path):
    events = [logged(NOON_MS + number % 3, value=b"%d" % number) for number in range(2 * WRITE_BATCH + 7)]

    write_log(tmp_path, iter(events), source="test")

    assert list(read_log(tmp_path)) == sorted(events, key=lambda event: event.record_ms)


def test_a_day_of_several_row_groups_is_read_in_order(tmp_path):
    count = 3 * WRITE_BATCH
    write_log(tmp_path, (logged(NOON_MS + number, key=b"u-%d" % number) for number in range(count)), source="test")
    path = next(tmp_path.glob("*.parquet"))
    with duckdb.connect(config={"threads": 1}) as database:
        database.execute(f"CREATE TABLE day AS FROM '{path}'; COPY day TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 20480)")

    assert [event.record_ms for event in read_log(tmp_path)] == list(range(NOON_MS, NOON_MS + count))


@pytest.mark.parametrize("record_ms", [-1, 0, DAY_MS - 1, DAY_MS, -DAY_MS])
def test_a_day_begins_at_midnight_before_1970_too(tmp_path, record_ms):
    write_log(tmp_path, [logged(record_ms)], source="test")

    assert [event.record_ms for event in read_log(tmp_path)] == [record_ms]


def test_our_own_outputs_are_read_only_when_asked_for(tmp_path):
    score, click = logged(kind="score-request"), logged()

    manifest = write_log(tmp_path, [score, click], source="test")

    assert list(read_log(tmp_path)) == [click]
    assert list(read_log(tmp_path, ["score-request"])) == [score]
    assert list(read_log(tmp_path, KINDS)) == [score, click]
    assert manifest.events == {"click": 1, "score-request": 1}


def test_what_was_recorded_of_each_partition_stands_in_the_manifest(tmp_path):
    span = RecordedPartition("click", "shop.clicks.v1", 0, 5, 9)

    with LogWriter(tmp_path) as writer:
        writer.add([logged()])
        written = writer.finish(source="test", recorded=[span])

    assert read_manifest(tmp_path) == written
    assert written.recorded == [span]


def test_a_log_that_fails_while_it_is_written_leaves_nothing(tmp_path):
    def broken():
        yield logged()
        raise RuntimeError("the source ends here")

    with pytest.raises(RuntimeError, match="ends here"):
        write_log(tmp_path, broken(), source="test")

    assert list(tmp_path.iterdir()) == []


def test_the_manifest_counts_events_by_kind_and_names_the_first_and_last_arrival(tmp_path):
    imports = ImportCounts(
        lines_in=3, lines_kept={"click": 2}, lines_dropped={"truncated": 1}, events={"click": 2}, derived=["times"]
    )

    written = write_log(tmp_path, [logged(NOON_MS + 5), logged(NOON_MS)], source="a test", imports=imports)

    assert read_manifest(tmp_path) == written
    assert (written.events, written.source, written.imports) == ({"click": 2}, "a test", imports)
    assert (written.first_record_ms, written.last_record_ms) == (NOON_MS, NOON_MS + 5)


def test_an_empty_log_reads_as_no_events(tmp_path):
    manifest = write_log(tmp_path, [], source="test")

    assert list(read_log(tmp_path)) == []
    assert manifest.first_record_ms is None


def test_a_directory_that_holds_something_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(LogError, match="already holds notes.txt, expected an empty directory"):
        write_log(tmp_path, [logged()], source="test")

    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_event_of_an_unknown_kind_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(LogError, match="kind wave, expected visit, browse"):
        write_log(tmp_path, [logged(kind="wave")], source="test")

    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_a_manifest_is_no_complete_log(tmp_path):
    write_log(tmp_path, [logged()], source="test")
    (tmp_path / "manifest.json").unlink()

    with pytest.raises(LogError, match=r"has no manifest\.json"):
        list(read_log(tmp_path))


def test_a_manifest_of_another_format_is_refused(tmp_path):
    write_log(tmp_path, [logged()], source="test")
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"format_version": 2', b'"format_version": 99'))

    with pytest.raises(LogError, match="has format 99, expected 2"):
        read_manifest(tmp_path)


def test_a_log_of_the_older_format_is_refused_by_its_number(tmp_path):
    older = {"source": "test", "events": {}, "first_record_ms": None, "last_record_ms": None, "format_version": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(older))

    with pytest.raises(LogError, match="has format 1, expected 2: write the log again"):
        read_manifest(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    write_log(tmp_path, [logged()], source="test")
    (tmp_path / "events-2026-03-05.parquet").write_bytes(b"not Parquet")

    with pytest.raises(LogError, match="events-2026-03-05.parquet is damaged"):
        list(read_log(tmp_path))


def test_a_missing_file_is_noticed_at_the_end(tmp_path):
    write_log(tmp_path, [logged(), logged(NOON_MS + DAY_MS)], source="test")
    (tmp_path / "events-2026-03-05.parquet").unlink()

    with pytest.raises(LogError, match="found 1 events of .*, expected 2 as manifest.json says"):
        list(read_log(tmp_path))


def test_events_out_of_order_are_refused(tmp_path):
    write_log(tmp_path, [logged(), logged(NOON_MS + DAY_MS)], source="test")
    (tmp_path / "events-2026-03-05.parquet").rename(tmp_path / "events-2026-03-03.parquet")

    with pytest.raises(LogError, match="expected ascending times"):
        list(read_log(tmp_path))
