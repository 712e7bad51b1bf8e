"""Follow the changelogs of partitions that another worker owns, so that a takeover reads only what was written last.

A standby holds rows as bytes, reads only committed records, takes no transactional id and writes nothing. Start at
Standbys.follow.
"""

import asyncio
from collections.abc import Iterable

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from faust.assignor.partition_assignor import PartitionAssignor
from faust.types import TP
from msgspec import Struct

from stream.fold.rows import Rows
from stream.kafka.clients import plain_consumer
from stream.kafka.topic_reader import TopicReader
from stream.process.settings import Settings

RETRY_SECONDS = 1.0
FOLLOW_RECORDS = 5_000  # per batch: a standby leaves the event loop to the partitions that the worker owns

log = structlog.get_logger()


class Assignor(PartitionAssignor):  # type: ignore[misc]  # Faust has no types
    """Hide standby partitions from Faust, whose recovery would read them record by record; `followed` has them."""

    def assigned_standbys(self) -> set[TP]:
        """Return nothing: the row store follows its standbys itself."""
        return set()

    def followed(self) -> set[TP]:
        """Return the partitions that this worker is a standby of, in every topic."""
        found: set[TP] = super().assigned_standbys()
        return found


class Standby(Struct):
    """Hold the rows of a followed partition up to changelog offset `position`; `end` is the last known end offset."""

    rows: Rows
    position: int
    end: int


class Standbys:
    """Follow partitions of one changelog; `held` has what was read of each."""

    def __init__(self, settings: Settings, topic: str) -> None:
        """Follow nothing at first."""
        self._settings, self._topic = settings, topic
        self.held: dict[int, Standby] = {}
        self._task: asyncio.Task[None] | None = None

    def lag(self) -> int:
        """Return the changelog offsets not read yet, of all followed partitions."""
        return sum(max(0, standby.end - standby.position) for standby in self.held.values())

    async def keep(self, numbers: Iterable[int]) -> None:
        """Stop following, and drop the rows of all but these partitions."""
        await self.stop()
        self.held = {number: self.held[number] for number in numbers if number in self.held}

    def take(self, number: int) -> Standby | None:
        """Hand over the rows of a partition that this worker owns from now on; None if it was no standby."""
        return self.held.pop(number, None)

    def follow(self, numbers: Iterable[int]) -> None:
        """Follow these partitions, in the background, from where their rows end."""
        wanted = sorted(numbers)
        if wanted:
            log.info("standby", partitions=wanted, action="following the changelogs of partitions that another worker owns")
            self._task = asyncio.create_task(self._run(wanted))

    async def stop(self) -> None:
        """Stop following; the rows stay."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self, numbers: list[int]) -> None:
        while True:
            try:
                await self._follow(numbers)
            except (KafkaError, TimeoutError, OSError) as error:
                log.warning("standby_stalled", reason=repr(error), action=f"trying again in {RETRY_SECONDS:g} s")
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, numbers: list[int]) -> None:
        consumer = plain_consumer(self._settings)
        await consumer.start()
        try:
            tps = [TopicPartition(self._topic, number) for number in numbers]
            begin, end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            for tp in tps:
                standby = self.held.get(tp.partition)
                if standby is None or standby.position < begin[tp]:  # records were deleted unread: begin again
                    self.held[tp.partition] = Standby(Rows(), begin[tp], end[tp])
            reader = TopicReader(consumer, {tp: self.held[tp.partition].position for tp in tps}, None)
            async for batches in reader.batches(FOLLOW_RECORDS):
                for tp, batch in batches.items():
                    rows = self.held[tp.partition].rows
                    rows.load((record.key, record.value) for record in batch)
                    for key in [record.key for record in batch if record.value is None]:
                        if rows.get(key, b"") is None:
                            del rows[key]
                for tp in tps:
                    standby = self.held[tp.partition]
                    standby.position = reader.position[tp]
                    standby.end = max(standby.end, consumer.last_stable_offset(tp) or 0)
        finally:
            await consumer.stop()
