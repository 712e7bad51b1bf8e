"""Read partitions of any topics between two offsets, without a consumer group and without commits.

All code that reads topics to their end uses this loop: restores, changelogs, dead letters, recordings and benchmarks. Start
at open_reader.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from schemas.errors import BrokerError

POLL_MS = 500
STALL_SECONDS = 60.0  # longer than any open transaction of ours may last


class TopicReader:
    """Read partitions from the offsets `begin` up to the offsets `end`; without `end`, follow them forever.

    `position` is the next offset of each partition. It also advances past transaction markers, which are not records.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        begin: Mapping[TopicPartition, int],
        end: Mapping[TopicPartition, int] | None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read with a started consumer that is used for nothing else."""
        self._consumer, self._now = consumer, monotonic
        self.begin, self.position = dict(begin), dict(begin)
        self.end = None if end is None else dict(end)

    async def batches(self, max_records: int | None = None) -> AsyncIterator[dict[TopicPartition, list[ConsumerRecord]]]:
        """Yield the records of each fetch by partition, until every partition is at its end; a batch may be empty.

        The last batch of a partition may extend beyond its end.

        Raises:
            BrokerError: with ends, no position advanced for STALL_SECONDS; the text names the partitions.
        """
        self._consumer.assign(list(self.begin))
        for tp, first in self.begin.items():  # seek_to_beginning() can lose a race against the reset that assign() starts
            self._consumer.seek(tp, first)
        advanced_at = self._now()
        while pending := self.pending():
            before = self.passed
            batches = await self._consumer.getmany(*pending, timeout_ms=POLL_MS, max_records=max_records)
            for tp in pending:
                self.position[tp] = await self._consumer.position(tp)
            stuck = self.passed == before
            if stuck and self.end is not None and self._now() - advanced_at > STALL_SECONDS:
                raise BrokerError(self._stalled(pending, self.end))
            yield batches
            if not stuck:
                advanced_at = self._now()  # after the caller's work on the batch, which is no stall

    def _stalled(self, pending: Iterable[TopicPartition], end: Mapping[TopicPartition, int]) -> str:
        behind = ", ".join(f"{tp.topic}/{tp.partition} (offset {self.position[tp]}, end {end[tp]})" for tp in pending)
        return (
            f"read no record for {STALL_SECONDS:g} s, although these are not at their end: {behind}; a transaction may be open "
            "or a broker down: check the leaders of these partitions, then try again"
        )

    async def records(self) -> AsyncIterator[ConsumerRecord]:
        """Yield the records one by one, each partition in offset order."""
        async for batches in self.batches():
            for batch in batches.values():
                for record in batch:
                    yield record

    def within(self, record: ConsumerRecord) -> bool:
        """Return whether a record is before its partition's end; always true without ends."""
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
        """Count the offsets from `begin` to `end`; 0 without ends."""
        return 0 if self.end is None else sum(max(0, self.end[tp] - first) for tp, first in self.begin.items())


async def open_reader(
    consumer: AIOKafkaConsumer, tps: Iterable[TopicPartition], end: Mapping[TopicPartition, int] | None = None
) -> TopicReader:
    """Return a reader from each partition's oldest record to `end`, by default the current end."""
    partitions = list(tps)
    if not partitions:
        return TopicReader(consumer, {}, {})
    begin = await consumer.beginning_offsets(partitions)
    if end is None:
        end = await consumer.end_offsets(partitions)
    return TopicReader(consumer, begin, {tp: end[tp] for tp in partitions})
