"""Read unusual sources: aborted transactions, deleted group offsets, one user with half of the traffic."""

import asyncio

import aiokafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import DeleteGroupsRequest

from schemas.codec import encode
from stream.logs.event_log import LoggedEvent
from tests.builders import NOW_MS, click
from tests.chaos.scene import Scene
from tests.harness import until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
MAX_ROW_BYTES = 64 << 10


async def test_events_of_aborted_transactions_are_never_applied_and_leave_no_gap(
    scene: Scene, events: list[LoggedEvent]
) -> None:
    worker = scene.start()
    await until("the worker is ready", worker.ready, seconds=30, worker=worker)
    applied = 0
    for number in range(10):
        part = events[number * 300 : number * 300 + 300]
        aborted = number % 3 == 1
        await publish_in_a_transaction(scene, part, aborted=aborted)
        applied += 0 if aborted else len(part)
        scene.report.faults["upstream abort" if aborted else "upstream commit"] += 1
        await scene.committed(worker, more_than=applied - 1)
    await scene.deployment.publish(events[3000:4000])
    await scene.committed(worker, more_than=applied + 999)

    await asyncio.to_thread(worker.stop)
    await scene.exact(applied + 1000)


async def test_a_group_whose_offsets_were_deleted_resumes_from_its_rows(scene: Scene, events: list[LoggedEvent]) -> None:
    first = scene.start()
    await scene.deployment.publish(events[:4000])
    await scene.settled()
    assert await asyncio.to_thread(first.stop) == 0
    await delete_group(scene)
    assert await scene.deployment.lag("features", ["click"]) > 0, "the offsets must be deleted for this test to be meaningful"
    scene.report.faults["offsets deleted"] += 1

    await scene.deployment.publish(events[4000:8000])
    scene.start()
    await scene.settled()

    await scene.exact(8000)


async def test_the_row_of_a_user_who_is_half_of_the_traffic_stays_bounded(scene: Scene) -> None:
    hot = [hot_click(number) for number in range(12_000)]
    others = [hot_click(number, user=f"u-{number % 500}") for number in range(12_000)]
    worker = scene.start()
    await scene.deployment.publish([event for pair in zip(hot, others, strict=True) for event in pair])
    await scene.settled()
    await asyncio.to_thread(worker.stop)

    await scene.exact(24_000)
    rows, _ = await scene.deployment.committed("features")
    assert rows[b"u-hot"] == max(rows.values(), key=len)
    assert len(rows[b"u-hot"]) <= MAX_ROW_BYTES


def hot_click(number: int, user: str = "u-hot") -> LoggedEvent:
    """Return a click on a distinct item in one of 3,000 categories with long names, one per second."""
    at = NOW_MS + number * 1000
    event = click(
        user_id=user,
        event_time_ms=at,
        event_id=f"{user}-{number}",
        item_id=f"item-{number}-{'x' * 40}",
        category=f"category-{number % 3000}-{'y' * 40}",
        title="z" * 100,
    )
    return LoggedEvent("click", at, user.encode(), encode(event))


async def publish_in_a_transaction(scene: Scene, events: list[LoggedEvent], *, aborted: bool) -> None:
    settings, replay = scene.deployment.settings, scene.deployment.replay()
    producer = aiokafka.AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers, transactional_id=f"{settings.app_id}-shop"
    )
    await producer.start()
    try:
        await producer.begin_transaction()
        for event in events:
            await producer.send(
                scene.deployment.topic(event.kind),
                event.value,
                key=event.key,
                partition=replay.partition_of(event.key),
                timestamp_ms=event.record_ms,
            )
        if aborted:
            await producer.flush()
            await producer.abort_transaction()
        else:
            await producer.commit_transaction()
    finally:
        await producer.stop()


async def delete_group(scene: Scene) -> None:
    settings = scene.deployment.settings
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        answer = await admin._send_request(DeleteGroupsRequest([settings.group("features")]))  # no public method
        assert [code for _, code in answer.results] == [0]
    finally:
        await admin.close()
