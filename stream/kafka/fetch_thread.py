"""Run Faust's fetch thread: fetch with a short wait, seek without losing a fetch in flight, and report join errors.

aiokafka's consumer lives in this thread. The methods without an underscore are called from the event loop of the app, and run
the others in the thread. Start at ConsumerThread.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog
from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.errors import CommitFailedError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver

FETCH_WAIT_MS = 50
UNKNOWN_OFFSET = -1  # the broker's response for a partition without a committed offset

log = structlog.get_logger()


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust has no types
    """Run Faust's fetch thread with a short fetch wait, and read_committed where transactions are enabled."""

    _fetch: asyncio.Future[Any] | None = None
    _stopped_fetch: asyncio.Future[Any] | None = None

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        if self.app.transactions:
            consumer._isolation_level = "read_committed"
        return consumer

    async def on_start(self) -> None:
        """Start the consumer, and tell its coordinator whether a planned stop leaves the group."""
        await super().on_start()
        self._consumer._coordinator.leave_on_stop = self.app.settings.leave_on_stop

    async def _fetch_records(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch nothing during a seek: records from the new position would be dropped with those from the old one."""
        if self.consumer.seeking:
            return {}
        fetch = self._fetch = asyncio.ensure_future(super()._fetch_records(*args, **kwargs))
        try:
            return await fetch
        except asyncio.CancelledError:
            if self._stopped_fetch is not fetch:
                raise
            return {}

    async def stop_fetch(self) -> None:
        """End a fetch that still waits for records, before a seek."""
        self._ensure_consumer()
        await self.call_thread(self._stop_fetch)

    async def _stop_fetch(self) -> None:
        if self._fetch is not None:
            self._stopped_fetch = self._fetch
            self._fetch.cancel()

    async def committed(self) -> dict[Any, int | None]:
        """Fetch the group's offsets of all assigned source partitions in one request; None where none is committed."""
        self._ensure_consumer()
        found: dict[Any, int | None] = await self.call_thread(self._committed_now)
        return found

    async def _committed_now(self) -> dict[Any, int | None]:
        consumer = self._ensure_consumer()
        sources = self.app.alignment.topics()
        assigned = [tp for tp in consumer.assignment() if tp.topic in sources]
        found = await consumer._coordinator.fetch_committed_offsets(assigned)
        return {tp: self._usable(tp, found[tp]) if tp in found else None for tp in assigned}

    def _usable(self, tp: Any, committed: OffsetAndMetadata) -> int | None:
        """Return a committed offset, or None if there is none or it was committed for a topic that was recreated since."""
        topic_id = self.app.watch.ids.get(tp.topic)
        if committed.metadata and topic_id and committed.metadata != topic_id:
            log.warning(
                "group_offset_of_deleted_topic",
                topic=tp.topic,
                partition=tp.partition,
                offset=committed.offset,
                action="the topic was recreated since: reading begins at its first record",
            )
            return None
        offset: int = committed.offset
        return offset if offset != UNKNOWN_OFFSET else None

    async def _commit(self, offsets: Mapping[Any, int]) -> bool:
        """Commit offsets with the id of their topic as metadata; Faust commits them without."""
        consumer, ids = self._ensure_consumer(), self.app.watch.ids
        assigned = self.assignment()
        try:
            await consumer.commit(
                {
                    TopicPartition(*tp): OffsetAndMetadata(offset, ids.get(tp.topic, ""))
                    for tp, offset in offsets.items()
                    if tp in assigned
                }
            )
        except CommitFailedError as error:
            if "already rebalanced" not in str(error):
                await self.crash(error)
            return False
        except Exception as error:  # the top of a service: the app ends with it
            await self.crash(error)
            return False
        return True

    async def seek_all(self, positions: Mapping[Any, int | None], *, reset: bool, epoch: int) -> None:
        """Seek every partition to its position, or to its beginning if that is None; a later seek makes this one do nothing.

        Without `reset`, a position that retention has deleted raises an error from now on. `epoch` is that of the alignment
        when this seek began.
        """
        await self.call_thread(self._seek_all, positions, reset, epoch)

    async def _seek_all(self, positions: Mapping[Any, int | None], reset: bool, epoch: int) -> None:
        consumer = self._ensure_consumer()
        unset = [tp for tp, offset in positions.items() if offset is None]
        first = await consumer.beginning_offsets(unset) if unset else {}
        if self.app.alignment.epoch != epoch:
            return
        for tp, offset in positions.items():
            consumer.seek(tp, first[tp] if offset is None else offset)
        if not reset:
            consumer._fetcher._default_reset_strategy = OffsetResetStrategy.NONE

    async def group_error(self) -> KafkaError | None:
        """Return the error of the last join, or None; aiokafka joins again only after this call."""
        found: KafkaError | None = await self.call_thread(self._group_error)
        return found

    async def _group_error(self) -> KafkaError | None:
        try:
            if self._consumer is not None:
                self._consumer._coordinator.check_errors()
        except KafkaError as error:
            return error
        return None

    async def permit_reset(self) -> None:
        """Start partitions without a committed offset at the earliest record, from the next assignment on."""
        await self.call_thread(self._permit_reset)

    async def _permit_reset(self) -> None:
        self._ensure_consumer()._fetcher._default_reset_strategy = OffsetResetStrategy.EARLIEST
