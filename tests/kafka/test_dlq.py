"""Send bad records to Apache Kafka: each is dead-lettered, a flood pauses the worker, and fixed ones replay."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from schemas.codec import encode
from schemas.dead_letter import DeadLetter, Reason, headers_of, read_dead_letter
from schemas.fields import MAX_EVENT_BYTES
from schemas.topics import dlq
from stream.kafka.clients import admin_client, output_producer
from stream.kafka.topic_admin import existing_partitions
from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from tests.builders import NOW_MS, click, dead_letter, purchase, search
from tests.chaos.topics import delete_topic
from tests.harness import Deployment, Worker, configs_of, folded_rows, until
from tests.poison import POISON

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
KINDS = ("visit", "browse", "click", "search", "purchase", "review", "rating")
PAUSED = "footfall_paused"


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    deployment = Deployment(kafka, tmp_path, dlq_max_in_a_row=300, dlq_max_percent=20, dlq_window_records=5_000)
    await deployment.create_topics()
    yield deployment
    deployment.stop()


async def letters(deployment: Deployment, kinds: Sequence[str] = KINDS) -> list[DeadLetter]:
    return [
        read_dead_letter(record.key, record.value, record.headers)
        for kind in kinds
        for record in await deployment.read(deployment.topic(dlq(kind)))
    ]


async def caught_up(deployment: Deployment, worker: Worker) -> None:
    async def done() -> bool:
        assert worker.process.poll() in (None, 0), worker.tail()
        return not await deployment.lag("features", KINDS)

    await until("no lag", done, seconds=90, worker=worker)


def footfall(deployment: Deployment, *arguments: str) -> tuple[int, Any, str]:
    """Run a command with the deployment's settings: exit code, last line of JSON, and stderr."""
    ended = deployment.command(*arguments, "--json")
    lines = ended.stdout.splitlines()
    return ended.returncode, json.loads(lines[-1]) if lines else None, ended.stderr


def bad_clicks(count: int, *, user: str = "u-1") -> list[LoggedEvent]:
    return [LoggedEvent("click", NOW_MS, user.encode(), b'{"n":%d' % n) for n in range(count)]


def good_clicks(count: int, *, user: str = "u-1", first: int = 0) -> list[LoggedEvent]:
    events = [click(user_id=user, event_id=f"c-{user}-{first + n}") for n in range(count)]
    return [LoggedEvent("click", NOW_MS, user.encode(), encode(event)) for event in events]


async def test_poison_among_good_events_is_dead_lettered_whole_and_changes_no_row(deployment: Deployment) -> None:
    rng, poison = Random(3), list(POISON.values())
    made = simulate(SimulatorConfig(seed=3, shoppers=300, days=30, start_ms=NOW_MS - 15 * 86_400_000))
    good = [event.logged for event in made if event.logged.record_ms < NOW_MS]
    events: list[LoggedEvent] = []
    injected: list[LoggedEvent] = []
    for event in good[-100 * len(poison) :]:
        events.append(event)
        if rng.random() < 0.01 or len(events) % 101 == 0:
            bad = poison[len(injected) % len(poison)]
            injected.append(LoggedEvent(bad.kind, event.record_ms, bad.key, bad.value))
            events.append(injected[-1])
    await deployment.publish(events)

    worker = deployment.start("features")
    await caught_up(deployment, worker)

    assert worker.stop() == 0
    replay = deployment.replay()
    for _ in replay.fold(events):
        pass
    rows, totals = await deployment.committed("features")
    assert (rows, totals) == (folded_rows(replay), replay.summed())
    assert len(injected) >= 40
    assert totals.dead_lettered == len(injected)
    assert totals.applied == len(events) - len(injected)
    found = await letters(deployment)
    sent = Counter((event.key, event.value if len(event.value or b"") <= MAX_EVENT_BYTES else None) for event in injected)
    assert Counter((letter.key, letter.value) for letter in found) == +Counter(
        {(key, b"" if key is None and value is None else value): count for (key, value), count in sent.items()}
    )
    assert len({(letter.topic, letter.partition, letter.offset) for letter in found}) == len(injected)
    assert len(POISON) >= 40


async def test_a_flood_of_poison_pauses_the_worker_until_an_operator_resumes_it(deployment: Deployment) -> None:
    await deployment.publish(good_clicks(50))
    worker = deployment.start("features")
    await caught_up(deployment, worker)
    flood, started = 10_000, time.monotonic()

    await deployment.publish(bad_clicks(flood))
    await until("the worker pauses", lambda: worker.metric(PAUSED) == 1, seconds=20, worker=worker)
    seconds = time.monotonic() - started
    status, body = worker.get("/readyz")
    await until("what was folded is committed", lambda: committed_letters(deployment), seconds=20, worker=worker)
    await asyncio.sleep(2)  # no more records may arrive in this time
    drained = len(await letters(deployment, ["click"]))
    _, totals = await deployment.committed("features")

    assert seconds < 10
    assert (status, worker.get("/livez")[0]) == (503, 200)
    [reason] = json.loads(body)["reasons"]
    assert reason.startswith("paused: ") and "in a row are dead letters, expected at most 300" in reason
    assert 300 < drained <= 300 + deployment.settings.max_chunk_events
    assert totals.dead_lettered == drained
    assert worker.metric(f'footfall_dead_letters_total{{reason="bad_json",topic="{deployment.topic("click")}"}}') == drained

    url = reason.split("`footfall dlq resume ")[1].split("`")[0]
    code, answer, _ = footfall(deployment, "dlq", "resume", url)
    assert (code, answer["role"]) == (0, "features")
    await until("it pauses again", lambda: worker.metric(PAUSED) == 1, seconds=20, worker=worker)
    await until("more is committed", lambda: committed_letters(deployment, more_than=drained), seconds=20, worker=worker)
    second = deployment.start("features")  # a paused worker must not block a rebalance
    await until("another joins", second.ready, seconds=30, worker=second)
    assert worker.stop() == 0


async def committed_letters(deployment: Deployment, *, more_than: int = 0) -> bool:
    return (await deployment.committed("features"))[1].dead_lettered > more_than


async def test_without_its_dead_letter_topic_a_worker_waits_and_drops_nothing(deployment: Deployment) -> None:
    events = [*good_clicks(20), *bad_clicks(3), *good_clicks(20, first=20)]
    await deployment.publish(good_clicks(10, user="u-0"))
    worker = deployment.start("features")
    await caught_up(deployment, worker)
    admin = admin_client(deployment.settings)
    await admin.start()
    try:
        await delete_topic(deployment, deployment.topic("click.dlq"))
        await deployment.publish(events)
        await asyncio.sleep(4)
        (_, waiting), lag = await deployment.committed("features"), await deployment.lag("features", KINDS)
        await admin.create_topics(
            [NewTopic(deployment.topic("click.dlq"), 4, 1, topic_configs=configs_of(deployment.settings.topics()["click.dlq"]))]
        )
    finally:
        await admin.close()

    assert (waiting.events_in, lag) == (10, len(events))
    if worker.process.poll() is not None:
        worker = deployment.start("features")
    await caught_up(deployment, worker)
    _, totals = await deployment.committed("features")
    assert (totals.events_in, totals.applied, totals.dead_lettered) == (53, 50, 3)
    assert {letter.value for letter in await letters(deployment, ["click"])} == {event.value for event in bad_clicks(3)}
    assert worker.stop() == 0


async def test_a_worker_does_not_start_without_a_dead_letter_topic(deployment: Deployment) -> None:
    admin, name = admin_client(deployment.settings), deployment.topic("rating.dlq")
    await admin.start()
    await admin.delete_topics([name])

    async def gone() -> bool:
        return name not in await existing_partitions(admin)

    await until("the topic is gone", gone, seconds=20)
    await admin.close()

    worker = deployment.start("features")

    assert worker.process.wait(30) == 78
    assert f"found none named {name}" in worker.tail()


async def put_letters(deployment: Deployment, *letters: DeadLetter) -> None:
    """Write dead letters as a worker, or another program, may have written them."""
    producer = output_producer(deployment.settings)
    await producer.start()
    for letter in letters:
        await producer.send_and_wait(
            deployment.topic("click.dlq"), letter.value, key=letter.key, partition=0, headers=list(headers_of(letter))
        )
    await producer.stop()


async def test_letters_that_can_never_be_sent_are_named_and_the_others_are_sent(deployment: Deployment) -> None:
    topic, now_ms = deployment.topic("click"), int(time.time() * 1000)
    admin = admin_client(deployment.settings)
    await admin.start()
    limits = {"max.message.bytes": "20000", "message.timestamp.after.max.ms": "3600000", "retention.ms": "-1"}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, limits)])
    await admin.close()

    def letter(offset: int, **changes: Any) -> DeadLetter:
        value = encode(click(event_id=f"c-{offset}"))
        facts = {"topic": topic, "partition": 1, "offset": offset, "timestamp_ms": now_ms, "value": value, **changes}
        return dead_letter(reason=Reason.HANDLER_ERROR, **facts)

    good = [letter(offset) for offset in range(40)]
    bad = [
        letter(100, value=b"x" * 100_000),  # larger than the topic now permits
        letter(101, timestamp_ms=now_ms + 86_400_000),  # later than the topic permits
        letter(102, timestamp_ms=1 << 70),  # no timestamp at all
        letter(103, partition=9),
    ]
    await put_letters(deployment, *good[:20], *bad, *good[20:])

    code, replayed, stderr = footfall(deployment, "dlq", "replay", "--topic", "click")

    assert code == 3, stderr
    assert (replayed["sent"], replayed["refused"], replayed["no_partition"], replayed["total"]) == (40, 3, 1, 44)
    assert {left["offset"]: left["outcome"] for left in replayed["left"]} == {
        100: "refused", 101: "refused", 102: "refused", 103: "no_partition",
    }  # fmt: skip
    assert f"refused: {topic}/1@100, in click.dlq/0@20: MessageSizeTooLargeError" in stderr
    sent = await deployment.read(topic)
    assert {record.value for record in sent} == {letter.value for letter in good}
    assert len(sent) == 40


async def test_refused_records_are_replayed_once_their_cause_is_fixed_and_count_once(
    kafka: str, deployment: Deployment
) -> None:
    dollars = [purchase(event_id=f"p-{n}", currency="USD", user_id=f"u-{n}") for n in range(5)]
    events = [LoggedEvent("purchase", NOW_MS, event.user_id.encode(), encode(event)) for event in dollars]
    nameless = encode(purchase(event_id=None, currency="USD", user_id="u-9"))
    events += [LoggedEvent("purchase", NOW_MS, b"u-9", nameless)]
    events += [LoggedEvent("search", NOW_MS, b"u-1", encode(search()))]
    await deployment.publish([*events, *bad_clicks(4)])
    worker = deployment.start("features")
    await caught_up(deployment, worker)
    assert worker.stop() == 0

    code, counted, _ = footfall(deployment, "dlq", "ls")
    assert code == 0
    assert {(group["topic"], group["reason"]): group["count"] for group in counted["groups"]} == {
        (deployment.topic("purchase"), "unknown_currency"): 6,
        (deployment.topic("click"), "bad_json"): 4,
    }
    code, shown, _ = footfall(deployment, "dlq", "show", "--topic", "purchase", "--limit", "1")
    assert (code, shown["reason"], shown["topic"]) == (0, "unknown_currency", deployment.topic("purchase"))
    filters = ("--reason", "unknown_currency", "--topic", "purchase", "--since", "1h")
    code, planned, _ = footfall(deployment, "dlq", "replay", "--dry-run", *filters)
    assert (code, planned["sent"]) == (0, 6)
    assert await deployment.lag("features", KINDS) == 0

    fixed = Deployment(kafka, deployment.folder, **deployment.given | {"currency_rates": '{"USD": 0.8}'})
    for _ in range(2):  # twice, as if by mistake
        code, replayed, _ = footfall(fixed, "dlq", "replay", *filters)
        assert (code, replayed["sent"], replayed["dry_run"]) == (0, 6, False)
    worker = fixed.start("features")
    await caught_up(fixed, worker)
    assert worker.stop() == 0

    _, totals = await fixed.committed("features")
    assert (totals.events_in, totals.applied, totals.duplicate_dropped, totals.dead_lettered) == (23, 7, 6, 10)
    first, *again = [r for r in await fixed.read(fixed.topic("purchase")) if r.key == b"u-9"]
    assert [(record.value, record.timestamp) for record in again] == [(nameless, NOW_MS)] * 2
    assert first.headers == ()
    assert len({record.headers for record in again}) == 1


async def test_a_bug_in_the_code_dead_letters_only_its_record_and_the_worker_continues(deployment: Deployment) -> None:
    program = (
        "from models.features import user_state\n"
        "sound = user_state.HistoryEntry\n"
        "def broken(*fields):\n"
        "    if fields[-1] == 'broken': raise ZeroDivisionError('a bug')\n"
        "    return sound(*fields)\n"
        "user_state.HistoryEntry = broken\n"
        "from stream.cli.main import main\n"
        "main()\n"
    )
    bugs = [click(event_id=f"b-{n}", title="broken", user_id="u-1") for n in range(3)]
    bad = [LoggedEvent("click", NOW_MS, b"u-1", encode(event)) for event in bugs]
    good = [*good_clicks(30), *good_clicks(30, first=30), *good_clicks(30, first=60), *good_clicks(30, first=90)]
    events = [*good[:30], bad[0], *good[30:60], bad[1], bad[2], *good[60:]]
    await deployment.publish(events)

    worker = deployment.start("features", program=program)
    await caught_up(deployment, worker)

    assert worker.stop() == 0
    _, totals = await deployment.committed("features")
    assert (totals.applied, totals.dead_lettered, totals.events_in) == (120, 3, 123)
    found = await letters(deployment, ["click"])
    assert {letter.reason for letter in found} == {Reason.HANDLER_ERROR}
    assert {letter.exception for letter in found} == {"ZeroDivisionError"}
    assert len({letter.detail for letter in found}) == 1
    assert sorted(letter.value or b"" for letter in found) == sorted(event.value or b"" for event in bad)
    rows, _ = await deployment.committed("features")
    replay = deployment.replay()
    list(replay.fold(good))
    [(key, row)] = folded_rows(replay).items()
    assert without_guard(rows[key]) == without_guard(row)


def without_guard(row: bytes) -> Any:
    """Decode a row without the offset of its newest record, which the bad records shift."""
    from models.features.row_codec import decode_row

    state = decode_row(row)
    for topic in state.topics:
        if topic is not None:
            topic.guard = 0
    return state
