"""Stop a worker before it commits more than a row could remember: the signals come twice, and each decision once.

The stopped worker has sent requests or signals of one user, and its successor sends them all again.
"""

import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from models.features.spec import RECENT_IDS
from schemas.codec import decode, encode
from schemas.signals import AdTrigger, ChurnRisk, Interest, Suppression
from stream.logs.event_log import LoggedEvent
from tests.builders import search
from tests.chaos.scene import Scene
from tests.harness import Worker, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
START_MS, USER, SEARCHES = 1_790_000_000_000, "u-1", 3 * RECENT_IDS
SIGNALS = ("interest", "churn-risk")
POLICY = """
version: policy-1
campaigns:
  - {id: interested, signal: interest, threshold: 0.000001}
  - {id: leaving, signal: churn-risk, threshold: 0.000001}
"""
BEFORE_A_COMMIT = {"features": "stop@P1.acked:1", "scorer": "stop@outputs.acked:1"}


@pytest.mark.parametrize("stopped", sorted(BEFORE_A_COMMIT))
async def test_decisions_come_once_although_a_stopped_worker_makes_more_signals_repeat_than_a_row_has_ids(
    scene: Scene, tmp_path: Path, stopped: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    triggers = scene.start(role="triggers", FOOTFALL_TRIGGER_POLICY=str(policy))
    other = {"features": "scorer", "scorer": "features"}[stopped]
    one_commit = {"FOOTFALL_BARRIER_MS": "2000", "FOOTFALL_SCORER_CHUNK_REQUESTS": str(SEARCHES)}
    await scene.deployment.publish(searches())
    scene.start(role=other)
    if stopped == "scorer":
        await scene.settled()

    zombie = scene.start(BEFORE_A_COMMIT[stopped], stopped, **one_commit)
    await scene.fires(zombie, seconds=120)
    successor = scene.start(role=stopped, **one_commit)
    await answered(scene, successor)
    if stopped == "features":
        await scene.resumed(zombie)
    else:
        zombie.process.send_signal(signal.SIGCONT)
        await until("the zombie is ready", zombie.ready, seconds=60, worker=zombie)
        await answered(scene, successor)
    await decided(scene, triggers)
    assert triggers.stop() == 0

    repeats = await repeated(scene)
    assert min(repeats.values()) > RECENT_IDS, repeats  # otherwise the fault proves nothing
    decisions = await decision_ids(scene)
    assert {count for count in decisions.values() if count > 1} == set()
    assert len(decisions) == len(SIGNALS) * SEARCHES


def searches() -> Iterable[LoggedEvent]:
    """Return searches of one user: each is scored."""
    for n in range(SEARCHES):
        at = START_MS + n * 1000
        yield LoggedEvent("search", at, USER.encode(), encode(search(user_id=USER, event_time_ms=at, event_id=f"e-{n}")))


async def answered(scene: Scene, worker: Worker) -> None:
    """Wait until every search has both signals, and nothing is left to read or to score."""

    async def done() -> bool:
        ids = {
            decode(Interest, record.value).signal_id
            for record in await scene.deployment.read(scene.deployment.topic("interest"))
        }
        lags = await scene.deployment.lag("features", ("search",)), await scene.deployment.lag("scorer", ("score-request",))
        return len(ids) == SEARCHES and not any(lags)

    await until("every search is answered", done, seconds=120, worker=worker)


async def decided(scene: Scene, triggers: Worker) -> None:
    async def done() -> bool:
        return not await scene.deployment.lag("triggers", SIGNALS)

    await until("every signal is decided", done, seconds=60, worker=triggers)


async def repeated(scene: Scene) -> dict[str, int]:
    """Count the signals of each topic that came again."""
    found = {}
    for kind, struct in (("interest", Interest), ("churn-risk", ChurnRisk)):
        records = await scene.deployment.read(scene.deployment.topic(kind))
        ids = Counter(decode(struct, record.value).signal_id for record in records)
        found[kind] = ids.total() - len(ids)
    return found


async def decision_ids(scene: Scene) -> Counter[str]:
    """Count the decisions of each id that a read-committed subscriber gets."""
    fired = await scene.deployment.read(scene.deployment.topic("ad-trigger"))
    refused = await scene.deployment.read(scene.deployment.topic("suppression"))
    found = Counter(decode(AdTrigger, record.value).trigger_id for record in fired)
    found.update(decode(Suppression, record.value).suppression_id for record in refused)
    return found
