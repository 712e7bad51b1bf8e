"""Run an Apache Kafka broker for the suite, with a second listener that is advertised at a proxy's port.

The script in FOOTFALL_KAFKA starts it, or the one next to the checkout. Start at Broker.
"""

import os
import random
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
GIVEN_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")  # Linux: the range of ephemeral ports
FIRST_PORT, LAST_PORT = 15_000, 32_768
STARTS = 3
SERVER_PROPERTIES = """
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxy}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
group.min.session.timeout.ms=1000
"""


class Broker:
    """One broker process: `address` connects to it directly; clients of `behind_port` connect through `proxy_port`."""

    def __init__(self, script: Path, folder: Path) -> None:
        self._script, self._folder = script, folder
        self._choose()

    def _choose(self) -> None:
        """Choose a folder that does not exist yet, and ports."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        self._data = folder / "data"
        self.port, self.behind_port, self.proxy_port, controller = free_ports(4)
        self.address, self.proxied = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.proxy_port}"
        self._conf = folder / "extra.properties"
        self._conf.write_text(
            SERVER_PROPERTIES.format(controller=controller, port=self.port, behind=self.behind_port, proxy=self.proxy_port)
        )

    @property
    def data(self) -> Path:
        """Folder of the broker's properties and its log."""
        return self._data

    def first_up(self) -> None:
        """Start the broker for the first time, and retry with other ports and data if that fails.

        One start in 64 draws a cluster id with a leading dash, which Kafka parses as an option; a port may be taken meanwhile.
        """
        for _ in range(STARTS - 1):
            with suppress(AssertionError):
                self.up()
                return
            with suppress(AssertionError):
                self.down()
            self._choose()
        self.up()

    def up(self) -> None:
        """Start the broker, or restart it on its data, and wait until it answers."""
        self._run("up", str(self.port), str(self._data))

    def down(self) -> None:
        """Stop the broker; on a busy machine it may end just before the script loses patience and kills it."""
        try:
            self._run("down", str(self._data))
        except AssertionError:
            assert not Path(f"/proc/{(self._data / 'pid').read_text().strip()}").exists(), "the broker is still running"

    def kill(self) -> None:
        """Kill -9 the broker."""
        self._run("kill", str(self._data))

    def stall(self) -> None:
        """SIGSTOP the broker: connections stay open, but no request is answered."""
        self._run("stop", str(self._data))

    def resume(self) -> None:
        """SIGCONT the broker."""
        self._run("cont", str(self._data))

    def _run(self, *words: str) -> None:
        env = {"HEAP": "384m", "CONF": str(self._conf), **os.environ}
        ended = subprocess.run([self._script, *words], env=env, stdout=subprocess.DEVNULL, check=False)
        assert ended.returncode == 0, f"kafka {' '.join(words)} exited with {ended.returncode}"


def kafka_script() -> Path | None:
    """Return the script that starts brokers, or None if there is none."""
    script = Path(os.environ.get("FOOTFALL_KAFKA", ROOT / "../shared/kafka/kafka"))
    return script if script.exists() else None


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on.

    They are below the ephemeral range. Otherwise a client of a stopped broker could get that very port as its own, connect
    to itself, and keep the broker from restarting.
    """
    first_given = int(GIVEN_PORTS.read_text().split()[0]) if GIVEN_PORTS.exists() else LAST_PORT
    end = first_given if first_given > FIRST_PORT else LAST_PORT
    ports: set[int] = set()
    while len(ports) < count:
        port = random.randrange(FIRST_PORT, end)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            ports.add(port)
    return list(ports)
