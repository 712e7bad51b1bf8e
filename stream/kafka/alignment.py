"""Records of several topics, as fetched → the records of each partition in one order of time.

Records of partition p of all aligned topics are merged by record timestamp, then topic, then offset, and released once
no topic can still bring an earlier one: a topic with more on the broker bounds what may pass, one read to its end bounds
nothing, so live traffic passes at once. Knows neither Faust nor shops. Start at Alignment.release.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import structlog
from msgspec import Struct

from stream.fold.ordering import first_key_of, merged, order_keys, time_of

STAND_STILL_SECONDS = 3.0  # fetches are asked for at least once a second


log = structlog.get_logger()


class TopicPartition(NamedTuple):
    """A partition of a topic; compares equal to Faust's and aiokafka's."""

    topic: str
    partition: int


class Chunk(Struct, frozen=True):
    """Records in the order to fold them: of one partition number and one or more topics.

    Where a role limits its chunks in work, a chunk of an unaligned topic holds records of all its partitions.
    `starts` and `ends` give per topic partition the offset after the chunk released before, and after this one; `times`
    the timestamp of its last record.
    """

    records: Sequence[Any]
    starts: dict[TopicPartition, int]
    ends: dict[TopicPartition, int]
    size_bytes: int
    times: dict[TopicPartition, int] = {}


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds in records per chunk and per buffered partition, and in seconds.

    `idle_seconds` is how long a topic read to its end still bounds the others while it catches up (Kafka Streams'
    max.task.idle.ms); `timeout_seconds` how long a topic that has more but brings nothing may hold its group.
    """

    chunk_records: int
    buffer_records: int
    idle_seconds: float = 0.0
    timeout_seconds: float = 30.0


class Alignment:
    """The buffers of all partitions; `order` ranks the aligned topics, `unaligned` topics pass through at once."""

    def __init__(
        self,
        order: Mapping[str, int],
        unaligned: Iterable[str],
        limits: Limits,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty."""
        self._order, self._unaligned, self._limits, self._now = dict(order), frozenset(unaligned), limits, monotonic
        self._buffers: dict[int, dict[TopicPartition, list[tuple[int, Any]]]] = {}
        self._passing: dict[TopicPartition, list[Any]] = {}
        self._reached: dict[TopicPartition, int] = {}
        self._arrived: dict[TopicPartition, float] = {}
        self._filled: dict[int, float] = {}  # when a partition's buffers were last all empty
        self._released: dict[TopicPartition, int] = {}
        self._given_up: set[TopicPartition] = set()
        self._rested: dict[TopicPartition, float] = {}  # when a partition was last left out of the fetch
        self._fetching: Collection[TopicPartition] | None = None  # None is all of them
        self._since = self._asked = self._now()
        self._epoch = 0
        self.unreachable = 0  # times a partition that brought nothing no longer held its group
        self.chunks = 0  # released so far

    def clear(self) -> None:
        """Forget everything: the consumer was sent to another position."""
        for state in (self._buffers, self._passing, self._reached, self._arrived, self._filled, self._released):
            state.clear()
        self._given_up.clear()
        self._rested.clear()
        self._since = self._now()
        self._epoch += 1

    def topics(self) -> frozenset[str]:
        """Return the topics that arrive as chunks."""
        return frozenset(self._order) | self._unaligned

    def fetching(self, partitions: Collection[TopicPartition]) -> None:
        """Note what is asked for from now on: a partition that nobody asks for is not unreachable."""
        self._fetching = partitions

    def full(self) -> set[TopicPartition]:
        """Return the partitions that should not be fetched until some of their records have passed."""
        limit = self._limits.buffer_records
        aligned = {tp for group in self._buffers.values() for tp, buffer in group.items() if len(buffer) >= limit}
        return aligned | {tp for tp, records in self._passing.items() if len(records) >= limit}

    def waiting(self) -> bool:
        """Tell whether records wait for something other than a fetch: a turn, or topics to have been idle."""
        idle = self._limits.idle_seconds > 0 and any(buffer for group in self._buffers.values() for buffer in group.values())
        return idle or bool(self._passing)

    def holds(self, tp: TopicPartition) -> bool:
        """Tell whether fetched records of a partition wait here."""
        return bool(self._passing.get(tp) or self._buffers.get(tp.partition, {}).get(tp))

    def given_up(self) -> list[TopicPartition]:
        """Return the partitions that have more but bring nothing, so that the others go on without them."""
        return sorted(self._given_up)

    def skew_ms(self) -> dict[str, int]:
        """Return by aligned topic how far its newest fetched record lies behind the newest of its partition's topics.

        The largest over partitions; a topic that only rests, with nothing left to read, lies behind as well.
        """
        newest: dict[int, int] = {}
        for tp, at in self._reached.items():
            newest[tp.partition] = max(at, newest.get(tp.partition, at))
        skew = dict.fromkeys(self._order, 0)
        for tp, at in self._reached.items():
            skew[tp.topic] = max(skew[tp.topic], newest[tp.partition] - at)
        return skew

    def held(self) -> dict[str, int]:
        """Return by aligned topic how many fetched records wait for earlier ones of other topics."""
        held = dict.fromkeys(self._order, 0)
        for group in self._buffers.values():
            for tp, buffer in group.items():
                held[tp.topic] += len(buffer)
        return held

    def add(self, tp: TopicPartition, records: Sequence[Any]) -> None:
        """Take fetched records of one partition, in offset order."""
        now = self._now()
        self._stand_still(now)
        self._arrived[tp] = now
        if tp in self._given_up:
            self._given_up.discard(tp)
            log.info("reachable", topic=tp.topic, partition=tp.partition, fact="it brings records again")
        if tp not in self._released:
            self._released[tp] = records[0].offset
        rank = self._order.get(tp.topic)
        if rank is None:
            self._passing.setdefault(tp, []).extend(records)
            return
        group = self._buffers.setdefault(tp.partition, {})
        if not any(group.values()):
            self._filled[tp.partition] = now
        buffer = group.setdefault(tp, [])
        reached = self._reached.get(tp, -1)
        times = [record.timestamp for record in records]
        keys = order_keys(times, rank, reached_ms=reached)
        buffer.extend(zip(keys, records, strict=True))
        self._reached[tp] = time_of(keys[-1])

    def release(
        self,
        assigned: Iterable[TopicPartition],
        ended: Callable[[TopicPartition], bool],
        *,
        unaligned_chunks: int | None = None,
    ) -> Iterator[Chunk]:
        """Yield what may pass now, as chunks; `ended` tells whether a partition is read to its end.

        At most `unaligned_chunks` chunks of unaligned topics pass, of all partitions together: what waits makes the
        next chunk larger.
        Whoever iterates may wait between two chunks; a clear() in that time ends the iteration.
        """
        epoch, size = self._epoch, self._limits.chunk_records
        for records in self._passable(list(assigned), ended, unaligned_chunks):
            for first in range(0, len(records), size):
                if epoch != self._epoch:
                    return
                yield self._chunk(records[first : first + size])

    def _passable(
        self, assigned: list[TopicPartition], ended: Callable[[TopicPartition], bool], unaligned_chunks: int | None
    ) -> list[list[Any]]:
        """Take what may pass out of the buffers, each list in order."""
        taken = self._take_unaligned(unaligned_chunks)
        bounds: dict[int, int | None] = {n: None for n, group in self._buffers.items() if any(group.values())}
        now = self._now()
        self._stand_still(now)
        for tp in assigned:
            if self._fetching is not None and tp not in self._fetching:
                self._rested[tp] = now
            if tp.partition in bounds and tp.topic in self._order and not self._passed(tp, ended(tp), now):
                bound, least = self._bound(tp), bounds[tp.partition]
                bounds[tp.partition] = bound if least is None else min(bound, least)
        return taken + [self._take(partition, bound_ms) for partition, bound_ms in bounds.items()]

    def _take_unaligned(self, chunks: int | None) -> list[list[Any]]:
        """Take what waits of unaligned topics: all of it, or what fits into so many chunks, of all partitions together."""
        if chunks is None:
            passing, self._passing = self._passing, {}
            return list(passing.values())
        room, taken = chunks * self._limits.chunk_records, list[Any]()
        for tp, records in list(self._passing.items()):
            part = records[: room - len(taken)]
            if not part:
                break
            taken += part
            del self._passing[tp]
            if len(part) < len(records):
                self._passing[tp] = records[len(part) :]  # behind the other partitions
        return [taken] if taken else []

    def _bound(self, tp: TopicPartition) -> int:
        """Return the time before which this partition brings nothing more; a full buffer lets its newest time pass."""
        return self._reached.get(tp, -1) + (1 if self._is_full(tp) else 0)

    def _is_full(self, tp: TopicPartition) -> bool:
        return len(self._buffers.get(tp.partition, {}).get(tp, ())) >= self._limits.buffer_records

    def _stand_still(self, now: float) -> None:
        """Leave out of all waiting times a time in which nothing was fetched, because the role was busy."""
        away = now - self._asked
        self._asked = now
        if away > STAND_STILL_SECONDS:
            self._since += away
            self._arrived = {tp: at + away for tp, at in self._arrived.items()}
            self._filled = {number: at + away for number, at in self._filled.items()}

    def _passed(self, tp: TopicPartition, ended: bool, now: float) -> bool:
        """Tell whether a partition bounds nothing: read to its end and idle, or unreachable for too long."""
        arrived = self._arrived.get(tp, self._since)
        if ended:  # idle is counted from when the others began to wait for it
            return now - max(arrived, self._filled.get(tp.partition, arrived)) >= self._limits.idle_seconds
        quiet = now - max(arrived, self._rested.get(tp, arrived))
        unreachable = quiet >= self._limits.timeout_seconds and not self._is_full(tp)
        if unreachable and tp not in self._given_up:
            self._given_up.add(tp)
            self.unreachable += 1
            log.warning("unreachable", topic=tp.topic, partition=tp.partition, action="the others go on without it")
        return unreachable

    def _take(self, partition: int, bound_ms: int | None) -> list[Any]:
        """Take the records before `bound_ms` (all without one) out of a partition's buffers, merged."""
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
