"""Publish by librdkafka's partitioner to Apache Kafka: with it everywhere all works, mixed with murmur2 nobody is split."""

import json
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from schemas.codec import encode
from schemas.dead_letter import Reason
from schemas.topics import dlq
from stream.fold.damaged_row import BESIDE_ROWS
from stream.fold.partitioner import Partitioner, compute_partition
from stream.kafka.clients import output_producer
from stream.logs.event_log import LoggedEvent
from stream.process.settings import load_settings
from tests.builders import click, purchase
from tests.harness import Deployment, Worker, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
USERS = [f"crc-{number}" for number in range(20)]
KINDS = ("click", "purchase")


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    deployment = Deployment(kafka, tmp_path, reporting_currency="EUR", misplaced_max_percent=0)
    await deployment.create_topics()
    yield deployment
    deployment.stop()


def clicks() -> list[LoggedEvent]:
    now_ms = int(time.time() * 1000)
    events = [click(user_id=user, event_id=f"c-{user}", event_time_ms=now_ms) for user in USERS]
    return [LoggedEvent("click", now_ms, event.user_id.encode(), encode(event)) for event in events]


def purchases() -> list[LoggedEvent]:
    now_ms = int(time.time() * 1000)
    events = [purchase(user_id=user, event_id=f"p-{user}", event_time_ms=now_ms) for user in USERS]
    return [LoggedEvent("purchase", now_ms, event.user_id.encode(), encode(event)) for event in events]


async def publish(deployment: Deployment, events: Iterable[LoggedEvent], partitioner: Partitioner) -> None:
    """Publish as a client with this partitioner does."""
    producer = output_producer(deployment.settings)
    await producer.start()
    for event in events:
        partition = compute_partition(event.key, deployment.partitions, partitioner)
        await producer.send_and_wait(
            deployment.topic(event.kind), event.value, key=event.key, partition=partition, timestamp_ms=event.record_ms
        )
    await producer.stop()


async def folded(deployment: Deployment, count: int) -> Worker:
    """Start a features role and wait until `count` records are committed."""
    worker = deployment.start("features")

    async def done() -> bool:
        worker.ready()
        return (await deployment.committed("features"))[1].events_in >= count

    await until(f"{count} records are committed", done, seconds=60, worker=worker)
    return worker


async def users(deployment: Deployment) -> list[bytes]:
    """Return the keys of all users' rows in the changelog, one per partition that has one."""
    found = {
        (record.partition, record.key)
        for record in await deployment.read(deployment.settings.changelog("features"))
        if record.value is not None and not record.key.startswith(BESIDE_ROWS)
    }
    return sorted(key for _, key in found)


def misplaced(deployment: Deployment, worker: Worker, kind: str) -> float:
    return worker.metric(f'footfall_misplaced_keys_total{{topic="{deployment.topic(kind)}"}}')


def counts(deployment: Deployment, user: str) -> tuple[float, float, list[int]]:
    """Return a user's clicks and purchases by `users show`, and the other partitions that it names."""
    ended = deployment.command("users", "show", user, "--json")
    assert ended.returncode == 0, ended.stderr
    row = json.loads(ended.stdout)
    features = {feature["name"]: feature["value"] for feature in row["features"]}
    return features["click.count.life"], features["purchase.count.life"], row.get("other_partitions", [])


def use(deployment: Deployment, **changes: object) -> None:
    deployment.given.update(changes)
    deployment.settings = load_settings(**deployment.given)


async def test_with_crc32_everywhere_each_user_has_one_row_that_users_show_finds(deployment: Deployment) -> None:
    use(deployment, partitioner="crc32")
    await publish(deployment, [*clicks(), *purchases()], "crc32")

    worker = await folded(deployment, 40)

    _, totals = await deployment.committed("features")
    assert (totals.applied, totals.dead_lettered) == (40, 0)
    assert await users(deployment) == sorted(user.encode() for user in USERS)
    assert misplaced(deployment, worker, "click") == 0
    assert '"misplaced_key"' not in worker.log.read_text()
    for user in USERS[:3]:
        assert counts(deployment, user) == (1, 1, [])
    assert worker.stop() == 0


async def test_mixed_partitioners_split_nobody_and_the_misplaced_records_are_sent_home_again(deployment: Deployment) -> None:
    await publish(deployment, clicks(), "murmur2")
    await publish(deployment, purchases(), "crc32")

    worker = await folded(deployment, 40)

    letters = await deployment.read(deployment.topic(dlq("purchase")))
    assert await users(deployment) == sorted(user.encode() for user in USERS)
    assert len(letters) == misplaced(deployment, worker, "purchase") > 10
    assert worker.log.read_text().count("set partitioner=murmur2_random in producers that use librdkafka") == 1

    ended = deployment.command("dlq", "replay", "--reason", Reason.MISPLACED_KEY.value, "--json")
    assert ended.returncode == 0, ended.stderr
    await until("all are applied", lambda: applied(deployment, 40), seconds=60, worker=worker)
    assert await users(deployment) == sorted(user.encode() for user in USERS)
    assert len(await deployment.read(deployment.topic(dlq("purchase")))) == len(letters)
    for user in USERS[:3]:
        assert counts(deployment, user) == (1, 1, [])
    assert worker.stop() == 0


async def applied(deployment: Deployment, count: int) -> bool:
    return (await deployment.committed("features"))[1].applied == count


async def test_rows_of_another_partitioner_end_the_start_with_78_until_they_are_reset(deployment: Deployment) -> None:
    await publish(deployment, [*clicks(), *purchases()], "crc32")
    use(deployment, misplaced_max_percent=1.0)
    paused = deployment.start("features")

    async def is_paused() -> bool:
        paused.ready()
        return paused.metric("footfall_paused") == 1

    await until("the worker pauses", is_paused, seconds=60, worker=paused)
    assert "because their key belongs to another partition" in paused.get("/readyz")[1]
    assert paused.stop() == 0

    use(deployment, partitioner="crc32")
    before = await deployment.committed("features")
    refused = deployment.start("features")
    await until("the worker ends", lambda: refused.process.poll() is not None, seconds=40)
    assert (refused.process.returncode, await deployment.committed("features")) == (78, before)
    assert "folded with partitioner=murmur2, expected crc32" in refused.tail()
    for user in USERS[:4]:  # some of whom belong to a partition that nothing was read of
        assert "folded with partitioner=murmur2" in deployment.command("users", "show", user).stderr

    def reset() -> bool:
        """Reset the state, once the group no longer counts the worker that ended without leaving it."""
        return deployment.command("state", "reset", "features", "--apply").returncode == 0

    await until("the state is reset", reset, seconds=40)
    worker = await folded(deployment, 40)
    _, totals = await deployment.committed("features")
    assert (totals.applied, totals.dead_lettered) == (40, 0)
    assert worker.stop() == 0


async def test_users_show_names_the_partitioner_of_the_rows_although_the_users_own_partition_has_none(
    deployment: Deployment,
) -> None:
    (only,) = clicks()[:1]
    await publish(deployment, [only], "murmur2")
    assert (await folded(deployment, 1)).stop() == 0
    home = compute_partition(only.key, deployment.partitions, "murmur2")
    elsewhere = next(user for user in USERS if compute_partition(user.encode(), deployment.partitions, "crc32") != home)

    use(deployment, partitioner="crc32")

    assert "folded with partitioner=murmur2" in deployment.command("users", "show", elsewhere).stderr


async def test_users_split_before_are_mended_by_a_rebuild_that_sends_misplaced_records_to_the_dead_letters(
    deployment: Deployment,
) -> None:
    use(deployment, misplaced_keys="accept")
    await publish(deployment, clicks(), "murmur2")
    await publish(deployment, purchases(), "crc32")
    assert (await folded(deployment, 40)).stop() == 0
    assert (await deployment.committed("features"))[1].applied == 40
    split = len(await users(deployment)) - len(USERS)
    assert split > 10
    home = compute_partition(b"crc-1", deployment.partitions, "murmur2")
    assert counts(deployment, "crc-1") == (1, 0, [compute_partition(b"crc-1", deployment.partitions, "crc32")]) and home == 2

    use(deployment, misplaced_keys="dead_letter", misplaced_max_percent=1.0)
    ended = deployment.command("state", "rebuild", "features", "--apply")
    assert ended.returncode and "set misplaced_max_percent=0 and run the rebuild again" in ended.stderr, ended.stderr
    use(deployment, misplaced_max_percent=0)
    ended = deployment.command("state", "rebuild", "features", "--apply")
    assert ended.returncode == 0, ended.stderr
    assert len(await deployment.read(deployment.topic(dlq("purchase")))) >= split

    use(deployment, generations='{"features": 2}')
    assert deployment.command("dlq", "replay", "--reason", Reason.MISPLACED_KEY.value).returncode == 0
    worker = deployment.start("features")
    await until("all are applied", lambda: applied(deployment, 40), seconds=60, worker=worker)
    assert await users(deployment) == sorted(user.encode() for user in USERS)
    assert counts(deployment, "crc-1") == (1, 1, [])
    assert worker.stop() == 0
