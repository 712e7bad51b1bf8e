"""Read, expire, refuse, quarantine, reset and rebuild a role's rows on Apache Kafka."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition

from models.features.row_codec import decode_row
from models.features.snapshot import snapshot
from models.features.spec import FEATURE_SPEC, KINDS
from models.features.user_state import UserState
from schemas.codec import decode, encode
from schemas.scoring import ScoreRequest
from schemas.time_units import DAY_MS
from stream.fold.damaged_row import BESIDE_ROWS, DAMAGED_KEY
from stream.kafka.clients import admin_client, output_producer
from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.roles.features_fold import GUARDED
from tests.builders import NOW_MS, click
from tests.harness import Deployment, folded_rows, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
TOPICS = ("visit", "browse", "click", "search", "purchase", "review", "rating")


@pytest.fixture(scope="module")
def events() -> list[LoggedEvent]:
    return [event.logged for event in simulate(SimulatorConfig(seed=11, shoppers=60, days=30))]


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    deployment = Deployment(kafka, tmp_path, ttl_days=31)
    await deployment.create_topics()
    yield deployment
    deployment.stop()


async def fold_all(deployment: Deployment, count: int, *, stop: bool = True) -> None:
    """Run the features role until `count` records are committed."""
    worker = deployment.start("features")

    async def done() -> bool:
        worker.ready()
        return (await deployment.committed("features"))[1].events_in >= count

    await until(f"{count} records are committed", done, seconds=90, worker=worker)
    if stop:
        assert worker.stop() == 0


async def put_row(deployment: Deployment, key: bytes, row: bytes | None) -> None:
    """Write a row to its user's changelog partition."""
    producer = output_producer(deployment.settings)
    await producer.start()
    partition = deployment.replay().partition_of(key.removeprefix(DAMAGED_KEY))
    await producer.send_and_wait(deployment.settings.changelog("features"), row, key=key, partition=partition)
    await producer.stop()


async def rows(deployment: Deployment) -> dict[bytes, bytes]:
    """Return the rows of users, without meta rows and tombstones."""
    found, _ = await deployment.committed("features")
    return {key: row for key, row in found.items() if row is not None and not key.startswith(BESIDE_ROWS)}


def clicks(users: Iterable[str], at_ms: int) -> list[LoggedEvent]:
    found = []
    for number, user in enumerate(users):
        event = click(user_id=user, event_id=f"{user}-{at_ms}", event_time_ms=at_ms + number)
        found.append(LoggedEvent("click", at_ms + number, user.encode(), encode(event)))
    return found


async def test_a_users_row_is_shown_from_the_changelog_without_a_worker(
    deployment: Deployment, events: list[LoggedEvent]
) -> None:
    await deployment.publish(events)
    await fold_all(deployment, len(events))
    replay = deployment.replay()
    list(replay.fold(events))
    user = max(folded_rows(replay), key=lambda key: len(folded_rows(replay)[key])).decode()
    row = next(found[user.encode()] for found in replay.rows.values() if user.encode() in found)
    seen = snapshot(row if isinstance(row, UserState) else decode_row(row), 31 * DAY_MS)

    shown = await asyncio.to_thread(deployment.command, "users", "show", user, "--json")
    text = await asyncio.to_thread(deployment.command, "users", "show", user)
    nobody = await asyncio.to_thread(deployment.command, "users", "show", "nobody")

    found: dict[str, Any] = json.loads(shown.stdout)
    assert {feature["name"]: feature["value"] for feature in found["features"]} == dict(
        zip(FEATURE_SPEC.names, seen.features, strict=True)
    )
    assert found["guard"] == {GUARDED[index]: list(span) for index, span in seen.guard.items()}
    assert [entry["event_time_ms"] for entry in found["history"]] == [entry.event_time_ms for entry in seen.history]
    assert all(part in text.stdout for part in ("click.count.7d", "from offset", "last events"))
    assert (nobody.returncode, "found no row of user" in nobody.stderr) == (1, True)


async def test_each_inactive_user_gets_one_tombstone_and_a_returning_one_starts_with_a_new_row(deployment: Deployment) -> None:
    start_ms = NOW_MS - 200 * DAY_MS
    silent = clicks([f"silent-{n}" for n in range(300)], start_ms)
    later = [
        event for day in range(0, 40, 2) for event in clicks([f"active-{n}" for n in range(20)], start_ms + (20 + day) * DAY_MS)
    ]
    back = clicks(["silent-7"], start_ms + 70 * DAY_MS)
    await deployment.publish([*silent, *later])
    await fold_all(deployment, len(silent) + len(later))

    await deployment.publish(clicks([f"active-{n}" for n in range(20)], start_ms + 62 * DAY_MS))
    await fold_all(deployment, len(silent) + len(later) + 20)
    await deployment.publish(back)
    await fold_all(deployment, len(silent) + len(later) + 21)

    tombstones = [
        record.key for record in await deployment.read(deployment.settings.changelog("features")) if record.value is None
    ]
    assert sorted(tombstones) == sorted(f"silent-{n}".encode() for n in range(300))
    left = await rows(deployment)
    assert set(left) == {f"active-{n}".encode() for n in range(20)} | {b"silent-7"}
    replay = deployment.replay()
    requests = [*silent, *later, *clicks([f"active-{n}" for n in range(20)], start_ms + 62 * DAY_MS), *back]
    list(replay.fold(requests))
    stale = folded_rows(replay)
    assert all(left[key] == stale[key] for key in left)  # a stale row that remains is unchanged
    row = decode_row(left[b"silent-7"]).topics[KINDS.index("click")]
    assert row is not None
    assert (row.since, row.tiles.totals[0]) == (row.guard, 1)


async def test_a_row_of_an_unknown_version_is_refused_with_exit_78_and_nothing_is_written(deployment: Deployment) -> None:
    await put_row(deployment, b"u-1", b"\x09 what a later version wrote")
    await deployment.publish(clicks(["u-1", "u-2"], NOW_MS))

    worker = deployment.start("features")
    await until("the worker gave up", lambda: worker.process.poll() is not None, seconds=30)

    assert worker.process.returncode == 78
    assert "found a row of version 9, expected version 1" in worker.tail()
    assert await deployment.lag("features", TOPICS) == 2
    assert len(await deployment.read(deployment.settings.changelog("features"))) == 1


async def test_one_damaged_row_is_kept_and_only_its_user_is_reset(deployment: Deployment) -> None:
    users = [f"u-{n}" for n in range(20)]
    await deployment.publish(clicks(users, NOW_MS))
    await fold_all(deployment, 20)
    whole = (await rows(deployment))[b"u-3"]
    await put_row(deployment, b"u-3", whole[:-5])

    await deployment.publish(clicks(users, NOW_MS + DAY_MS))
    await fold_all(deployment, 40)

    shown = []
    for user in ("u-3", "u-4"):
        done = await asyncio.to_thread(deployment.command, "users", "show", user, "--json")
        assert done.returncode == 0, done.stderr
        shown.append(json.loads(done.stdout))
    assert [(one.get("reset", False), one["features"][0]["name"]) for one in shown] == [
        (True, "visit.count.5m"),
        (False, "visit.count.5m"),
    ]
    found, _ = await deployment.committed("features")
    kept = [key for key in found if key.startswith(DAMAGED_KEY)]
    assert kept == [DAMAGED_KEY + b"u-3"]
    counts = {
        key: decode_row(row).topics[KINDS.index("click")].tiles.totals[0] for key, row in (await rows(deployment)).items()
    }  # type: ignore[union-attr]
    assert counts == {user.encode(): 1 if user == "u-3" else 2 for user in users}


async def test_a_reset_deletes_rows_and_offsets_and_the_role_folds_what_is_retained_again(
    deployment: Deployment, events: list[LoggedEvent]
) -> None:
    await deployment.publish(events)
    await fold_all(deployment, len(events), stop=False)
    before = await rows(deployment)

    while_running = await asyncio.to_thread(deployment.command, "state", "reset", "features", "--apply")
    assert deployment.workers[-1].stop() == 0
    dry = await asyncio.to_thread(deployment.command, "state", "reset", "features")
    unchanged = await rows(deployment)
    done = await asyncio.to_thread(deployment.command, "state", "reset", "features", "--apply")

    assert (while_running.returncode, "stop the role first" in while_running.stderr) == (3, True)
    assert (dry.returncode, "nothing was changed" in dry.stderr, unchanged == before) == (0, True, True)
    assert done.returncode == 0, done.stderr
    assert await rows(deployment) == {}
    assert await deployment.lag("features", TOPICS) == len(events)
    await fold_all(deployment, len(events))
    assert await rows(deployment) == before


async def test_a_rebuild_gives_the_rows_that_serve_in_a_new_changelog_and_sends_nothing(
    deployment: Deployment, events: list[LoggedEvent]
) -> None:
    await deployment.publish(events)
    await fold_all(deployment, len(events), stop=False)
    before, sent = await rows(deployment), len(await deployment.read(deployment.topic("score-request")))

    done = await asyncio.to_thread(deployment.command, "state", "rebuild", "features", "--apply")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)

    assert deployment.workers[-1].ready()
    assert {name: found[name] for name in ("rows", "equal", "different", "only_serving", "lost", "ahead")} == {
        "rows": len(before),
        "equal": len(before),
        "different": 0,
        "only_serving": 0,
        "lost": 0,
        "ahead": 0,
    }
    assert len(await deployment.read(deployment.topic("score-request"))) == sent
    assert "FOOTFALL_GENERATIONS='{\"features\":2}'" in done.stderr
    assert deployment.workers[-1].stop() == 0
    deployment.settings = deployment.settings.model_copy(update={"generations": {"features": 2}})
    more = clicks(["u-new"], events[-1].record_ms + 1)
    await deployment.publish(more)
    await fold_all(deployment, len(events) + 1)
    assert set(await rows(deployment)) == set(before) | {b"u-new"}
    requests = [decode(ScoreRequest, record.value) for record in await deployment.read(deployment.topic("score-request"))]
    assert len(requests) >= sent


async def test_records_no_longer_retained_are_reported_with_counts(deployment: Deployment) -> None:
    await deployment.publish(clicks([f"u-{n}" for n in range(50)], NOW_MS))
    await fold_all(deployment, 50)
    client = admin_client(deployment.settings)
    await client.start()
    partition = deployment.replay().partition_of(b"u-0")
    tp = TopicPartition(deployment.topic("click"), partition)
    await client.delete_records({tp: RecordsToDelete(before_offset=3)})
    await client.close()

    dry = await asyncio.to_thread(deployment.command, "state", "rebuild", "features")
    done = await asyncio.to_thread(deployment.command, "state", "rebuild", "features", "--apply")

    assert "3 records that the current rows include are no longer retained" in dry.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["lost"], found["rows"], found["only_serving"], found["totals"]["events_in"]) == (3, 47, 3, 47)
