"""Merge the fetched records of several topics into one stream per partition number, ordered by time.

The order is arrival time (ordering.ArrivalTimes), then topic, then offset. A record is released once no topic can still
deliver an earlier one. By default, only a topic with unread records on the broker holds the others back, so live traffic is
released at once. This module knows neither Faust nor shops. Start at Alignment.release.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import structlog
from msgspec import Struct

from stream.fold.ordering import ArrivalTimes, first_key_of, merged, order_keys, time_of

PAUSE_SECONDS = 3.0  # while the role is not busy, it fetches at least once a second

log = structlog.get_logger()


class TopicPartition(NamedTuple):
    """Name one partition of a topic; compares equal to Faust's and aiokafka's type."""

    topic: str
    partition: int


class Chunk(Struct, frozen=True):
    """Records of one partition number and one or more topics, in the order to fold them.

    If the role limits its chunks in flight, a chunk of an unaligned topic holds records of all its partitions.
    Per topic partition, `starts` is the offset at which the previous chunk ended, and `ends` the one at which this chunk
    ends. `times` is the timestamp of its last record.
    """

    records: Sequence[Any]
    starts: dict[TopicPartition, int]
    ends: dict[TopicPartition, int]
    size_bytes: int
    times: dict[TopicPartition, int] = {}


class Limits(Struct, frozen=True, kw_only=True):
    """Limits in records per chunk, in records per buffered partition, and in seconds.

    `idle_seconds` is how long a topic that is read to its end still holds the others back, as max.task.idle.ms of Kafka
    Streams does. `timeout_seconds` is how long a topic may do so with unread records but no deliveries.
    """

    chunk_records: int
    buffer_records: int
    idle_seconds: float = 0.0
    timeout_seconds: float = 30.0


class Alignment:
    """Buffer all partitions. `order` ranks the aligned topics; records of `unaligned` topics are released at once."""

    def __init__(
        self,
        order: Mapping[str, int],
        unaligned: Iterable[str],
        limits: Limits,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with empty buffers."""
        self._order, self._unaligned, self._limits, self._now = dict(order), frozenset(unaligned), limits, monotonic
        self._buffers: dict[int, dict[TopicPartition, list[tuple[int, Any]]]] = {}
        self._unaligned_buffers: dict[TopicPartition, list[Any]] = {}
        self._times: dict[TopicPartition, ArrivalTimes] = {}
        self._newest_ms: dict[TopicPartition, int] = {}
        self._arrived_at: dict[TopicPartition, float] = {}
        self._waiting_since: dict[int, float] = {}  # when records last arrived in empty buffers, by partition number
        self._released: dict[TopicPartition, int] = {}
        self._unreachable: set[TopicPartition] = set()
        self._unfetched_at: dict[TopicPartition, float] = {}  # when a partition was last not part of the fetch
        self._on_hold: frozenset[TopicPartition] = frozenset()
        self._fetching: Collection[TopicPartition] | None = None  # None means all
        self._started = self._last_call = self._now()
        self.epoch = 0  # counts clear() calls
        self.unreachable = 0  # times a silent partition no longer held the others back
        self.chunks = 0  # released so far

    def clear(self) -> None:
        """Empty all buffers, because the consumer seeks to other positions."""
        for state in (
            self._buffers,
            self._unaligned_buffers,
            self._times,
            self._newest_ms,
            self._arrived_at,
            self._waiting_since,
            self._released,
        ):
            state.clear()
        self._unreachable.clear()
        self._unfetched_at.clear()
        self._on_hold = frozenset()
        self._started = self._now()
        self.epoch += 1

    def resume_at(self, positions: Mapping[TopicPartition, int | None]) -> int:
        """Record the position of each partition before the first fetch after a clear(); return the epoch of the next fetch."""
        for tp, offset in positions.items():
            if offset is not None:
                self._released.setdefault(TopicPartition(*tp), offset)
        return self.epoch

    def topics(self) -> frozenset[str]:
        """Return the topics that arrive as chunks."""
        return frozenset(self._order) | self._unaligned

    def fetching(self, partitions: Collection[TopicPartition]) -> None:
        """Record which partitions are fetched from now on; the others never count as unreachable."""
        self._fetching = partitions

    def full(self) -> set[TopicPartition]:
        """Return the partitions with a full buffer: fetch them again once some of their records are released."""
        limit = self._limits.buffer_records
        aligned = {tp for group in self._buffers.values() for tp, buffer in group.items() if len(buffer) >= limit}
        return aligned | {tp for tp, records in self._unaligned_buffers.items() if len(records) >= limit}

    def waiting(self) -> bool:
        """Return whether buffered records can be released without another fetch: by idle time, or by a free chunk."""
        idle = self._limits.idle_seconds > 0 and any(buffer for group in self._buffers.values() for buffer in group.values())
        return idle or bool(self._unaligned_buffers.keys() - self._on_hold)

    def hold(self, partitions: Collection[TopicPartition]) -> None:
        """Release no records of these partitions of unaligned topics from now on, only of the others."""
        self._on_hold = frozenset(partitions)

    def holds(self, tp: TopicPartition) -> bool:
        """Return whether fetched records of a partition are buffered."""
        return bool(self._unaligned_buffers.get(tp) or self._buffers.get(tp.partition, {}).get(tp))

    def unreachable_partitions(self) -> list[TopicPartition]:
        """Return the partitions that have unread records but deliver none, and no longer hold the others back."""
        return sorted(self._unreachable)

    def skew_ms(self) -> dict[str, int]:
        """Return how far each aligned topic's newest fetched record is behind the newest record of the same partition.

        The value is the largest over all partitions. It also grows for an idle topic that has nothing left to read.
        """
        newest: dict[int, int] = {}
        for tp, at in self._newest_ms.items():
            newest[tp.partition] = max(at, newest.get(tp.partition, at))
        skew = dict.fromkeys(self._order, 0)
        for tp, at in self._newest_ms.items():
            skew[tp.topic] = max(skew[tp.topic], newest[tp.partition] - at)
        return skew

    def held(self) -> dict[str, int]:
        """Count by aligned topic the fetched records that wait for earlier records of other topics."""
        held = dict.fromkeys(self._order, 0)
        for group in self._buffers.values():
            for tp, buffer in group.items():
                held[tp.topic] += len(buffer)
        return held

    def add(self, tp: TopicPartition, records: Sequence[Any]) -> None:
        """Buffer fetched records of one partition, in offset order."""
        now = self._now()
        self._skip_pause(now)
        self._arrived_at[tp] = now
        if tp in self._unreachable:
            self._unreachable.discard(tp)
            log.info(
                "partition_reachable",
                topic=tp.topic,
                partition=tp.partition,
                action="nothing to do: its partition number is read in order of time across all topics again",
            )
        self._released.setdefault(tp, records[0].offset)
        rank = self._order.get(tp.topic)
        if rank is None:
            self._unaligned_buffers.setdefault(tp, []).extend(records)
            return
        group = self._buffers.setdefault(tp.partition, {})
        if not any(group.values()):
            self._waiting_since[tp.partition] = now
        buffer = group.setdefault(tp, [])
        arrivals = self._times.setdefault(tp, ArrivalTimes()).add([record.timestamp for record in records])
        if changed := min(len(arrivals) - len(records), len(buffer)):  # arrival times that these records changed
            records = [*(record for _, record in buffer[-changed:]), *records]
            del buffer[-changed:]
        buffer.extend(zip(order_keys(arrivals[-len(records) :], rank), records, strict=True))
        self._newest_ms[tp] = arrivals[-1]

    def release(
        self,
        assigned: Iterable[TopicPartition],
        ended: Callable[[TopicPartition], bool],
        *,
        unaligned_chunks: int | None = None,
    ) -> Iterator[Chunk]:
        """Yield the records that can be released now, as chunks; `ended` returns whether a partition is read to its end.

        Yields at most `unaligned_chunks` chunks of unaligned topics, over all partitions; waiting records make the next
        chunk larger. The caller may pause between two chunks; a clear() during the pause ends the iteration.
        """
        epoch, size = self.epoch, self._limits.chunk_records
        for records in self._releasable(list(assigned), ended, unaligned_chunks):
            for first in range(0, len(records), size):
                if epoch != self.epoch:
                    return
                yield self._chunk(records[first : first + size])

    def _releasable(
        self, assigned: list[TopicPartition], ended: Callable[[TopicPartition], bool], unaligned_chunks: int | None
    ) -> list[list[Any]]:
        """Remove the records that can be released from the buffers; each list is in order."""
        taken = self._take_unaligned(unaligned_chunks)
        bounds: dict[int, int | None] = {n: None for n, group in self._buffers.items() if any(group.values())}
        now = self._now()
        self._skip_pause(now)
        for tp in assigned:
            if self._fetching is not None and tp not in self._fetching:
                self._unfetched_at[tp] = now
            if tp.partition in bounds and tp.topic in self._order and not self._is_exempt(tp, ended(tp), now):
                bound, least = self._bound(tp), bounds[tp.partition]
                bounds[tp.partition] = bound if least is None else min(bound, least)
        return taken + [self._take(partition, bound_ms) for partition, bound_ms in bounds.items()]

    def _take_unaligned(self, chunks: int | None) -> list[list[Any]]:
        """Remove buffered records of unaligned topics: all, or at most as many as fit into `chunks` chunks."""
        if chunks is None:
            free = [tp for tp in self._unaligned_buffers if tp not in self._on_hold]
            return [self._unaligned_buffers.pop(tp) for tp in free]
        room, taken = chunks * self._limits.chunk_records, list[Any]()
        for tp, records in list(self._unaligned_buffers.items()):
            if tp in self._on_hold:
                continue
            part = records[: room - len(taken)]
            if not part:
                break
            taken += part
            del self._unaligned_buffers[tp]
            if len(part) < len(records):
                self._unaligned_buffers[tp] = records[len(part) :]  # last in the dictionary: the other partitions are next
        return [taken] if taken else []

    def _bound(self, tp: TopicPartition) -> int:
        """Return the time before which this partition delivers no more records.

        A full buffer releases this time too, and at least its first record, so that fetching goes on.
        """
        bound_ms = self._times[tp].bound_ms if tp in self._times else -1
        if self._is_full(tp):
            return max(bound_ms, time_of(self._buffers[tp.partition][tp][0][0])) + 1
        return bound_ms

    def _is_full(self, tp: TopicPartition) -> bool:
        return len(self._buffers.get(tp.partition, {}).get(tp, ())) >= self._limits.buffer_records

    def _skip_pause(self, now: float) -> None:
        """Subtract from all waiting times a pause in which nothing was fetched, because the role was busy."""
        pause = now - self._last_call
        self._last_call = now
        if pause > PAUSE_SECONDS:
            self._started += pause
            self._arrived_at = {tp: at + pause for tp, at in self._arrived_at.items()}
            self._waiting_since = {number: at + pause for number, at in self._waiting_since.items()}

    def _is_exempt(self, tp: TopicPartition, ended: bool, now: float) -> bool:
        """Return whether the others need not wait for a partition: it is read to its end and idle, or unreachable."""
        arrived = self._arrived_at.get(tp, self._started)
        if ended:  # idle time counts from when the others began to wait for it
            return now - max(arrived, self._waiting_since.get(tp.partition, arrived)) >= self._limits.idle_seconds
        quiet = now - max(arrived, self._unfetched_at.get(tp, arrived))
        unreachable = quiet >= self._limits.timeout_seconds and not self._is_full(tp)
        if unreachable and tp not in self._unreachable:
            self._unreachable.add(tp)
            self.unreachable += 1
            log.warning(
                "partition_unreachable",
                topic=tp.topic,
                partition=tp.partition,
                seconds_without_records=round(quiet),
                action="other topics no longer wait for it; check the partition's leader",
            )
        return unreachable

    def _take(self, partition: int, bound_ms: int | None) -> list[Any]:
        """Remove the records before `bound_ms` from a partition's buffers and merge them; None removes all."""
        group, taken = self._buffers[partition], []
        for tp, buffer in group.items():
            n = len(buffer) if bound_ms is None else bisect_left(buffer, first_key_of(bound_ms), key=itemgetter(0))
            if n:
                taken.append(buffer[:n])
                group[tp] = buffer[n:]
        return merged(taken)

    def _chunk(self, records: list[Any]) -> Chunk:
        self.chunks += 1
        last = {TopicPartition(*tp): record for tp, record in {(r.topic, r.partition): r for r in records}.items()}
        ends = {tp: record.offset + 1 for tp, record in last.items()}
        starts = {tp: self._released[tp] for tp in ends}
        self._released.update(ends)
        size_bytes = sum([len(record.value or b"") for record in records])
        return Chunk(records, starts, ends, size_bytes, {tp: record.timestamp for tp, record in last.items()})
