"""Log lines: one JSON object each, no message values, no repeats, no control characters."""

import gc
import io
import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    logging.captureWarnings(False)
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


STALLED = """
import logging, os, sys, time
import structlog
from stream.process.exit_codes import end_process
from stream.process.log import configure_logging
from stream.process.settings import load_settings
configure_logging(load_settings(log_format="json"), "features")
started = time.monotonic()
for n in range(10_000):
    structlog.get_logger().warning("late_event", number=n, filler="x" * 500)
    if n % 1000 == 0:
        logging.getLogger("aiokafka.conn").warning("library %s", n)
import warnings
warnings.warn("b'canary' of a library")
print(time.monotonic() - started, flush=True)
if sys.argv[1] == "wait":
    sys.stdin.readline()
    structlog.get_logger().warning("after")
end_process("over", code=75)
"""


@contextmanager
def stalled(what: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a process that logs far more than a pipe holds while nobody reads its stderr; yield it when it has done so."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", STALLED, what], **pipes) as process:
        try:
            assert select.select([process.stdout], [], [], 30)[0], "logging blocked the process"
            yield process
        finally:
            process.kill()


def test_a_reader_that_stopped_reading_stderr_blocks_neither_the_process_nor_its_end() -> None:
    with stalled("end") as process:
        assert process.stderr is not None
        assert process.wait(30) == 75
        first = process.stderr.readline()
    assert json.loads(first)["event"] == "late_event"


def test_a_reader_that_reads_again_learns_how_many_lines_it_missed() -> None:
    with stalled("wait") as process:
        assert process.stdin is not None and process.stderr is not None
        reading = process.stderr
        os.set_blocking(reading.fileno(), False)
        data, deadline = b"", time.monotonic() + 30
        while data.count(b"\n") < 2_000 and time.monotonic() < deadline:
            data += reading.read() or b""
        process.stdin.write(b"\n")
        process.stdin.flush()
        os.set_blocking(reading.fileno(), True)
        data += reading.read()
    lines = [json.loads(line) for line in data.splitlines()]
    written = sum(line["event"] == "late_event" for line in lines)
    notices = [line for line in lines if line["event"] == "log_lines_dropped"]

    assert written + sum(line["lines"] for line in notices) >= 10_000 > written
    assert {(line["level"], line["role"]) for line in notices} == {("warning", "features")}
    assert lines[-1]["event"] == "exit"
    assert b"canary" not in data
