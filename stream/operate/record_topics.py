"""Topics of a running broker → an event log: every record with its partition, offset, time and headers.

An onlooker without a group: nothing is committed, nobody's partitions move. Reads committed records only where the
broker has transactions. Start at record.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from msgspec import Struct, field

from schemas.errors import BrokerError
from stream.kafka.clients import admin_client, plain_consumer
from stream.kafka.topic_admin import broker_says, existing_partitions
from stream.logs.event_log import LoggedEvent, LogWriter, RecordedPartition
from stream.process.settings import Settings

STALL_SECONDS = 60.0  # without a record, before the ends seen at the start are reached
POLL_MS = 500
BATCH_RECORDS = 20_000


class Recorded(Struct):
    """What was recorded so far, for whoever watches: records by kind, offsets passed, and offsets there were at the start."""

    events: Counter[str] = field(default_factory=Counter)
    passed: int = 0
    expected: int = 0


async def record(
    settings: Settings,
    kinds: Sequence[str],
    writer: LogWriter,
    *,
    since_ms: int | None,
    follow: bool,
    stop: asyncio.Event,
    recorded: Recorded,
) -> list[RecordedPartition]:
    """Give a writer what topics hold from their beginning, or from the first record of a time, up to their present ends.

    With `follow`, goes on beyond the ends; in either case until `stop` is set. Returns what is recorded of each partition.

    Raises:
        BrokerError: no broker answers, a topic is missing, or its records do not come.
    """
    names = {settings.topics()[kind].name: kind for kind in kinds}
    consumer = plain_consumer(settings, auto_offset_reset="none")
    try:
        await consumer.start()
        tps = await _partitions(settings, names)
        begin = await _begin(consumer, tps, since_ms)
        end = await consumer.end_offsets(tps)
        recorded.expected = sum(max(0, end[tp] - begin[tp]) for tp in tps)
        consumer.assign(tps)
        for tp in tps:
            consumer.seek(tp, begin[tp])
        embedded = not settings.transactions  # its answer about ends counts batches; what it sends knows better
        reading = _Reading(consumer, writer, names, begin, None if follow else end, recorded, asks_again=embedded)
        await reading.until(stop)
    except KafkaError as error:
        raise BrokerError(broker_says(settings, error)) from error
    finally:
        await consumer.stop()
    return [RecordedPartition(names[tp.topic], tp.topic, tp.partition, begin[tp], reading.position[tp]) for tp in tps]


class _Reading:
    """Where each partition is; `end` is where each is to end, None is nowhere."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        writer: LogWriter,
        names: dict[str, str],
        begin: dict[TopicPartition, int],
        end: dict[TopicPartition, int] | None,
        recorded: Recorded,
        *,
        asks_again: bool,
    ) -> None:
        self._consumer, self._writer, self._names, self._recorded = consumer, writer, names, recorded
        self._begin, self._end, self._asks_again = begin, end, asks_again
        self.position = dict(begin)

    async def until(self, stop: asyncio.Event) -> None:
        """Read until every partition is at its end, or `stop` is set."""
        moved_at = time.monotonic()
        while (pending := self._pending()) and not stop.is_set():
            batches = await self._consumer.getmany(*pending, timeout_ms=POLL_MS, max_records=BATCH_RECORDS)
            if self._end is not None and self._asks_again:
                for tp in pending:
                    self._end[tp] = max(self._end[tp], self._consumer.highwater(tp) or 0)
            before = sum(self.position.values())
            for tp, records in batches.items():
                self._write(tp, records)
            for tp in pending:
                reached = await self._consumer.position(tp)  # beyond the last record: markers of transactions, too
                self.position[tp] = reached if self._end is None else min(reached, self._end[tp])
            self._recorded.passed = sum(self.position[tp] - self._begin[tp] for tp in self.position)
            if sum(self.position.values()) > before:
                moved_at = time.monotonic()
            elif self._end is not None and time.monotonic() - moved_at > STALL_SECONDS:
                behind = ", ".join(f"{tp.topic}/{tp.partition} at {self.position[tp]} of {self._end[tp]}" for tp in pending)
                raise BrokerError(
                    f"found nothing for {STALL_SECONDS:g} s in {behind}: a transaction is open or a broker is away; try again"
                )

    def _pending(self) -> Collection[TopicPartition]:
        if self._end is None:
            return list(self.position)
        return [tp for tp, reached in self.position.items() if reached < self._end[tp]]

    def _write(self, tp: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        wanted = records if self._end is None else [record for record in records if record.offset < self._end[tp]]
        kind = self._names[tp.topic]
        self._writer.add(
            LoggedEvent(kind, r.timestamp, r.key, r.value, r.partition, r.offset, tuple(r.headers)) for r in wanted
        )
        self._recorded.events[kind] += len(wanted)


async def _partitions(settings: Settings, names: dict[str, str]) -> list[TopicPartition]:
    client = admin_client(settings)
    try:
        await client.start()
        counts = await existing_partitions(client)
    finally:
        await client.close()
    if missing := [f"{name} ({kind})" for name, kind in names.items() if name not in counts]:
        raise BrokerError(f"found no topic {', '.join(missing)}: run `footfall topics apply`, or name what there is by --kinds")
    return [TopicPartition(name, number) for name in names for number in range(counts[name])]


async def _begin(consumer: AIOKafkaConsumer, tps: list[TopicPartition], since_ms: int | None) -> dict[TopicPartition, int]:
    """Find where to begin: at the oldest record there is, or at the first of a time; at the end where there is none.

    The embedded broker knows no times and begins at the oldest.
    """
    if since_ms is None:
        return dict(await consumer.beginning_offsets(tps))
    found = await consumer.offsets_for_times(dict.fromkeys(tps, since_ms))
    end = await consumer.end_offsets(tps)
    return {tp: end[tp] if found.get(tp) is None else found[tp].offset for tp in tps}
