"""Lines go out in order; a reader that stops reading, or is gone, blocks nobody and is told what it missed."""

import os
from collections.abc import Iterator

import pytest

from stream.process.line_writer import LineWriter

SECONDS = 20.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            continue


def notice(count: int) -> str:
    return f"missing {count}\n"


def read_lines(fd: int, last: str) -> list[str]:
    """Read until the line `last` has come."""
    data = b""
    while not data.endswith(f"{last}\n".encode()):
        data += os.read(fd, 1 << 16)
    return data.decode().splitlines()


def test_lines_come_in_order_and_a_drain_waits_for_them(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], notice)
    for number in range(1000):
        writer.write(f"line {number}\n")

    assert writer.drain(SECONDS)
    assert read_lines(pipe[0], "line 999") == [f"line {number}" for number in range(1000)]
    assert writer.dropped == 0


def test_a_reader_that_stopped_blocks_nobody_and_learns_how_many_lines_it_missed(pipe: tuple[int, int]) -> None:
    writer, line, sent = LineWriter(pipe[1], notice, waiting_bytes=10_000), "x" * 1000, 0
    while writer.drain(0.05) or not writer.dropped:  # until the pipe and the room are full
        writer.write(f"{line}\n")
        sent += 1

    read = b""
    while not writer.drain(0.05):
        read += os.read(pipe[0], 1 << 20)
    writer.write("back\n")
    lines = [*filter(None, read.decode().splitlines()), *read_lines(pipe[0], "back")]

    assert lines.count(line) == sent - writer.dropped
    assert sum(int(text.split()[1]) for text in lines if text.startswith("missing ")) == writer.dropped > 0
    assert lines[-1] == "back"


def test_a_line_longer_than_the_room_is_written_if_nothing_else_waits(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], notice, waiting_bytes=10)
    writer.write("x" * 5000 + "\n")
    assert writer.drain(SECONDS)
    assert read_lines(pipe[0], "x" * 5000) == ["x" * 5000]


def test_a_reader_that_is_gone_raises_nothing(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], notice)
    os.close(pipe[0])
    writer.write("nobody\n")
    writer.write("reads this\n")
    writer.drain(SECONDS)
    assert writer.dropped >= 2


def test_a_pipe_that_another_program_made_non_blocking_gets_every_line(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    writer, line = LineWriter(pipe[1], notice), "y" * 1000
    for _ in range(200):
        writer.write(f"{line}\n")
    writer.write("last\n")
    assert read_lines(pipe[0], "last") == [line] * 200 + ["last"]
