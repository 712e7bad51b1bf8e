"""`footfall up`: nobody who reads its log slowly, and no single role, stops the others."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SECONDS = 90.0
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("FOOTFALL_", "KAFKA_"))}


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)


@contextmanager
def up(folder: Path, stderr: int, broker: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `footfall up` in a folder."""
    command = [sys.executable, "-m", "stream.cli.main", "up"]
    environment = ENVIRONMENT | {"KAFKA_BOOTSTRAP_SERVERS": broker, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=stderr) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def listener() -> Iterator[tuple[str, list[object]]]:
    """Listen as a broker that closes every connection: its address, and the addresses of those who connected."""
    found: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                found.append(address)
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}", found
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a pipe can be set on Linux only")
def test_a_full_stderr_blocks_neither_the_roles_nor_the_stop(listener: tuple[str, list[object]], tmp_path: Path) -> None:
    broker, connected = listener
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, b"." * 4096)  # it is full, and nobody reads

    with up(tmp_path, writing, broker) as process:
        until(lambda: len(connected) >= 3, "the connection of three roles")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    os.close(reading)
    os.close(writing)


def test_a_refused_role_waits_for_the_settings_file_while_the_others_run(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as taken, log.open("wb") as stderr:
        port = taken.getsockname()[1] - 1
        (tmp_path / "footfall.toml").write_text(f"http_port = {port}\n")
        with up(tmp_path, stderr.fileno(), "127.0.0.1:9") as process:
            until(lambda: "scorer ended with code 78" in log.read_text(), "the refusal of one role")
            refusal = next(line for line in log.read_text().splitlines() if "scorer ended with code 78" in line)
            assert "setting http_port: " in refusal
            assert "waits for a change of footfall.toml, " in refusal
            until(lambda: "features ended with code 75: restarting" in log.read_text(), "a restart of another")

            (tmp_path / "footfall.toml").write_text("http_port = 0\n")
            until(lambda: "scorer starts again, changed: footfall.toml" in log.read_text(), "another start")
            until(lambda: "scorer ended with code 75: restarting" in log.read_text(), "a start with the new setting")
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
