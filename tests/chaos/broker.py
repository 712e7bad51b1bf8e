"""An Apache Kafka of the suite's own, with a second listener that is advertised at a proxy's port.

Started by the script that FOOTFALL_KAFKA names, or the one that lies beside the checkout. Start at Broker.
"""

import os
import socket
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER_PROPERTIES = """
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxy}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
group.min.session.timeout.ms=1000
"""


class Broker:
    """One broker process: `address` leads straight to it, `proxy_port` is where clients of `behind_port` look for it."""

    def __init__(self, script: Path, folder: Path) -> None:
        self._script, self._data = script, folder / "data"
        self.port, self.behind_port, self.proxy_port, controller = free_ports(4)
        self.address, self.proxied = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.proxy_port}"
        self._conf = folder / "extra.properties"
        self._conf.write_text(
            SERVER_PROPERTIES.format(controller=controller, port=self.port, behind=self.behind_port, proxy=self.proxy_port)
        )

    @property
    def data(self) -> Path:
        """Where the broker keeps its properties and its log."""
        return self._data

    def up(self) -> None:
        """Start the broker, or start it again on its data, and wait until it answers."""
        self._run("up", str(self.port), str(self._data))

    def down(self) -> None:
        """Stop the broker."""
        self._run("down", str(self._data))

    def kill(self) -> None:
        """Kill -9."""
        self._run("kill", str(self._data))

    def stall(self) -> None:
        """SIGSTOP: connections stay, nothing is answered."""
        self._run("stop", str(self._data))

    def go_on(self) -> None:
        """SIGCONT."""
        self._run("cont", str(self._data))

    def _run(self, *words: str) -> None:
        env = {"HEAP": "384m", "CONF": str(self._conf), **os.environ}
        ended = subprocess.run([self._script, *words], env=env, stdout=subprocess.DEVNULL, check=False)
        assert ended.returncode == 0, f"kafka {' '.join(words)} ended with {ended.returncode}"


def kafka_script() -> Path | None:
    """Return the script that starts brokers, or None where there is none."""
    script = Path(os.environ.get("FOOTFALL_KAFKA", ROOT / "../shared/kafka/kafka"))
    return script if script.exists() else None


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
