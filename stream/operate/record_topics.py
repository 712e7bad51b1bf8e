"""Record topics of a running broker as an event log: every record with its partition, offset, timestamp and headers.

A recording uses no consumer group: it commits nothing and causes no rebalance. If the setting transactions is on, it reads
only committed records. Start at record.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from msgspec import Struct, field

from schemas.errors import BrokerError
from schemas.time_units import MINUTE_MS
from stream.kafka.clients import admin_client, plain_consumer
from stream.kafka.connection_check import broker_error
from stream.kafka.topic_admin import existing_partitions
from stream.kafka.topic_ids import describe_topics
from stream.kafka.topic_reader import TopicReader
from stream.logs.event_log import OUTPUTS, LoggedEvent, LogWriter, RecordedPartition
from stream.process.settings import Settings

BATCH_RECORDS = 20_000


class Recorded(Struct):
    """The progress of a recording: records by kind, offsets passed, and the offsets to pass as counted at the start."""

    events: Counter[str] = field(default_factory=Counter)
    passed: int = 0
    expected: int = 0


class _At(Struct):
    timestamp_ms: int


class _Output(Struct):
    source: _At | None = None


_decode_output = msgspec.json.Decoder(_Output).decode


def source_ms(record: ConsumerRecord) -> int:
    """Return the timestamp of the source record behind an output, or the output's own if its value names none."""
    try:
        source = _decode_output(record.value or b"").source
    except msgspec.DecodeError:
        source = None
    timestamp: int = record.timestamp if source is None else source.timestamp_ms
    return timestamp


class Since(Struct):
    """Select outputs by the time of their source record, from the first one at or after `ms` on.

    `first` maps a partition to the offset of that output. `before` holds the output partitions in which it was not found yet.
    """

    ms: int
    before: set[TopicPartition]
    first: dict[TopicPartition, int] = {}

    def select(self, tp: TopicPartition, records: Sequence[ConsumerRecord]) -> Sequence[ConsumerRecord]:
        """Return the selected ones of a partition's next records; all records of a source topic."""
        if tp not in self.before:
            return records
        found = next((place for place, record in enumerate(records) if source_ms(record) >= self.ms), None)
        if found is None:
            return []
        self.before.discard(tp)
        self.first[tp] = records[found].offset
        return records[found:]


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
    """Write the records of topics from their beginning, or from the first record at or after a time, to their current ends.

    An output's time is that of the source record behind it: brokers stamp outputs with their own clock, which is far from the
    sources' in a simulated or replayed run.

    With `follow`, it continues beyond the ends. In either case it stops when `stop` is set. Returns the offsets recorded of
    each partition.

    Raises:
        BrokerError: no broker answers, a topic is missing, or its records do not arrive.
    """
    names = {settings.topics()[kind].name: kind for kind in kinds}
    consumer = plain_consumer(settings, auto_offset_reset="none")
    try:
        await consumer.start()
        tps = await _partitions(settings, names)
        topics = await describe_topics(consumer._client, list(names))
        outputs = {tp for tp in tps if names[tp.topic] in OUTPUTS}
        ahead_ms = round(settings.source_ahead_minutes * MINUTE_MS)
        begin = await _begin(consumer, tps, since_ms, outputs, ahead_ms)
        since = None if since_ms is None else Since(since_ms, outputs)
        end = await consumer.end_offsets(tps)
        recorded.expected = TopicReader(consumer, begin, end).expected
        reader = TopicReader(consumer, begin, None if follow else end)
        await _write_until(stop, reader, consumer, writer, names, recorded, since, embedded=not settings.transactions)
    except (KafkaError, TimeoutError) as error:
        raise await broker_error(settings, error) from error
    finally:
        await consumer.stop()
    first = begin if since is None else begin | {tp: _reached(reader, tp) for tp in since.before} | since.first
    return [
        RecordedPartition(names[tp.topic], tp.topic, tp.partition, first[tp], _reached(reader, tp), topics[tp.topic].topic_id)
        for tp in tps
    ]


async def _write_until(
    stop: asyncio.Event,
    reader: TopicReader,
    consumer: AIOKafkaConsumer,
    writer: LogWriter,
    names: dict[str, str],
    recorded: Recorded,
    since: Since | None,
    *,
    embedded: bool,
) -> None:
    """Write the records of a reader until every partition is at its end, or `stop` is set.

    The end offsets of the `embedded` broker count batches, not records; the high watermark of a fetch is right.
    """
    unfinished = reader.pending()
    async for batches in reader.batches(BATCH_RECORDS):
        if reader.end is not None and embedded:
            for tp in unfinished:  # a partition that was at its end stays finished, whatever is written meanwhile
                reader.end[tp] = max(reader.end[tp], consumer.highwater(tp) or 0)
            unfinished = reader.pending()
        for tp, records in batches.items():
            within = [record for record in records if reader.within(record)]
            _write(writer, names[tp.topic], within if since is None else since.select(tp, within), recorded)
        recorded.passed = sum(_reached(reader, tp) - first for tp, first in reader.begin.items())
        if stop.is_set():
            return


def _reached(reader: TopicReader, tp: TopicPartition) -> int:
    """Return the offset after the last one recorded of a partition, never beyond its end."""
    at: int = reader.position[tp]
    return at if reader.end is None else min(at, reader.end[tp])


def _write(writer: LogWriter, kind: str, records: Sequence[ConsumerRecord], recorded: Recorded) -> None:
    writer.add(LoggedEvent(kind, r.timestamp, r.key, r.value, r.partition, r.offset, tuple(r.headers)) for r in records)
    recorded.events[kind] += len(records)


async def _partitions(settings: Settings, names: dict[str, str]) -> list[TopicPartition]:
    client = admin_client(settings)
    try:
        await client.start()
        counts = await existing_partitions(client)
    finally:
        await client.close()
    if missing := [f"{name} ({kind})" for name, kind in names.items() if name not in counts]:
        raise BrokerError(f"found no topic {', '.join(missing)}: run `footfall topics apply`, or name other --kinds")
    return [TopicPartition(name, number) for name in names for number in range(counts[name])]


async def _begin(
    consumer: AIOKafkaConsumer, tps: list[TopicPartition], since_ms: int | None, outputs: set[TopicPartition], ahead_ms: int
) -> dict[TopicPartition, int]:
    """Return the first offsets to read: of the oldest record, or of the first at or after a time; the end if there is none.

    An output can be stamped `ahead_ms` before its source record, and at any time after it.

    The embedded broker does not look up times and begins at the oldest record.
    """
    if since_ms is None:
        return dict(await consumer.beginning_offsets(tps))
    found = await consumer.offsets_for_times(
        {tp: max(0, since_ms - ahead_ms) if tp in outputs else since_ms for tp in tps}  # negative values mean "earliest"
    )
    end = await consumer.end_offsets(tps)
    return {tp: end[tp] if found.get(tp) is None else found[tp].offset for tp in tps}
