"""Change one thing after the other under load, all roles running: nothing is lost or doubled, or the refusal names the way out.

After each change, the load is held and everything in Kafka is compared: see Shop.check.
"""

import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import NewPartitions

from models.serving.registry import Registry
from schemas.codec import decode
from schemas.scoring import ScoreRequest
from schemas.signals import AdTrigger, Interest, Suppression
from stream.kafka.clients import admin_client
from stream.logs.event_log import LoggedEvent
from tests.chaos.broker import Broker
from tests.chaos.conftest import SESSION_SECONDS
from tests.chaos.oracles import examine
from tests.chaos.proxy import Proxy
from tests.chaos.scene import Scene
from tests.chaos.shop import ROLES, Shop
from tests.chaos.test_restore import lines_of
from tests.checkpoints import tiny_checkpoint
from tests.harness import until
from tests.kafka.test_clocks import BEHIND, TWO_DAYS
from tests.kafka.test_recreated_topic import recreate, refused
from tests.kafka.test_spec_upgrade import NEWER

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
OLD_COMMIT = "48e1239"  # an older release's code: before standbys, sliced barriers and bounded datasets
PER_SECOND = 100.0
OLD_PROGRAM = """
import os
from stream.process.settings import Settings

known = {info.alias or f"FOOTFALL_{name.upper()}" for name, info in Settings.model_fields.items()}
known |= {"FOOTFALL_CONFIG", "FOOTFALL_STATUS_FILE"}
for name in [name for name in os.environ if name.startswith("FOOTFALL_") and name not in known]:
    del os.environ[name]

from stream.cli.main import main
main()
"""
POLICY = """
version: {version}
campaigns:
  - {{id: interested, signal: interest, threshold: {threshold}}}
  - {{id: leaving, signal: churn-risk, threshold: {threshold}}}
"""


class Matrix:
    """A shop with a registry of models and a policy file, and the changes that are made to it."""

    def __init__(self, scene: Scene, broker: Broker, folder: Path) -> None:
        self.folder, self.broker = folder, broker
        self.registry, self.policy = Registry(folder / "registry"), folder / "policy.yaml"
        self.models = []
        for seed in (1, 2):
            tiny_checkpoint(folder / f"model-{seed}", seed=seed)
            self.models.append(self.registry.add(folder / f"model-{seed}"))
        self.registry.promote(self.models[0], at="", command="")
        self.write_policy("policy-1", 0.2)
        self.shop = Shop(
            scene, FOOTFALL_CHECKPOINT=str(self.registry.folder), FOOTFALL_TRIGGER_POLICY=str(self.policy), PYTHONPATH=str(ROOT)
        )

    def write_policy(self, version: str, threshold: float) -> None:
        self.policy.write_text(POLICY.format(version=version, threshold=threshold))

    async def start(self) -> None:
        """Start one worker of each role."""
        for role in ROLES:
            await self.shop.join(role)

    async def more_workers(self) -> None:
        for role in ROLES:
            await self.shop.join(role)

    async def fewer_workers(self) -> None:
        for role in ROLES:
            await self.shop.leave(self.shop.workers[role][0])

    async def new_code_beside_old(self) -> None:
        """Fold by an older release beside this one, alone, and by this one again."""
        old = old_code(self.folder)
        for role in ROLES:
            await self.shop.replace(role, OLD_PROGRAM, PYTHONPATH=str(old))
        await self.shop.works()
        for role in ROLES:
            await self.shop.replace(role)

    async def new_spec(self) -> None:
        """Fold by a release with one more feature; its requests are answered beside those of this release."""
        await self.shop.replace("features", NEWER)
        await self.shop.works()
        await self.shop.replace("features")
        specs = {request.spec_version for request in await self.read("score-request", ScoreRequest)}
        assert len(specs) == 2, specs

    async def new_model(self) -> None:
        (scorer,) = self.shop.workers["scorer"]
        self.registry.promote(self.models[1], at="", command="")
        loaded = 'footfall_model_reloads_total{outcome="loaded"}'
        await until("the second model serves", lambda: scorer.metric(loaded) == 1, seconds=60, worker=scorer)
        await self.shop.works()
        await self.shop.settle()
        signals = await self.read("interest", Interest)
        assert {signal.model_version for signal in signals} == set(self.models)

    async def new_policy(self) -> None:
        self.write_policy("policy-2", 0.4)
        await self.shop.replace("triggers")
        await self.shop.works()
        await self.shop.settle()
        decisions = [*await self.read("ad-trigger", AdTrigger), *await self.read("suppression", Suppression)]
        assert {decision.policy_version for decision in decisions} == {"policy-1", "policy-2"}

    async def worker_two_days_behind(self) -> None:
        for role in ROLES:
            await self.shop.replace(role, BEHIND)
        await self.shop.works()
        now_ms = time.time() * 1000
        records = await self.shop.deployment.read(self.shop.deployment.topic("score-request"))
        assert all(now_ms - record.timestamp < TWO_DAYS * 500 for record in records), "the broker's clock stamps them"
        for role in ROLES:
            await self.shop.replace(role)

    async def restore_of_three_session_timeouts(self) -> None:
        """Restart role features behind a proxy through which the changelog takes longer than three sessions."""
        changelog = await self.shop.deployment.read(self.shop.deployment.settings.changelog("features"))
        size = sum(len(record.value or b"") for record in changelog)
        async with Proxy(self.broker.proxy_port, self.broker.behind_port) as proxy:
            proxy.bytes_per_second = round(size / (8 * SESSION_SECONDS))
            await self.shop.leave(self.shop.workers["features"][0])
            slow = await self.shop.join("features", KAFKA_BOOTSTRAP_SERVERS=self.broker.proxied)
            proxy.bytes_per_second = 0
            seconds = [line["seconds"] for line in lines_of(slow) if line["event"] == "restored"]
            assert len(seconds) == 1 and seconds[0] > 3 * SESSION_SECONDS, seconds
            await self.shop.works()
            await self.shop.replace("features")

    async def read(self, kind: str, struct: type) -> list:  # type: ignore[type-arg]
        return [decode(struct, record.value) for record in await self.shop.deployment.read(self.shop.deployment.topic(kind))]


CHANGES: list[Callable[[Matrix], Awaitable[None]]] = [
    Matrix.more_workers,
    Matrix.fewer_workers,
    Matrix.new_code_beside_old,
    Matrix.new_spec,
    Matrix.new_model,
    Matrix.new_policy,
    Matrix.worker_two_days_behind,
    Matrix.restore_of_three_session_timeouts,
]


async def test_every_change_under_load_loses_and_doubles_nothing(
    scene: Scene, broker: Broker, events: list[LoggedEvent], tmp_path: Path
) -> None:
    matrix = Matrix(scene, broker, tmp_path)
    await matrix.start()
    async with matrix.shop.open(events, per_second=PER_SECOND):
        for change in CHANGES:
            await matrix.shop.works()
            await change(matrix)
            await matrix.shop.works()
            findings = await matrix.shop.check()
            scene.report.faults[change.__name__.replace("_", " ")] += 1
    assert findings.commits > 100
    scene.report.events += findings.events
    scene.report.commits += findings.commits


async def test_workers_of_every_role_killed_beside_standbys_lose_nothing_and_decide_once(
    scene: Scene, broker: Broker, events: list[LoggedEvent], tmp_path: Path
) -> None:
    matrix = Matrix(scene, broker, tmp_path)
    shop = matrix.shop
    shop.environment["FOOTFALL_STANDBYS"] = "2"
    for _ in range(3):
        for role in ROLES:
            await shop.join(role)
    async with shop.open(events, per_second=PER_SECOND):
        for role in ROLES:
            await shop.works()
            for worker in shop.workers[role][:2]:
                scene.kill(worker)
                shop.workers[role].remove(worker)
            await shop.works()
            await shop.check(may_repeat=True)
            await shop.join(role)
            await shop.join(role)
        for role in ("features", "triggers"):
            (survivor, *_) = shop.workers[role]
            taken = [line["from_standby"] for line in lines_of(survivor) if line["event"] == "restored"]
            assert any(taken), f"{role}: no partition came from a standby, {taken}"


@pytest.mark.parametrize("role", ROLES)
async def test_partitions_added_under_load_are_refused_by_the_role_that_reads_them_and_nothing_is_lost(
    scene: Scene, broker: Broker, events: list[LoggedEvent], tmp_path: Path, role: str
) -> None:
    matrix = Matrix(scene, broker, tmp_path)
    await matrix.start()
    kind = {"features": "click", "scorer": "score-request", "triggers": "interest"}[role]
    topic = matrix.shop.deployment.topic(kind)
    async with matrix.shop.open(events, per_second=PER_SECOND):
        await matrix.shop.works()
        await extend(matrix.shop, kind, 6)
        text = await refused(matrix.shop.workers[role].pop())
    assert f"found 6 partitions in topic {topic}, expected 4" in text
    await others_run(matrix.shop, role)
    findings = await examine_committed(matrix.shop)
    assert not findings, findings


async def test_a_topic_recreated_under_load_is_refused_and_what_was_committed_stays(
    scene: Scene, broker: Broker, events: list[LoggedEvent], tmp_path: Path
) -> None:
    matrix = Matrix(scene, broker, tmp_path)
    shop = matrix.shop
    await matrix.start()
    async with shop.open(events, per_second=PER_SECOND):
        await shop.works()
        await shop.check()
        kept = {shop.deployment.topic("click"): await shop.deployment.read(shop.deployment.topic("click"))}
        before = await shop.deployment.committed("features")
        await recreate(shop.deployment, "click")
        shop.held = False
        text = await refused(shop.workers["features"].pop())
    assert f"of topic {shop.deployment.topic('click')}" in text and "footfall state reset features" in text
    await others_run(shop, "features")
    found = await examine_committed(shop, kept)
    ahead = [fault for fault in found.pop("ahead", []) if shop.deployment.topic("click") not in fault]  # Kafka deleted those
    assert not found and not ahead, (found, ahead)
    assert (await shop.deployment.committed("features"))[1].events_in >= before[1].events_in


async def extend(shop: Shop, kind: str, partitions: int) -> None:
    """Add partitions to a topic."""
    admin = admin_client(shop.deployment.settings)
    await admin.start()
    try:
        await admin.create_partitions({shop.deployment.topic(kind): NewPartitions(partitions)})
    finally:
        await admin.close()


async def others_run(shop: Shop, refused_role: str) -> None:
    """Check that one role's refusal stays its own."""
    for role, workers in shop.workers.items():
        for worker in workers:
            assert role == refused_role or worker.process.poll() is None, worker.tail()


async def examine_committed(shop: Shop, kept: dict[str, list[Any]] | None = None) -> dict[str, Any]:
    """Stop all workers and return what is wrong with what role features committed, but for what is not read yet."""
    for workers in shop.workers.values():
        for worker in workers:
            worker.stop()
    findings = await examine(shop.deployment, finished=False, kept=kept)
    return findings.faults()


def old_code(folder: Path) -> Path:
    """Return a folder with the code of an older release: FOOTFALL_OLD_CODE, or OLD_COMMIT from this checkout's history."""
    if given := os.environ.get("FOOTFALL_OLD_CODE"):
        return Path(given)
    archive = subprocess.run(["git", "archive", OLD_COMMIT], cwd=ROOT, capture_output=True, check=True).stdout
    target = folder / "old"
    target.mkdir()
    subprocess.run(["tar", "-x"], cwd=target, input=archive, check=True)
    return target
