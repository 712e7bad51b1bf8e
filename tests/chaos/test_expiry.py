"""Expire rows of users with one event each: only live users keep rows, and each expired row leaves one tombstone."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from models.features.row_codec import decode_row
from models.features.spec import KINDS
from schemas.codec import encode
from schemas.time_units import DAY_MS
from stream.logs.event_log import LoggedEvent
from stream.process.settings import load_settings
from tests.builders import NOW_MS, click
from tests.chaos.scene import Scene, resident_bytes
from tests.harness import Worker, folded_rows, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
START_MS = NOW_MS - 1500 * DAY_MS
DAYS, TTL_DAYS = 400, 31
LIFE_DAYS = TTL_DAYS + 1 + 1  # plus the allowed lateness, and a day of skew between topics
SLACK = 1.05
PENDING = 1000
BYTES_BEYOND_ROW, DECODED_MB, BUFFERS_MB = 1500, 16, 64


async def test_tombstones_of_a_transaction_that_was_never_committed_are_written_once_and_the_expired_may_return(
    scene: Scene,
) -> None:
    events = expiring(scene, 4000)
    killed = scene.start("kill@P2.offsets:32")
    await until("the worker is ready", killed.ready, seconds=30, worker=killed)
    async with scene.publishing(events, per_second=1200):
        await scene.fires(killed)
        worker = scene.start()
    await scene.settled()
    committed, all_of_them = await tombstones(scene), await tombstones(scene, uncommitted=True)
    assert all_of_them.total() > committed.total(), "the kill must hit a transaction with tombstones in it"
    again = [once(0, START_MS + DAYS * DAY_MS), events[1]]  # a returning user, and a duplicate of an old event
    await scene.deployment.publish(again)
    await scene.settled()
    assert await asyncio.to_thread(worker.stop) == 0, worker.tail()

    await hold_rows(scene, events, again)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_300_000_users_who_come_once_take_the_memory_of_those_still_alive(scene: Scene) -> None:
    count, per_second = 300_000, 4000
    events = expiring(scene, count)
    limits = {"FOOTFALL_MAX_PENDING_EVENTS": str(PENDING), "FOOTFALL_MAX_CHUNK_EVENTS": str(PENDING)}
    worker = scene.start(FOOTFALL_DECODED_MB=str(DECODED_MB), **limits)
    await until("the worker is ready", worker.ready, seconds=30, worker=worker)
    base, most_bytes, most_users, alive = resident_bytes(worker), 0, 0.0, count * LIFE_DAYS / DAYS
    async with scene.publishing(events, per_second=per_second) as published:
        while not published.done():
            most_bytes, most_users = max(most_bytes, resident_bytes(worker)), max(most_users, users(worker))
            await asyncio.sleep(0.5)
    await scene.settled(seconds=120)
    assert await asyncio.to_thread(worker.stop) == 0, worker.tail()

    left = await hold_rows(scene, events, [])
    row_bytes = sum(map(len, left.values())) / len(left)
    allowed = alive * (row_bytes + BYTES_BEYOND_ROW) + (DECODED_MB + BUFFERS_MB << 20)
    scene.report.faults["expired user"] += count - len(left)
    assert len(left) <= alive * SLACK
    assert most_users <= alive * SLACK + 4 * PENDING, (
        "the users of two barriers, each over its limit by a chunk, may still be pending"
    )
    assert most_bytes - base <= allowed, f"{(most_bytes - base) / 1e6:.0f} MB of {allowed / 1e6:.0f} MB"


def expiring(scene: Scene, count: int) -> list[LoggedEvent]:
    """Set the minimum row TTL, and return one event each of `count` users, spread over DAYS."""
    scene.deployment.settings = load_settings(**scene.deployment.given, ttl_days=TTL_DAYS)
    return [once(number, START_MS + number * DAYS * DAY_MS // count) for number in range(count)]


def once(number: int, at_ms: int) -> LoggedEvent:
    """Return one user's click at a time."""
    user = f"u-{number}"
    return LoggedEvent(
        "click", at_ms, user.encode(), encode(click(user_id=user, event_id=f"{user}-{at_ms}", event_time_ms=at_ms))
    )


def users(worker: Worker) -> float:
    return worker.metric("footfall_users")


async def tombstones(scene: Scene, *, uncommitted: bool = False) -> Counter[bytes]:
    """Count the tombstones of each key in the changelog, committed only or including uncommitted ones."""
    deployment, settings = scene.deployment, scene.deployment.settings
    if uncommitted:
        deployment.settings = settings.model_copy(update={"transactions": False})
    try:
        return Counter(record.key for record in await deployment.read(settings.changelog("features")) if record.value is None)
    finally:
        deployment.settings = settings


async def hold_rows(scene: Scene, events: Sequence[LoggedEvent], again: Sequence[LoggedEvent]) -> dict[bytes, bytes]:
    """Check that each user has the fold's row or exactly one tombstone, and each returning user a new row."""
    rows, totals = await scene.deployment.committed("features")
    left = {key: row for key, row in rows.items() if row is not None}
    gone, returned = await tombstones(scene), {event.key for event in again}
    replay = scene.deployment.replay()
    list(replay.fold([*events, *again]))
    expected = folded_rows(replay)
    assert totals.events_in == totals.applied == len(events) + len(again)
    assert set(gone.values()) == {1}
    assert gone.keys() & left.keys() == returned
    assert gone.keys() | left.keys() == expected.keys()
    assert [key for key, row in left.items() if key not in returned and row != expected[key]] == []
    for key in returned:
        topic = decode_row(left[key]).topics[KINDS.index("click")]  # type: ignore[index]
        assert topic is not None
        assert (topic.since, topic.tiles.totals[0]) == (topic.guard, 1)
    scene.report.events += totals.events_in
    return left
