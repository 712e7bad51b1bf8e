"""Record from Apache Kafka: committed records only, with the offset gaps that transactions leave."""

import asyncio
from pathlib import Path

import pytest

from schemas.codec import decode
from schemas.scoring import ScoreRequest
from schemas.topics import SOURCES
from stream.kafka.clients import rows_producer
from stream.logs.event_log import KINDS, LoggedEvent, LogManifest, LogWriter, read_log
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.operate.record_topics import Recorded, record, source_ms
from stream.operate.send_log import send_events
from tests.harness import Deployment, folded_rows, until
from tests.kafka.test_scorer_restarts import visits

pytestmark = pytest.mark.kafka


async def recorded(deployment: Deployment, out: Path, *, since_ms: int | None = None) -> LogManifest:
    with LogWriter(out) as writer:
        parts = await record(
            deployment.settings, KINDS, writer, since_ms=since_ms, follow=False, stop=asyncio.Event(), recorded=Recorded()
        )
        return writer.finish(source="test", recorded=parts)


async def test_aborted_records_are_not_recorded_and_offset_gaps_are_kept(kafka: str, tmp_path: Path) -> None:
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    producer = rows_producer(deployment.settings, f"{deployment.settings.app_id}-test")
    await producer.start()
    try:
        for values, commit in (([b"a", b"b"], True), ([b"lost"], False), ([b"c"], True)):
            await producer.begin_transaction()
            for value in values:
                await producer.send_and_wait(deployment.topic("ad-trigger"), value, key=b"u", partition=2, timestamp_ms=1_000)
            await (producer.commit_transaction() if commit else producer.abort_transaction())
    finally:
        await producer.stop()
    await deployment.publish([LoggedEvent("click", 2_000, b"u-1", b"{}")])

    manifest = await recorded(deployment, tmp_path / "log")

    triggers = [(event.value, event.offset) for event in read_log(tmp_path / "log", ["ad-trigger"])]
    assert triggers == [(b"a", 0), (b"b", 1), (b"c", 5)]  # 2, 4 and 6 mark ends of transactions, 3 was aborted
    spans = {(part.kind, part.partition): (part.first, part.next) for part in manifest.recorded}
    assert spans[("ad-trigger", 2)] == (0, 7)
    assert manifest.events == {"click": 1, "ad-trigger": 1 + 2}


async def test_a_recording_since_a_time_reports_its_first_offsets(kafka: str, tmp_path: Path) -> None:
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    await deployment.publish([LoggedEvent("click", 2_000 + n, b"u-1", b"%d" % n) for n in range(9)])

    manifest = await recorded(deployment, tmp_path / "log", since_ms=2_006)

    events = list(read_log(tmp_path / "log"))
    assert [(event.value, event.offset) for event in events] == [(b"6", 6), (b"7", 7), (b"8", 8)]
    assert {(part.first, part.next) for part in manifest.recorded} == {(0, 0), (6, 9)}


async def test_a_recording_since_a_time_has_the_outputs_of_sources_since_then_whenever_they_were_sent(
    kafka: str, tmp_path: Path
) -> None:
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    events = visits()[:40]
    await deployment.publish(events)
    worker = deployment.start("features")
    await until("no lag", lambda: no_lag(deployment), seconds=60, worker=worker)
    assert worker.stop() == 0
    since_ms = events[25].record_ms

    manifest = await recorded(deployment, tmp_path / "log", since_ms=since_ms)

    assert {event.value for event in read_log(tmp_path / "log")} == {event.value for event in events[25:]}
    requests = [decode(ScoreRequest, event.value) for event in read_log(tmp_path / "log", ["score-request"])]
    assert {request.source.timestamp_ms for request in requests} == {event.record_ms for event in events[25:]}
    firsts = {part.partition: part.first for part in manifest.recorded if part.kind == "score-request"}
    for number in range(4):
        records = [record for record in await deployment.read(deployment.topic("score-request")) if record.partition == number]
        found = [record.offset for record in records if source_ms(record) >= since_ms]
        assert firsts[number] == min(found, default=len(records))


async def test_a_log_of_many_events_comes_back_from_kafka_exactly(kafka: str, tmp_path: Path) -> None:
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    made = [event.logged for event in simulate(SimulatorConfig(shoppers=150, days=30, malformed=0.02, late=0.05))]
    await send_events(made, deployment.settings, partitions=4)

    manifest = await recorded(deployment, tmp_path / "log")

    replay, expected = deployment.replay(), []
    for event in made:
        found = replay.record(event.kind, replay.partition_of(event.key), event.record_ms, event.key, event.value)
        expected.append((event.kind, found.partition, found.offset, event.record_ms, event.key, event.value))
    events = read_log(tmp_path / "log")
    assert sorted((e.kind, e.partition, e.offset, e.record_ms, e.key, e.value) for e in events) == sorted(expected)
    assert sum(manifest.events.values()) == len(made)
    assert all(part.first == 0 for part in manifest.recorded)


@pytest.mark.timeout(120)
async def test_a_recording_sent_to_topics_of_more_partitions_moves_users_and_loses_nothing(kafka: str, tmp_path: Path) -> None:
    made = [
        event.logged for event in simulate(SimulatorConfig(shoppers=100, days=30, malformed=0.02, late=0.05, duplicates=0.02))
    ]
    old, new = Deployment(kafka, tmp_path), Deployment(kafka, tmp_path, partitions=8)
    try:
        for deployment in (old, new):
            await deployment.create_topics()
        await send_events(made, old.settings, partitions=4)
        await old.publish([LoggedEvent("score-request", made[0].record_ms, b"u-1", b"not an event")])
        await recorded(old, tmp_path / "log")
        await send_events(read_log(tmp_path / "log"), new.settings, partitions=8)

        worker = new.start("features")
        await until("no lag", lambda: no_lag(new), seconds=60, worker=worker)
        assert worker.stop() == 0

        replay = new.replay()
        for _ in replay.fold(made):
            pass
        rows, totals = await new.committed("features")
        assert rows == folded_rows(replay)
        assert totals.events_in == len(made)
    finally:
        new.stop()


async def no_lag(deployment: Deployment) -> bool:
    return not await deployment.lag("features", SOURCES)
