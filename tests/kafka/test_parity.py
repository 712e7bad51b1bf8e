"""Compare all three roles on Apache Kafka with an offline replay of the same log: same ids, rows and scores."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import to_builtins

from models.features.row_codec import decode_row
from models.features.spec import SENTIMENT
from models.serving.scorer import Scorer
from schemas.codec import decode
from schemas.signals import AdTrigger, ChurnRisk, Interest, ReviewSentiment, Suppression
from stream.fold.records import Output
from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.replay_log import Replay
from tests.harness import Deployment, decided_rows, folded_rows, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]
SOURCES = ("visit", "browse", "click", "search", "purchase", "review", "rating")
TOLERANCE = 2e-3  # a forward pass depends in its last bits on the rest of its batch


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    deployment = Deployment(kafka, tmp_path, alignment_idle_ms=1000)
    await deployment.create_topics()
    yield deployment
    deployment.stop()


async def test_a_simulated_log_sent_while_the_roles_run_gives_what_its_replay_gives(deployment: Deployment) -> None:
    config = SimulatorConfig(seed=11, shoppers=24, days=30, late=0.02, duplicates=0.02, malformed=0.01)
    events = [event.logged for event in simulate(config) if event.logged.kind != "review"]

    await run_roles(deployment, events)

    await assert_parity(deployment, events)


async def test_reviews_come_back_as_sentiment_and_change_no_id(deployment: Deployment) -> None:
    config = SimulatorConfig(seed=12, shoppers=16, days=30)
    events = [event.logged for event in simulate(config)]

    await run_roles(deployment, events)

    replay, outputs = replayed(deployment, events)
    for kind, struct in (("interest", Interest), ("churn-risk", ChurnRisk), ("review-sentiment", ReviewSentiment)):
        live = {decode(struct, record.value).signal_id for record in await deployment.read(deployment.topic(kind))}
        assert live == {output.message.signal_id for output in outputs if output.kind == kind}  # type: ignore[attr-defined]
        assert live
    rows, _ = await deployment.committed("features")
    assert without_feedback(rows) == without_feedback(folded_rows(replay))


@pytest.mark.logs
async def test_online_retail_sent_while_the_roles_run_gives_what_its_replay_gives(deployment: Deployment) -> None:
    from stream.logs.importers.online_retail import import_online_retail

    folder = os.environ.get("FOOTFALL_LOGS")
    if not folder:
        pytest.skip("FOOTFALL_LOGS names no folder with the public event logs")
    events, _ = import_online_retail(Path(folder) / "online_retail_uci" / "by-day")
    events.sort(key=lambda event: event.record_ms)

    await run_roles(deployment, events)

    await assert_parity(deployment, events)


async def run_roles(deployment: Deployment, events: list[LoggedEvent]) -> None:
    workers = [deployment.start(role) for role in ("features", "scorer", "triggers")]
    for worker in workers:
        await until(f"{worker.role} is ready", worker.ready, seconds=90, worker=worker)
    await deployment.publish(events)
    waits = (("features", SOURCES), ("scorer", ("score-request",)), ("features", ("review-sentiment",)))
    for role, kinds in (*waits, ("triggers", ("interest", "churn-risk"))):
        await until(f"no lag of {role}", lambda role=role, kinds=kinds: done(deployment, role, kinds), seconds=600)
    assert [worker.stop() for worker in workers] == [0, 0, 0]


async def done(deployment: Deployment, role: str, kinds: tuple[str, ...]) -> bool:
    for worker in deployment.workers:
        assert worker.process.poll() is None, worker.tail()
    return not await deployment.lag(role, kinds)


def replayed(deployment: Deployment, events: list[LoggedEvent]) -> tuple[Replay, list[Output]]:
    replay = deployment.replay()
    return replay, list(replay.signals(events, Scorer.load(deployment.settings.checkpoint)))


async def assert_parity(deployment: Deployment, events: list[LoggedEvent]) -> None:
    replay, outputs = replayed(deployment, events)
    rows, totals = await deployment.committed("features")
    assert totals == replay.summed()
    assert rows == folded_rows(replay)
    expected = {output.message.signal_id: output.message for output in outputs if output.kind in ("interest", "churn-risk")}  # type: ignore[attr-defined]
    interests = [decode(Interest, record.value) for record in await deployment.read(deployment.topic("interest"))]
    risks = [decode(ChurnRisk, record.value) for record in await deployment.read(deployment.topic("churn-risk"))]
    live = {signal.signal_id: signal for signal in (*interests, *risks)}
    assert set(live) == set(expected)
    assert max(difference(live[name], expected[name]) for name in live) <= TOLERANCE
    decided = [decode(AdTrigger, record.value).trigger_id for record in await deployment.read(deployment.topic("ad-trigger"))]
    assert len(decided) == len(set(decided)), "a read-committed subscriber gets each trigger once"
    assert set(decided) == {output.message.trigger_id for output in outputs if output.kind == "ad-trigger"}  # type: ignore[attr-defined]
    refused = [
        decode(Suppression, record.value).suppression_id for record in await deployment.read(deployment.topic("suppression"))
    ]
    assert len(refused) == len(set(refused))
    assert set((await deployment.committed("triggers"))[0]) == set(decided_rows(replay))


def without_feedback(rows: dict[bytes, bytes]) -> dict[bytes, object]:
    return {key: to_builtins(decode_row(row).topics[:SENTIMENT]) for key, row in rows.items()}


def difference(live: Interest | ChurnRisk, expected: object) -> float:
    if isinstance(live, ChurnRisk):
        assert isinstance(expected, ChurnRisk)
        return max(abs(a - b) for a, b in zip(live.survival, expected.survival, strict=True))
    assert isinstance(expected, Interest)
    before = {score.label: score.probability for score in expected.interests}
    return max(abs(score.probability - before[score.label]) for score in live.interests)
