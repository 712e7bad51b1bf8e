from datetime import UTC, datetime

import msgspec
import pytest

from stream.event_log import ImportCounts, LogError, LoggedEvent, read_log, read_manifest, write_log

NOON_MS = int(datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp() * 1000)
DAY_MS = 86_400_000


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


def test_a_valid_event_stands_in_its_line_verbatim_and_a_malformed_one_as_base64(tmp_path):
    write_log(tmp_path, [logged(value=b'{"b": 1.50, "a":2}'), logged(value=b"oops")], source="test")

    good, bad = (tmp_path / "events-2026-03-04.jsonl").read_bytes().splitlines()
    assert b'"value":{"b": 1.50, "a":2}' in good
    assert msgspec.json.decode(bad) == {"kind": "click", "record_ms": NOON_MS, "key": "u-1", "value_b64": "b29wcw=="}


def test_events_are_written_in_order_of_arrival_and_ties_in_the_order_given(tmp_path):
    third, first, second = logged(NOON_MS + 1), logged(NOON_MS, kind="visit"), logged(NOON_MS, kind="search")

    write_log(tmp_path, [third, first, second], source="test")

    assert list(read_log(tmp_path)) == [first, second, third]


def test_each_utc_day_of_arrival_has_a_file_of_its_own(tmp_path):
    midnight_ms = NOON_MS + DAY_MS // 2

    write_log(tmp_path, [logged(midnight_ms), logged(midnight_ms - 1)], source="test")

    assert [path.name for path in sorted(tmp_path.glob("*.jsonl"))] == ["events-2026-03-04.jsonl", "events-2026-03-05.jsonl"]


def test_the_manifest_counts_events_by_kind_and_names_the_first_and_last_arrival(tmp_path):
    imports = ImportCounts(lines_in=3, lines_kept={"click": 2}, lines_dropped={"truncated": 1}, events={"click": 2})

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
    manifest.write_bytes(manifest.read_bytes().replace(b'"format_version": 1', b'"format_version": 99'))

    with pytest.raises(LogError, match="has format 99, expected 1"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"kind":"click","record_ms":17', ":2 found a damaged line"),
        (b'{"kind":"click","key":"u-1"}\n', "missing required field `record_ms`"),
        (b'{"kind":"wave","record_ms":9999999999999}\n', "found kind 'wave'"),
        (b'{"kind":"click","record_ms":17}\n', "found record_ms 17, expected"),
    ],
)
def test_a_damaged_line_is_named_with_its_file_and_number(tmp_path, line, complaint):
    write_log(tmp_path, [logged()], source="test")
    with (tmp_path / "events-2026-03-04.jsonl").open("ab") as file:
        file.write(line)

    with pytest.raises(LogError, match=complaint):
        list(read_log(tmp_path))
