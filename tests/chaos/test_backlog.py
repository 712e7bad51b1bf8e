"""Read a day's backlog in seven topics of very different rates, and check that it is folded in event-time order.

Lateness is measured against an event's own record timestamp, so the order of reading never makes an event late. Rows do
not depend on how topics interleave either: tests/unit/stream/offline/test_replay_of_backlog.py shows both. The order only
changes what a score request sees of the other topics, so these tests detect missing alignment by the score requests.
"""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiokafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from models.features.spec import KINDS
from schemas.codec import decode
from schemas.scoring import ScoreRequest
from stream.logs.event_log import LoggedEvent
from tests.backlog import backlog, differing, late, requests_of, untimed
from tests.chaos.broker import Broker, kafka_script
from tests.chaos.conftest import SESSION_SECONDS
from tests.chaos.scene import Report, Scene
from tests.chaos.second_broker import NODE, SecondBroker
from tests.harness import Deployment, Worker, folded_rows, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
SHORT, LONG = 40_000, 1_000_000
FAR = ("click", 1)  # the one partition on the second broker
SMALL_FETCHES = {"FOOTFALL_FAUST_CONSUMER_MAX_FETCH_SIZE": str(1 << 16)}  # so that a day takes many fetches
UNREACHABLE = "footfall_alignment_unreachable_total"
LAG = re.compile(r'footfall_consumer_lag_records{partition="(\d+)",topic="([^"]+)"} (\S+)')

Requests = dict[str, ScoreRequest]


async def test_a_day_of_backlog_with_a_kill_in_the_middle_is_folded_as_it_happened(scene: Scene) -> None:
    await killed_in_the_middle(scene, day(scene, SHORT), commits=2)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_day_of_a_million_events_with_a_kill_in_the_middle_is_folded_as_it_happened(scene: Scene) -> None:
    await killed_in_the_middle(scene, day(scene, LONG), commits=30)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [SHORT, LONG])
async def test_a_day_of_backlog_is_folded_as_it_happened(scene: Scene, count: int) -> None:
    events = day(scene, count)
    await scene.deployment.publish(events)
    scene.start()
    await scene.settled(seconds=300)

    found, wanted = await exact(scene, events)
    assert found == wanted


@pytest.mark.long
async def test_a_day_of_backlog_read_without_alignment_gives_the_same_rows_but_other_requests(scene: Scene) -> None:
    events = day(scene, SHORT)
    await scene.deployment.publish(events)
    scene.start(FOOTFALL_ALIGNMENT_TIMEOUT_SECONDS="0.001", **SMALL_FETCHES)  # disables alignment in practice
    await scene.settled()

    found, wanted = await exact(scene, events)
    assert found.keys() == wanted.keys()
    assert len(differing(found, wanted)) > len(wanted) / 2


@pytest.mark.long
@pytest.mark.parametrize("count", [200_000, pytest.param(LONG, marks=pytest.mark.timeout(900))])
async def test_while_a_partition_is_unreachable_the_others_are_read_and_it_follows_later(
    far: Scene, second: SecondBroker, count: int
) -> None:
    events = day(far, count)
    await far.deployment.publish(events)
    worker = far.start("stop@P2.acked:1", FOOTFALL_ALIGNMENT_TIMEOUT_SECONDS="5", **SMALL_FETCHES)
    await far.fires(worker)  # in the middle of reading, at any speed
    second.stall()
    worker.process.send_signal(signal.SIGCONT)
    try:
        await until("all but one partition are read", lambda: lags(far, worker).keys() == {FAR}, seconds=120, worker=worker)
        waiting = lags(far, worker)[FAR]
        assert worker.metric(UNREACHABLE) >= 1
        far.report.faults["partition unreachable"] += 1
        await until("the worker says that it is not read", lambda: worker.get("/readyz")[0] == 503, seconds=15, worker=worker)
        said = worker.get("/readyz")[1]
        assert f"unread: 1 partitions, {far.deployment.topic('click')}/1" in said
        assert '"event": "partition_unreachable"' in worker.log.read_text(), worker.tail()
    finally:
        second.resume()
    assert waiting > 0
    await far.settled(seconds=120)

    found, wanted = await exact(far, events)
    assert found.keys() == wanted.keys()
    assert {request.source.partition for request in differing(found, wanted)} == {FAR[1]}, "the others were aligned"


async def killed_in_the_middle(scene: Scene, events: list[LoggedEvent], *, commits: int) -> None:
    await scene.deployment.publish(events)
    await scene.fires(scene.start(f"kill@P2.committed:{commits}"), seconds=120)
    async with scene.kept(1) as workers:
        assert 0 < (await scene.deployment.committed("features"))[1].events_in < len(events), "the kill must be in the middle"
        await scene.settled(seconds=300)
    await asyncio.to_thread(workers[0].stop)  # no longer restarted

    found, wanted = await exact(scene, events)
    assert found == wanted


async def exact(scene: Scene, events: list[LoggedEvent]) -> tuple[Requests, Requests]:
    """Compare rows and totals with a fold in event-time order; return the requests sent and those of the fold."""
    await scene.exact(len(events))
    replay = scene.deployment.replay()
    wanted = requests_of(replay, events)
    rows, totals = await scene.deployment.committed("features")
    assert rows == folded_rows(replay)
    assert totals == replay.summed()
    assert totals.late_dropped == late(events) > 0
    return await sent(scene.deployment), wanted


async def sent(deployment: Deployment) -> Requests:
    """Return the score requests that were sent; duplicates must be equal."""
    found: Requests = {}
    for record in await deployment.read(deployment.topic("score-request")):
        request = untimed(decode(ScoreRequest, record.value))
        assert found.setdefault(request.request_id, request) == request
    return found


def day(scene: Scene, count: int) -> list[LoggedEvent]:
    """Return a day that ends now, because a broker rejects timestamps in the future."""
    return backlog(count, end_ms=int(time.time() * 1000), random=scene.random, users=count // 40)


def lags(scene: Scene, worker: Worker) -> dict[tuple[str, int], float]:
    """Return the non-zero consumer lags in a worker's metrics, by kind and partition."""
    kinds = {scene.deployment.topic(kind): kind for kind in KINDS}
    found = {}
    for partition, topic, count in LAG.findall(worker.get("/metrics")[1]):
        if topic in kinds and float(count) > 0:
            found[kinds[topic], int(partition)] = float(count)
    return found


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Broker]:
    """A broker for this test only: the suite's broker must not join a cluster of two."""
    script = kafka_script()
    if script is None:
        pytest.skip("no script that starts Kafka: set FOOTFALL_KAFKA")
    folder = tmp_path / "first"
    folder.mkdir()
    broker = Broker(script, folder)
    broker.first_up()
    yield broker
    broker.down()


@pytest.fixture
async def second(first: Broker, tmp_path: Path) -> AsyncIterator[SecondBroker]:
    """A second broker, added after the first has created the offsets and transactions topics."""
    await own_topics(first.address)
    script = kafka_script()
    assert script is not None
    broker = SecondBroker(first, script, tmp_path / "second")
    broker.up()
    yield broker
    broker.resume()
    broker.kill()


@pytest.fixture
async def far(
    first: Broker, second: SecondBroker, report: Report, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Scene]:
    """A scene with one partition on the second broker."""
    deployment = Deployment(first.address, tmp_path, session_timeout_seconds=SESSION_SECONDS)
    await deployment.create_topics(homes={(deployment.topic(FAR[0]), FAR[1]): NODE})
    yield Scene(deployment, report, f"{report.seed} {request.node.name}")
    deployment.stop()


async def own_topics(address: str) -> None:
    """Make a broker create its offsets and transactions topics, by committing an offset in a transaction."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic("first", 1, 1)])
    finally:
        await admin.close()
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=address, transactional_id="first")
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_offsets_to_transaction({aiokafka.TopicPartition("first", 0): 0}, "first")
    finally:
        await producer.stop()
