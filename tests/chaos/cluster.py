"""Run a cluster of three brokers for a test, with replication 3 and two replicas in sync required. Start at Cluster."""

import os
import subprocess
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from stream.kafka.clients import admin_client
from stream.process.settings import Settings
from tests.harness import until

NODES = (1, 2, 3)
SERVER_PROPERTIES = "group.min.session.timeout.ms=1000\n"
ELECTION = "org.apache.kafka.tools.LeaderElectionCommand"


class Cluster:
    """Three brokers; `addresses` has all of them."""

    def __init__(self, script: Path, folder: Path) -> None:
        self._script, self._folder = script, folder / "cluster"
        self._conf = folder / "extra.properties"
        self._conf.write_text(SERVER_PROPERTIES)
        self.addresses = ""

    def up(self) -> None:
        """Start all brokers, on new data."""
        self.addresses = self._run("cluster", str(self._folder), str(len(NODES))).split()[-1]
        assert self.addresses.count(",") == len(NODES) - 1, self.addresses

    def down(self) -> None:
        """Stop all brokers."""
        for node in NODES:
            self._run("cont", self._node(node))
        self._run("down", str(self._folder))

    def kill(self, node: int) -> None:
        """Kill -9 a broker."""
        self._run("kill", self._node(node))

    def bring_back(self, node: int) -> None:
        """Start a killed broker again on its data."""
        port = (self._folder / str(node) / "address").read_text().strip().rsplit(":", 1)[1]
        self._run("up", port, self._node(node))

    def stall(self, node: int) -> None:
        """SIGSTOP a broker."""
        self._run("stop", self._node(node))

    def resume(self, node: int) -> None:
        """SIGCONT a broker."""
        self._run("cont", self._node(node))

    def elect_preferred_leaders(self) -> None:
        """Move leaders back to the first replica of each partition."""
        classpath = f"{self._script.parent}/lib/*"
        words = ["--bootstrap-server", self.addresses, "--election-type", "preferred", "--all-topic-partitions"]
        subprocess.run(["java", "-cp", classpath, ELECTION, *words], check=True, capture_output=True, timeout=60)

    def _node(self, node: int) -> str:
        return str(self._folder / str(node))

    def _run(self, *words: str) -> str:
        env = {"HEAP": "384m", "CONF": str(self._conf), **os.environ}
        ended = subprocess.run([self._script, *words], env=env, stdout=subprocess.PIPE, text=True, check=False, timeout=180)
        assert ended.returncode == 0 or words[0] == "cont", f"kafka {' '.join(words)} exited with {ended.returncode}"
        return ended.stdout


async def leaders(settings: Settings, prefix: str) -> dict[tuple[str, int], tuple[int, int]]:
    """Return the leader, and the number of replicas in sync less those it should have, of the partitions of our topics."""
    client: AIOKafkaAdminClient = admin_client(settings)
    await client.start()
    try:
        return {
            (topic["topic"], partition["partition"]): (partition["leader"], len(partition["isr"]) - len(partition["replicas"]))
            for topic in await client.describe_topics()
            if topic["topic"].startswith(prefix)
            for partition in topic["partitions"]
        }
    finally:
        await client.close()


async def in_sync(settings: Settings, prefix: str) -> None:
    """Wait until every replica of our topics is in sync."""

    async def done() -> bool:
        found = await leaders(settings, prefix)
        return bool(found) and all(missing == 0 for _, missing in found.values())

    await until("all replicas are in sync", done, seconds=120)
