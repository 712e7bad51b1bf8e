"""Order records of several topics by record timestamp, then topic, then offset.

Live alignment and replay sort by the same keys, so that a replay can repeat the order of a live run. Start at order_keys
and aligned.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import accumulate, groupby
from operator import itemgetter
from typing import TypeVar

from models.features.spec import KINDS
from stream.logs.event_log import LoggedEvent

T = TypeVar("T")

DISORDER_MS = 600_000  # how far a record's timestamp may be behind earlier ones of its partition and still be reordered
FAR_MS = 1 << 62
RANK_BITS = 8  # for at most 256 topics of a role
RANKS: dict[str, int] = {kind: rank for rank, kind in enumerate(KINDS)}


def order_key(time_ms: int, rank: int) -> int:
    """Return the sort key of a record: its time, then its topic's rank among the role's topics."""
    return time_ms << RANK_BITS | rank


def order_keys(times_ms: Sequence[int], rank: int, *, reached_ms: int = -1) -> list[int]:
    """Return the sort keys of one partition's records, which are in offset order.

    A record never sorts before one of a lower offset: a timestamp below the largest so far (initially `reached_ms`) is
    replaced by the largest.
    """
    if times_ms and (times_ms[0] < reached_ms or list(times_ms) != sorted(times_ms)):
        times_ms = list(accumulate(times_ms, max, initial=reached_ms))[1:]
    return [at << RANK_BITS | rank for at in times_ms]  # order_key inlined: this runs once per record


def first_key_of(time_ms: int) -> int:
    """Return the smallest key of a timestamp: all records below it are older, in every topic."""
    return time_ms << RANK_BITS


def time_of(key: int) -> int:
    """Return the timestamp in a sort key."""
    return key >> RANK_BITS


def merged(runs: Sequence[Sequence[tuple[int, T]]]) -> list[T]:
    """Merge sorted runs of (key, record); equal keys belong to one topic and keep their order."""
    if len(runs) == 1:
        return [record for _, record in runs[0]]
    entries = [entry for run in runs for entry in run]
    entries.sort(key=itemgetter(0))
    return [record for _, record in entries]


def aligned(events: Iterable[LoggedEvent]) -> Iterator[LoggedEvent]:
    """Order events with equal record timestamps by topic, as alignment does; offsets or the log's order decide ties."""
    for _, same_time in groupby(in_offset_order(events), key=lambda event: event.record_ms):
        yield from sorted(same_time, key=lambda event: order_key(event.record_ms, RANKS[event.kind]))


def in_offset_order(events: Iterable[LoggedEvent]) -> Iterator[LoggedEvent]:
    """Reorder the recorded events of each partition by offset; timestamps from producers' clocks may be out of order.

    An event waits for lower offsets for at most DISORDER_MS of log time, because some offsets may never appear.
    """
    waiting: dict[tuple[str, int], list[tuple[int, int, LoggedEvent]]] = defaultdict(list)
    following: dict[tuple[str, int], int] = defaultdict(int)
    checked_ms = 0

    def released(partition: tuple[str, int], stamped_before_ms: int) -> Iterator[LoggedEvent]:
        heap = waiting[partition]
        while heap and (heap[0][0] <= following[partition] or heap[0][2].record_ms < stamped_before_ms):
            offset, _, event = heappop(heap)
            following[partition] = offset + 1
            yield event

    for number, event in enumerate(events):
        if event.partition is None or event.offset is None:
            yield event
            continue
        partition = (event.kind, event.partition)
        heappush(waiting[partition], (event.offset, number, event))
        yield from released(partition, -FAR_MS)
        if event.record_ms > checked_ms + DISORDER_MS // 10:
            checked_ms = event.record_ms
            for held in waiting:
                yield from released(held, event.record_ms - DISORDER_MS)
    for held in waiting:
        yield from released(held, FAR_MS)
