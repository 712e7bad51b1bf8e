"""Partitions of any topics → their records from one offset to another, without a group and without commits.

The one loop that reads a topic to its end: restores, the changelog, dead letters, recordings and benchmarks use it. Start
at open_reader.
"""

from collections.abc import AsyncIterator, Iterable, Mapping

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

POLL_MS = 500


class TopicReader:
    """Reads partitions from the offsets `begin` up to the offsets `end`; without `end` it follows them for ever.

    `position` is the next offset of each partition. It passes transaction markers too, which are no records.
    """

    def __init__(
        self, consumer: AIOKafkaConsumer, begin: Mapping[TopicPartition, int], end: Mapping[TopicPartition, int] | None
    ) -> None:
        """Read with a started consumer that has nothing else to read."""
        self._consumer = consumer
        self.begin, self.position = dict(begin), dict(begin)
        self.end = None if end is None else dict(end)

    async def batches(self, max_records: int | None = None) -> AsyncIterator[dict[TopicPartition, list[ConsumerRecord]]]:
        """Yield what each fetch brings, by partition, until every partition is at its end; a batch may be empty.

        The last batch of a partition may reach beyond its end.
        """
        self._consumer.assign(list(self.begin))
        for tp, first in self.begin.items():  # seek_to_beginning() would lose a race against the reset that assign() starts
            self._consumer.seek(tp, first)
        while pending := self.pending():
            batches = await self._consumer.getmany(*pending, timeout_ms=POLL_MS, max_records=max_records)
            for tp in pending:
                self.position[tp] = await self._consumer.position(tp)
            yield batches

    async def records(self) -> AsyncIterator[ConsumerRecord]:
        """Yield the records one by one, each partition in the order of its offsets."""
        async for batches in self.batches():
            for batch in batches.values():
                for record in batch:
                    yield record

    def within(self, record: ConsumerRecord) -> bool:
        """Tell whether a record lies before its partition's end; without ends every one does."""
        return self.end is None or record.offset < self.end[TopicPartition(record.topic, record.partition)]

    def pending(self) -> list[TopicPartition]:
        """Return the partitions that are not at their end yet."""
        end = self.end
        return [tp for tp, at in self.position.items() if end is None or at < end[tp]]

    @property
    def passed(self) -> int:
        """Count the offsets read so far."""
        return sum(self.position.values()) - sum(self.begin.values())

    @property
    def expected(self) -> int:
        """Count the offsets between the beginnings and the ends; 0 without ends."""
        return 0 if self.end is None else sum(max(0, self.end[tp] - first) for tp, first in self.begin.items())


async def open_reader(
    consumer: AIOKafkaConsumer, tps: Iterable[TopicPartition], end: Mapping[TopicPartition, int] | None = None
) -> TopicReader:
    """Read partitions from their oldest record to `end`, by default to where they end now."""
    partitions = list(tps)
    if not partitions:
        return TopicReader(consumer, {}, {})
    begin = await consumer.beginning_offsets(partitions)
    if end is None:
        end = await consumer.end_offsets(partitions)
    return TopicReader(consumer, begin, {tp: end[tp] for tp in partitions})
