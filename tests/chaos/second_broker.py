"""Add a second broker to a test's cluster, whose partitions can be made unreachable separately.

It is no voter of the quorum. The cluster's offsets and transactions topics must exist before it joins, so that they stay on
the first broker. Start at SecondBroker.
"""

import base64
import uuid
from pathlib import Path

from tests.chaos.broker import Broker, free_ports

NODE = 2
SERVER_PROPERTIES = """
process.roles=broker
node.id={node}
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}/log
auto.create.topics.enable=false
"""
META_PROPERTIES = "version=1\ncluster.id={cluster}\nnode.id={node}\ndirectory.id={directory}\n"


class SecondBroker(Broker):
    """A broker in the cluster of `first` with its own data folder; its partitions have no other replica."""

    def __init__(self, first: Broker, script: Path, folder: Path) -> None:
        """Write the files that the script would write, because the script can only format a new cluster."""
        self._script, self._data, self._conf = script, folder / "data", folder / "extra.properties"
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        controller = read_property(first.data / "server.properties", "controller.quorum.voters").rsplit(":", 1)[1]
        cluster = read_property(first.data / "log" / "meta.properties", "cluster.id")
        (self._data / "log").mkdir(parents=True)
        (self._data / "server.properties").write_text(
            SERVER_PROPERTIES.format(node=NODE, controller=controller, port=self.port, data=self._data)
        )
        directory = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        (self._data / "log" / "meta.properties").write_text(
            META_PROPERTIES.format(cluster=cluster, node=NODE, directory=directory)
        )


def read_property(path: Path, name: str) -> str:
    """Return the last value of a name in a properties file."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line and line[0] != "#")[name]
