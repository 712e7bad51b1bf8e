"""Log lines: one JSON object each, no message values, no repeats, no control characters."""

import gc
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from stream.process.log import LibraryLines, configure_logging
from stream.process.settings import load_settings


class Out(io.StringIO):
    """What was logged, as text and as parsed lines."""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def restored() -> Iterator[None]:
    """Leave logging as it was; what other tests left is collected first, since clients log when they were not stopped."""
    gc.collect()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def out(restored: None) -> Out:
    stream = Out()
    configure_logging(load_settings(log_format="json"), "features", stream=stream)
    return stream


def test_a_line_is_json_with_utc_time_level_event_and_facts(out: Out) -> None:
    structlog.get_logger().warning("late_event", user="u-1", age_seconds=90, action="dropped")
    (line,) = out.lines()
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "warning", "event": "late_event", "user": "u-1", "age_seconds": 90, "action": "dropped", "role": "features",
    }  # fmt: skip


def test_lines_of_libraries_have_the_same_form(out: Out) -> None:
    logging.getLogger("aiokafka.conn").warning("Unable to reach %s", "broker-1")
    (line,) = out.lines()
    assert (line["event"], line["level"], line["logger"], line["role"]) == (
        "Unable to reach broker-1", "warning", "aiokafka.conn", "features",
    )  # fmt: skip


def test_debug_lines_of_libraries_never_appear(restored: None) -> None:
    stream = Out()
    configure_logging(load_settings(log_format="json", log_level="debug"), "features", stream=stream)
    logging.getLogger("faust.transport.consumer").debug("record %r", b"secret")
    logging.getLogger("stream.kafka.transport").info("Faust logs under the names of our modules, too")
    structlog.get_logger().debug("mine")
    assert [line["event"] for line in stream.lines()] == ["mine"]


def test_lines_that_carry_records_are_dropped(out: Out) -> None:
    logging.getLogger("faust.transport.consumer").warning("DROPPED MESSAGE ROFF %r: k=%r v=%r", 4, b"u-1", b"canary")
    logging.getLogger("faust.topics").warning("_on_published error for message topic t error e message canary")
    assert out.getvalue() == ""


def test_bytes_never_reach_a_line(out: Out) -> None:
    logging.getLogger("aiokafka.producer").error("cannot send %r", b"canary")
    logging.getLogger("aiokafka.consumer").error(f"cannot read {b'canary'!r} or k={'canary'!r} v='canary'")
    structlog.get_logger().error("mine", value=b"canary")
    try:
        raise ValueError(b"canary")
    except ValueError:
        structlog.get_logger().exception("raised")
        logging.getLogger("faust.agents").exception("agent failed")
    assert len(out.lines()) == 5
    assert "canary" not in out.getvalue()


def test_an_error_of_a_library_keeps_its_type_text_and_place(out: Out) -> None:
    try:
        raise ConnectionError("reset by peer")
    except ConnectionError as error:
        logging.getLogger("aiokafka").error("lost: %r", error, exc_info=True)
    (line,) = out.lines()
    assert line["error"] == "ConnectionError: reset by peer" and "test_log.py:" in line["error_at"]


def test_a_library_repeats_itself_at_most_once_a_second_and_says_how_often(out: Out) -> None:
    now = [0.0]
    lines = LibraryLines(lambda: now[0])
    passed = []
    for at in (0.0, 0.1, 0.5, 1.1, 1.2):
        now[0] = at
        record = logging.LogRecord("aiokafka.conn", logging.ERROR, "f", 1, f"broker 10.0.0.{int(at * 10)} gone", (), None)
        if lines.filter(record):
            passed.append((at, getattr(record, "held_back", 0)))
    assert passed == [(0.0, 0), (1.1, 2)]


def test_our_own_lines_are_never_held_back(out: Out) -> None:
    for _ in range(5):
        structlog.get_logger().warning("late_event")
    assert len(out.lines()) == 5


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_control_characters_are_escaped(log_format: str, restored: None) -> None:
    stream = Out()
    configure_logging(load_settings(log_format=log_format), "features", stream=stream)
    structlog.get_logger().warning("found", user="a\x1b[2Jb\nc\u2028d\x9b")
    (line,) = stream.getvalue().splitlines()
    assert not {"\x1b", "\u2028", "\x9b"} & set(line)


def test_a_text_line_keeps_the_lines_of_a_traceback(restored: None) -> None:
    stream = Out()
    configure_logging(load_settings(log_format="text"), "features", stream=stream)
    try:
        raise ValueError("no\x1b")
    except ValueError:
        structlog.get_logger().exception("unexpected")
    assert "Traceback" in stream.getvalue().splitlines()[1] and "\x1b" not in stream.getvalue()
