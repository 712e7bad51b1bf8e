"""Run the features role on Apache Kafka: every event is applied once, whatever happens to its workers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas.codec import decode
from schemas.scoring import ScoreRequest
from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.replay_log import Replay
from tests.harness import Deployment, folded_rows, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
COMMITTED = 'footfall_records_total{outcome="in"}'
KINDS = ("visit", "browse", "click", "search", "purchase", "review", "rating")


@pytest.fixture(scope="module")
def events() -> list[LoggedEvent]:
    config = SimulatorConfig(seed=7, shoppers=500, days=60, late=0.02, duplicates=0.02, malformed=0.01)
    return [event.logged for event in simulate(config)]


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    yield deployment
    deployment.stop()


async def test_a_backlog_gives_the_rows_requests_and_totals_of_a_replay(
    deployment: Deployment, events: list[LoggedEvent]
) -> None:
    await deployment.publish(events)

    worker = deployment.start("features")
    await caught_up(deployment, len(events))

    assert worker.stop() == 0
    await assert_exact(deployment, events)
    expected = {
        output.message.request_id: output.message.features
        for output in deployment.replay().fold(events)
        if isinstance(output.message, ScoreRequest)
    }
    sent = [decode(ScoreRequest, record.value) for record in await deployment.read(deployment.topic("score-request"))]
    assert {request.request_id: request.features for request in sent} == expected


async def test_kill_9_in_mid_stream_loses_and_doubles_nothing(deployment: Deployment, events: list[LoggedEvent]) -> None:
    await deployment.publish(events)
    first = deployment.start("features")
    await until("some events are committed", lambda: first.metric(COMMITTED) > 2000, seconds=60, worker=first)

    first.kill()
    (_, totals) = await deployment.committed("features")
    assert 0 < totals.events_in < len(events), "the worker must die in mid-stream for this test to be meaningful"
    deployment.start("features")
    await caught_up(deployment, len(events))

    await assert_exact(deployment, events)


async def test_a_worker_that_joins_and_leaves_in_mid_stream_changes_nothing(
    deployment: Deployment, events: list[LoggedEvent]
) -> None:
    half = len(events) // 2
    first = deployment.start("features")
    await until("the first worker is ready", first.ready, seconds=60, worker=first)
    await deployment.publish(events[:half])
    second = deployment.start("features")
    await deployment.publish(events[half:], per_second=4000)
    await until(
        "the second worker shares the load",
        lambda: second.metric(COMMITTED) > 0 and second.ready(),
        seconds=60,
        worker=second,
    )

    assert second.stop() == 0
    await caught_up(deployment, len(events))

    await assert_exact(deployment, events)


async def caught_up(deployment: Deployment, count: int) -> None:
    async def done() -> bool:
        for worker in deployment.workers[-1:]:
            assert worker.process.poll() in (None, 0), worker.tail()
        return not await deployment.lag("features", KINDS)

    await until("no lag", done, seconds=90, worker=deployment.workers[-1])
    assert (await deployment.committed("features"))[1].events_in >= count


async def assert_exact(deployment: Deployment, events: list[LoggedEvent]) -> Replay:
    replay = deployment.replay()
    for _ in replay.fold(events):
        pass
    rows, totals = await deployment.committed("features")
    assert totals == replay.summed()
    assert totals.events_in == len(events)
    assert totals.events_in == totals.applied + totals.replay_skipped + totals.dead_lettered + totals.declared_dropped
    expected = folded_rows(replay)
    assert set(rows) == set(expected)
    assert [key for key in expected if rows[key] != expected[key]] == []
    return replay
