"""Make the broker refuse a worker's writes or lose its responses: no partial commit happens."""

import asyncio

import pytest

from models.features.spec import KINDS
from schemas.codec import encode
from stream.fold.records import Totals
from stream.logs.event_log import LoggedEvent
from tests.builders import NOW_MS, click
from tests.chaos.broker import Broker
from tests.chaos.proxy import Proxy
from tests.chaos.scene import RESTART, Scene
from tests.chaos.topics import BROKERS_LIMIT, create_changelog, delete_topic, limit_records
from tests.harness import Worker, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
CONFIG = 78
SMALL_BYTES = 1000


async def test_answers_lost_after_the_broker_appended_double_nothing(
    scene: Scene, broker: Broker, events: list[LoggedEvent]
) -> None:
    async with Proxy(broker.proxy_port, broker.behind_port) as proxy:
        worker = scene.start(KAFKA_BOOTSTRAP_SERVERS=broker.proxied)
        await until("the worker is ready", worker.ready, seconds=30, worker=worker)
        proxy.lose_every = 10
        await scene.deployment.publish(events[:6000], per_second=1200)
        await scene.settled()
        proxy.lose_every = 0
        scene.report.faults["lost produce answer"] += proxy.lost
        assert proxy.lost >= 5
        assert await asyncio.to_thread(worker.stop) == 0, worker.tail()

    findings = await scene.exact(6000)
    assert findings.doubled_ids == 0, "the producer never restarted, so the broker deduplicates its retries"


async def test_a_row_that_is_too_large_for_the_changelog_ends_the_worker_before_anything_is_committed(
    scene: Scene, events: list[LoggedEvent]
) -> None:
    before = await folded(scene, events[:2000])
    changelog = scene.deployment.settings.changelog("features")
    await limit_records(scene.deployment, changelog, SMALL_BYTES)
    await scene.deployment.publish([*events[2000:3000], *large_row()])

    assert "MessageSizeTooLarge" in await ended(scene.start(), RESTART)
    scene.report.faults["oversized row"] += 1
    assert await scene.deployment.committed("features") == before

    await limit_records(scene.deployment, changelog, BROKERS_LIMIT)
    scene.start()
    await scene.settled()
    await scene.exact(3000 + len(large_row()))


async def test_dead_letters_that_their_topic_refuses_are_kept_until_it_accepts_them(
    scene: Scene, events: list[LoggedEvent]
) -> None:
    await folded(scene, events[:2000])
    letters = scene.deployment.topic("click.dlq")
    await limit_records(scene.deployment, letters, SMALL_BYTES)
    bad = [LoggedEvent("click", NOW_MS, b"u-bad", b"{" + b"x" * 2000) for _ in range(3)]
    await scene.deployment.publish([*events[2000:3000], *bad])

    assert "MessageSizeTooLarge" in await ended(scene.start(), RESTART)
    scene.report.faults["refused dead letter"] += 1
    assert await scene.deployment.lag("features", KINDS) >= len(bad)
    assert not [record for record in await scene.deployment.read(letters) if record.key == b"u-bad"]

    await limit_records(scene.deployment, letters, BROKERS_LIMIT)
    scene.start()
    await scene.settled()
    await scene.exact(3003)
    found = [record.value for record in await scene.deployment.read(letters) if record.key == b"u-bad"]
    assert len(found) >= 3
    assert set(found) == {event.value for event in bad}


@pytest.mark.long
async def test_a_worker_whose_changelog_is_deleted_commits_nothing_more_and_none_resumes_without_its_rows(
    scene: Scene, events: list[LoggedEvent]
) -> None:
    worker = scene.start(FOOTFALL_BARRIER_TIMEOUT_SECONDS="6")
    await scene.deployment.publish(events[:2000])
    await scene.settled()
    await delete_topic(scene.deployment, scene.deployment.settings.changelog("features"))
    scene.report.faults["changelog deleted"] += 1
    await scene.deployment.publish(events[2000:3000])
    await until("it is not ready", lambda: worker.get("/readyz")[0] != 200, seconds=20, worker=worker)
    waited = await ended(worker, RESTART)
    lag = await scene.deployment.lag("features", KINDS)

    missing = await ended(scene.start(), CONFIG)
    await create_changelog(scene.deployment, "features")
    empty = await ended(scene.start(), CONFIG)

    assert lag == 1000
    assert "no acknowledgement of rows and outputs within 6 s" in waited
    assert "found none named" in missing
    assert "changelog" in empty and "was deleted or emptied" in empty and "state reset features" in empty
    assert await scene.deployment.lag("features", KINDS) == 1000


def large_row() -> list[LoggedEvent]:
    """Return events of one user whose row exceeds SMALL_BYTES: each has a distinct item and category."""
    made = [
        click(user_id="u-large", event_id=f"c-{n}", item_id=f"item-{n * 7919}", category=f"category-{n * 7919}", title=f"t{n}")
        for n in range(60)
    ]
    return [LoggedEvent("click", NOW_MS, b"u-large", encode(event)) for event in made]


async def folded(scene: Scene, events: list[LoggedEvent]) -> tuple[dict[bytes, bytes], Totals]:
    """Fold events with a new worker and return the rows and totals that it committed."""
    worker = scene.start()
    await scene.deployment.publish(events)
    await scene.settled()
    assert await asyncio.to_thread(worker.stop) == 0, worker.tail()
    return await scene.deployment.committed("features")


async def ended(worker: Worker, code: int) -> str:
    """Wait until a worker exits with `code` on its own, and return its log."""
    await until("the worker ends", lambda: worker.process.poll() is not None, seconds=60, worker=worker)
    assert worker.process.returncode == code, worker.tail()
    return worker.log.read_text(errors="replace")
