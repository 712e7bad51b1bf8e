"""The order in which records of several topics are folded: by record timestamp, then topic, then offset.

Live alignment sorts by order_keys; a replay puts a log into the same order. Start at order_keys and aligned.
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

DISORDER_MS = 600_000  # how much earlier a record may be stamped than one before it in its partition and be put in its place
FAR_MS = 1 << 62
RANK_BITS = 8  # topics of a role
RANKS: dict[str, int] = {kind: rank for rank, kind in enumerate(KINDS)}


def order_key(time_ms: int, rank: int) -> int:
    """Return the number by which records are merged: by time, then by the topic's place among the role's topics."""
    return time_ms << RANK_BITS | rank


def order_keys(times_ms: Sequence[int], rank: int, *, reached_ms: int = -1) -> list[int]:
    """Return the order keys of one partition's records, which are in offset order.

    A record never sorts before one of a lower offset: a timestamp below the largest so far (at first `reached_ms`) counts
    as the largest.
    """
    if times_ms and (times_ms[0] < reached_ms or list(times_ms) != sorted(times_ms)):
        times_ms = list(accumulate(times_ms, max, initial=reached_ms))[1:]
    return [at << RANK_BITS | rank for at in times_ms]  # order_key, written out: once per record


def first_key_of(time_ms: int) -> int:
    """Return the smallest key of a timestamp: records below it are older, whatever their topic."""
    return time_ms << RANK_BITS


def time_of(key: int) -> int:
    """Return the timestamp that a key sorts by."""
    return key >> RANK_BITS


def merged(runs: Sequence[Sequence[tuple[int, T]]]) -> list[T]:
    """Merge runs of (key, record), each sorted already; equal keys are of one topic and keep their order."""
    if len(runs) == 1:
        return [record for _, record in runs[0]]
    together = [entry for run in runs for entry in run]
    together.sort(key=itemgetter(0))
    return [record for _, record in together]


def aligned(events: Iterable[LoggedEvent]) -> Iterator[LoggedEvent]:
    """Order events of one arrival time by topic, as alignment does; offsets or a log's own order decide the rest."""
    for _, together in groupby(in_offset_order(events), key=lambda event: event.record_ms):
        yield from sorted(together, key=lambda event: order_key(event.record_ms, RANKS[event.kind]))


def in_offset_order(events: Iterable[LoggedEvent]) -> Iterator[LoggedEvent]:
    """Put recorded events of each partition in the order of their offsets, which producers' clocks need not follow.

    An event waits for those before it, but no longer than DISORDER_MS of log time: offsets may be missing for good.
    """
    waiting: dict[tuple[str, int], list[tuple[int, int, LoggedEvent]]] = defaultdict(list)
    following: dict[tuple[str, int], int] = defaultdict(int)
    looked_ms = 0

    def released(place: tuple[str, int], stamped_before_ms: int) -> Iterator[LoggedEvent]:
        heap = waiting[place]
        while heap and (heap[0][0] <= following[place] or heap[0][2].record_ms < stamped_before_ms):
            offset, _, event = heappop(heap)
            following[place] = offset + 1
            yield event

    for number, event in enumerate(events):
        if event.partition is None or event.offset is None:
            yield event
            continue
        place = (event.kind, event.partition)
        heappush(waiting[place], (event.offset, number, event))
        yield from released(place, -FAR_MS)
        if event.record_ms > looked_ms + DISORDER_MS // 10:
            looked_ms = event.record_ms
            for held in waiting:
                yield from released(held, event.record_ms - DISORDER_MS)
    for held in waiting:
        yield from released(held, FAR_MS)
