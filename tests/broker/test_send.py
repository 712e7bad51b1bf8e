"""Send a log to a broker: same bytes, timestamps and order, and the same partitions as in a replay."""

import time
from collections import defaultdict
from collections.abc import Sequence

import pytest
from aiokafka import ConsumerRecord

from schemas.errors import BrokerError
from schemas.time_units import DAY_MS
from stream.kafka.topic_admin import apply
from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.replay_log import Replay
from stream.operate.send_log import Sent, at_once, at_rate, at_speed, check_sendable, partition_of, send_events
from stream.operate.tail import follow
from stream.process.settings import Settings
from stream.roles.features_fold import SENT_AT

pytestmark = pytest.mark.broker


def made(shoppers: int = 30, days: int = 20) -> list[LoggedEvent]:
    config = SimulatorConfig(shoppers=shoppers, days=days, malformed=0.1, duplicates=0.05, late=0.05)
    return [event.logged for event in simulate(config)]


async def read(settings: Settings, kinds: Sequence[str], count: int) -> list[ConsumerRecord]:
    records = []
    async for record in follow(settings, [settings.topics()[kind].name for kind in kinds], from_beginning=True):
        records.append(record)
        if len(records) == count:
            break
    return records


async def test_every_record_arrives_once_as_a_replay_numbers_it(settings: Settings) -> None:
    events = made()
    await apply(settings)
    before_ms = int(time.time() * 1000)
    sent = await send_events(events, settings, partitions=4)
    assert sent.total == len(events)
    kinds = sorted({event.kind for event in events})
    found = {(r.topic, r.partition, r.offset): r for r in await read(settings, kinds, len(events))}
    replay = Replay(settings, partitions=4)
    for event in events:  # equal timestamps of one topic keep the log's order
        expected = replay.record(event.kind, replay.partition_of(event.key), event.record_ms, event.key, event.value)
        record = found.pop((expected.topic, expected.partition, expected.offset))
        assert (record.timestamp, record.key, record.value) == (event.record_ms, event.key, event.value)
        ((name, value),) = record.headers
        assert name == SENT_AT and before_ms <= int(value) <= time.time() * 1000
    assert found == {}


async def test_a_recorded_event_keeps_its_headers_but_for_when_it_was_sent(settings: Settings) -> None:
    await apply(settings)
    event = LoggedEvent("click", 1_000, b"u-1", b"{}", headers=(("x-event-id", b"e-1"), (SENT_AT, b"5"), ("x", b"\xff")))

    await send_events([event], settings, partitions=4)

    [record] = await read(settings, ["click"], 1)
    *kept, (name, value) = record.headers
    assert kept == [("x-event-id", b"e-1"), ("x", b"\xff")]
    assert name == SENT_AT and int(value) > 5


def test_partitions_are_those_of_a_replay(settings: Settings) -> None:
    for partitions in (1, 4, 12):
        replay = Replay(settings, partitions=partitions)
        keys = [None, b"", *(f"u-{n}".encode() for n in range(200)), "ü".encode(), b"\xff"]
        assert [partition_of(key, partitions, settings.partitioner) for key in keys] == [
            replay.partition_of(key) for key in keys
        ]


async def test_a_rate_paces_events_whatever_their_timestamps(settings: Settings) -> None:
    await apply(settings)
    sent = await send_events(made()[:101], settings, partitions=4, pace=at_rate(200))
    assert sent.total == 101 and sent.seconds >= 0.5


def test_a_pace_returns_when_an_event_is_due() -> None:
    event = LoggedEvent("click", 61_000, b"u-1", b"{}")
    assert (at_once(5, event), at_rate(10)(5, event), at_speed(30, 1_000)(5, event)) == (0.0, 0.5, 2.0)


async def test_what_was_sent_before_an_interruption_is_counted(settings: Settings) -> None:
    await apply(settings)
    events, sent = made(), Sent()

    def broken() -> "object":
        yield from events[:50]
        raise RuntimeError("the log ends here")

    with pytest.raises(RuntimeError, match="the log ends here"):
        await send_events(broken(), settings, partitions=4, sent=sent)  # type: ignore[arg-type]
    per_kind = defaultdict(int)
    for event in events[:50]:
        per_kind[event.kind] += 1
    assert sum(abs(per_kind[kind] - count) for kind, count in sent.events.items()) <= 1
    assert len(await read(settings, list(sent.events), sent.total)) == sent.total


async def test_missing_topics_are_refused_with_the_command_that_makes_them(settings: Settings) -> None:
    with pytest.raises(BrokerError, match="found no topic .*shop.clicks.v1: run `footfall topics apply`"):
        await check_sendable(settings, ["click"], 0, 0, DAY_MS)


async def test_other_partition_counts_than_the_settings_are_refused(settings: Settings) -> None:
    await apply(settings)
    with pytest.raises(BrokerError, match="has 4; expected 8"):
        await check_sendable(settings.model_copy(update={"partitions": 8}), ["click"], 0, 0, DAY_MS)


async def test_a_log_older_than_the_retention_is_refused(settings: Settings) -> None:
    await apply(settings.model_copy(update={"retention_ms": 7 * DAY_MS}))
    assert await check_sendable(settings, ["click"], 3 * DAY_MS, 9 * DAY_MS, 10 * DAY_MS) == 4
    with pytest.raises(BrokerError, match="--retention-ms -1"):
        await check_sendable(settings, ["click"], 3 * DAY_MS - 1, 9 * DAY_MS, 10 * DAY_MS)


async def test_a_log_with_future_timestamps_is_refused(settings: Settings) -> None:
    await apply(settings)
    with pytest.raises(BrokerError, match="24 h in the future"):
        await check_sendable(settings, ["click"], 0, 11 * DAY_MS, 10 * DAY_MS)


async def test_a_topic_that_is_not_there_cannot_be_followed(settings: Settings) -> None:
    with pytest.raises(BrokerError, match="found no topic nowhere"):
        async for _ in follow(settings, ["nowhere"], from_beginning=True):
            pass
