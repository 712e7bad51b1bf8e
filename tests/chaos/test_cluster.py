"""Kill, stop and move brokers of a cluster of three under load: everything stays exact, and the longest pause is reported.

Replication is 3, and two replicas in sync are required. Set `pytest -s` to see the pauses.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from stream.kafka.clients import admin_client
from stream.kafka.topic_admin import apply
from stream.logs.event_log import LoggedEvent
from tests.chaos.broker import kafka_script
from tests.chaos.cluster import NODES, Cluster, in_sync, leaders
from tests.chaos.scene import Report, Scene
from tests.chaos.shop import ROLES, Shop
from tests.checkpoints import tiny_checkpoint
from tests.harness import Deployment, configs_of, until

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
IN_SYNC = "min.insync.replicas"
PER_SECOND = 100.0
STALL_SECONDS, DOWN_SECONDS = 30.0, 15.0
TWO_REPLICAS = "score-request"  # has two replicas, so a broker that is down leaves it under-replicated


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    script = kafka_script()
    if script is None:
        pytest.skip("no script that starts Kafka: set FOOTFALL_KAFKA")
    cluster = Cluster(script, tmp_path)
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture
async def shop(cluster: Cluster, report: Report, tmp_path: Path) -> AsyncIterator[Shop]:
    deployment = Deployment(cluster.addresses, tmp_path, replication_factor=3)
    await create_with_two_replicas(deployment, TWO_REPLICAS)
    await apply(deployment.settings)
    tiny_checkpoint(tmp_path / "model", seed=1)
    scene = Scene(deployment, report, f"{report.seed} cluster")
    yield Shop(scene, FOOTFALL_CHECKPOINT=str(tmp_path / "model"), PYTHONPATH=str(ROOT))
    deployment.stop()


async def test_a_cluster_whose_brokers_die_stall_and_hand_over_loses_and_doubles_nothing(
    cluster: Cluster, shop: Shop, events: list[LoggedEvent]
) -> None:
    settings, prefix = shop.deployment.settings, shop.deployment.settings.topic_prefix
    for role in (*ROLES, "features"):
        await shop.join(role)
    async with shop.kept(), shop.open(events, per_second=PER_SECOND):
        await shop.works()
        for node in NODES:
            async with step(shop, f"kill -9 of broker {node}, back after {DOWN_SECONDS:g} s"):
                cluster.kill(node)
                await asyncio.sleep(DOWN_SECONDS)
                await asyncio.to_thread(cluster.bring_back, node)
                await in_sync(settings, prefix)
        async with step(shop, "leaders moved", may_repeat=False):
            before = await leaders(settings, prefix)
            await asyncio.to_thread(cluster.elect_preferred_leaders)
            await until("leaders moved", lambda: moved(shop, before), seconds=60)
        async with step(shop, f"broker 2 stopped for {STALL_SECONDS:g} s"):
            cluster.stall(2)
            await asyncio.sleep(STALL_SECONDS)
            cluster.resume(2)
            await in_sync(settings, prefix)
        await require_both_replicas(shop.deployment, TWO_REPLICAS)
        async with step(shop, f"records of {TWO_REPLICAS} refused for {DOWN_SECONDS:g} s: too few replicas in sync"):
            cluster.kill(1)
            await asyncio.sleep(DOWN_SECONDS)
            await asyncio.to_thread(cluster.bring_back, 1)
            await in_sync(settings, prefix)
    for worker in shop.deployment.workers:
        worker.stop()


async def moved(shop: Shop, before: dict[tuple[str, int], tuple[int, int]]) -> bool:
    """Return whether some partition has another leader."""
    now = await leaders(shop.deployment.settings, shop.deployment.settings.topic_prefix)
    return any(now[place][0] != leader for place, (leader, _) in before.items())


@asynccontextmanager
async def step(shop: Shop, name: str, *, may_repeat: bool = True) -> AsyncIterator[None]:
    """Inject a fault under load, go on afterwards, check everything, and report the longest pause of a partition.

    A coordinator that hangs ends sessions, so requests `may_repeat`; decisions may not.
    """
    began, restarts, repeats = time.time(), shop.restarts, shop.repeats
    yield
    await shop.works()
    ended = time.time()
    findings = await shop.check(may_repeat=may_repeat)
    pause, partition = await shop.longest_pause(from_ms=round(began * 1000), to_ms=round(ended * 1000))
    shop.scene.report.faults[name] += 1
    shop.scene.report.events = max(shop.scene.report.events, findings.events)
    sys.stdout.write(
        f"cluster: {name}: {findings.events} events exact, longest pause {pause:.1f} s (partition {partition}), "
        f"{shop.restarts - restarts} workers restarted, {shop.repeats - repeats} signals repeated\n"
    )
    await shop.works()


async def create_with_two_replicas(deployment: Deployment, kind: str) -> None:
    """Create a topic whose partitions are on two of the three brokers; one in sync is enough."""
    topic = deployment.settings.topics()[kind]
    homes = {number: [1 + number % 3, 1 + (number + 1) % 3] for number in range(deployment.partitions)}
    admin = admin_client(deployment.settings)
    await admin.start()
    try:
        configs = configs_of(topic) | {IN_SYNC: "1"}
        await admin.create_topics([NewTopic(topic.name, -1, -1, replica_assignments=homes, topic_configs=configs)])
    finally:
        await admin.close()


async def require_both_replicas(deployment: Deployment, kind: str) -> None:
    """Make the brokers refuse records of a topic that has not both replicas in sync."""
    topic = deployment.settings.topics()[kind]
    admin = admin_client(deployment.settings)
    await admin.start()
    try:
        configs = configs_of(topic) | {IN_SYNC: "2"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name, configs)])
    finally:
        await admin.close()
