"""Compare a live run on Apache Kafka with its replay, where producers' clocks disagree and transactions leave gaps."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from aiokafka import AIOKafkaProducer
from msgspec.structs import replace

from models.features.spec import KINDS
from schemas.codec import decode
from schemas.scoring import ScoreRequest
from schemas.time_units import MINUTE_MS
from stream.kafka.clients import rows_producer
from stream.logs.event_log import LoggedEvent, LogWriter, read_log
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.verification import write_verification
from stream.operate.record_topics import Recorded, record
from tests.harness import Deployment, folded_rows, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]
CLOCKS_MS = (-4 * MINUTE_MS, 6 * MINUTE_MS, 16 * MINUTE_MS)  # of three producers; further behind, events are from the future
FAR_AHEAD_MS = 59 * MINUTE_MS  # of one record
TOGETHER = 60  # events that the producers send in transactions at the same time
RECORDED = (*KINDS, "score-request")


class Aborted(Exception):
    """Ends a transaction without a commit."""


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    yield deployment
    deployment.stop()


async def test_a_run_with_transactions_and_clocks_20_minutes_apart_gives_what_its_replay_gives(deployment: Deployment) -> None:
    config = SimulatorConfig(seed=31, shoppers=30, days=30, late=0.02, duplicates=0.02, malformed=0.01)
    events = [event.logged for event in simulate(config) if event.logged.kind != "review"]  # no scorer runs
    half = len(events) // 2
    async with Producers(deployment) as producers:
        await producers.send(events[:half])  # a backlog
        worker = deployment.start("features")
        await until("features is ready", worker.ready, seconds=90, worker=worker)
        await producers.send(events[half:])
        await until("all is committed", lambda: committed(deployment, len(events)), seconds=120, worker=worker)
    assert worker.stop() == 0

    log = await recorded(deployment)
    offsets = offsets_of(read_log(log))
    assert any(found != sorted(found) for found in offsets.values()), "clocks must disagree"
    assert sum(max(found) + 1 - len(found) for found in offsets.values()) > 100, "transactions must leave gaps"
    replay = deployment.replay()
    outputs = [output.message for output in replay.fold(read_log(log))]
    rows, totals = await deployment.committed("features")
    assert totals == replay.summed()
    assert rows == folded_rows(replay)
    live = {decode(ScoreRequest, r.value).request_id for r in await deployment.read(deployment.topic("score-request"))}
    assert live == {message.request_id for message in outputs if isinstance(message, ScoreRequest)}

    found = await asyncio.to_thread(write_verification, log, deployment.settings, None, deployment.folder / "verified")

    assert found.agrees
    assert found.equal == found.requests >= len(live) > 100
    assert (found.ids_not_reached, found.ids_not_comparable, found.unverifiable) == (0, 0, {})


class Producers:
    """Transactional producers whose clocks disagree; one record is stamped far ahead."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment, self._random, self._sent = deployment, Random(7), 0
        ids = [f"{deployment.settings.app_id}-source-{number}" for number in range(len(CLOCKS_MS))]
        self._producers = [rows_producer(deployment.settings, name) for name in ids]

    async def __aenter__(self) -> "Producers":
        for producer in self._producers:
            await producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for producer in self._producers:
            await producer.stop()

    async def send(self, events: Sequence[LoggedEvent]) -> None:
        """Send events in order, each by one of the producers; every fifth time, transactions are aborted and repeated."""
        for first in range(0, len(events), TOGETHER):
            shares: list[list[LoggedEvent]] = [[] for _ in CLOCKS_MS]
            for event in events[first : first + TOGETHER]:
                clock = self._random.randrange(len(CLOCKS_MS))
                self._sent += 1
                ahead_ms = FAR_AHEAD_MS if self._sent == 500 else CLOCKS_MS[clock]
                shares[clock].append(replace(event, record_ms=event.record_ms + ahead_ms))
            sends = list(zip(self._producers, shares, strict=True))
            if first // TOGETHER % 5 == 0:
                await asyncio.gather(*(self._transaction(producer, share, abort=True) for producer, share in sends))
            await asyncio.gather(*(self._transaction(producer, share) for producer, share in sends))

    async def _transaction(self, producer: AIOKafkaProducer, events: list[LoggedEvent], *, abort: bool = False) -> None:
        replay, topic = self._deployment.replay(), self._deployment.topic
        with suppress(Aborted):
            async with producer.transaction():
                for event in events:
                    await producer.send_and_wait(
                        topic(event.kind),
                        event.value,
                        key=event.key,
                        partition=replay.partition_of(event.key),
                        timestamp_ms=event.record_ms,
                    )
                if abort:
                    raise Aborted


async def committed(deployment: Deployment, count: int) -> bool:
    return (await deployment.committed("features"))[1].events_in == count


def offsets_of(events: Iterable[LoggedEvent]) -> dict[tuple[str, int | None], list[int]]:
    """Return the offsets of each partition in the order of the log."""
    found: dict[tuple[str, int | None], list[int]] = defaultdict(list)
    for event in events:
        found[event.kind, event.partition].append(event.offset or 0)
    return found


async def recorded(deployment: Deployment) -> Path:
    log = deployment.folder / "log"
    with LogWriter(log) as writer:
        parts = await record(
            deployment.settings, RECORDED, writer, since_ms=None, follow=False, stop=asyncio.Event(), recorded=Recorded()
        )
        writer.finish(source="test", recorded=parts)
    return log
