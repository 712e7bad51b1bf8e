"""Order records of several topics by the time they arrived, then topic, then offset.

Live alignment, replays and datasets sort by the same keys, so that a replay can repeat the order of a live run. Start at
ArrivalTimes and aligned.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from operator import attrgetter, itemgetter
from statistics import median_low
from typing import TypeVar

from models.features.spec import KINDS
from schemas.errors import LogError
from schemas.time_units import MINUTE_MS
from stream.logs.event_log import LoggedEvent

T = TypeVar("T")

AHEAD_MS = 5 * MINUTE_MS  # an advance of a partition's time beyond this needs the records after it to confirm it
CONFIRMING = 7  # records: most of so many must confirm
RANK_BITS = 8  # for at most 256 topics of a role
RANKS: dict[str, int] = {kind: rank for rank, kind in enumerate(KINDS)}


class ArrivalTimes:
    """Tell from the timestamps of one topic partition, in offset order, when its records arrived.

    No record arrived before one of a lower offset: the arrival time is the running maximum of the timestamps. A timestamp
    more than AHEAD_MS above the maximum raises it only if most of the next CONFIRMING timestamps are not that far below it.
    Otherwise a producer's clock ran ahead, and the record arrived with the earliest of them.
    """

    __slots__ = ("_settled_ms", "_unsettled", "bound_ms")

    def __init__(self) -> None:
        """Start before the first record."""
        self._settled_ms = -1  # arrival time of the newest record that later ones cannot change
        self._unsettled: list[int] = []  # timestamps after it
        self.bound_ms = -1  # no record that is not added yet arrived before this

    @property
    def unsettled(self) -> int:
        """Count the newest records whose arrival times the next add() may change."""
        return len(self._unsettled)

    def add(self, timestamps: Sequence[int]) -> list[int]:
        """Return the arrival times of the `unsettled` records so far, and after them of the new ones."""
        times = [*self._unsettled, *timestamps]
        settled_ms = self._settled_ms
        arrivals = times
        if times and (times[0] < settled_ms or times != sorted(times)):  # else each timestamp is its own arrival time
            arrivals = _arrivals(times, settled_ms)
        if len(times) > CONFIRMING:
            self._settled_ms = arrivals[-CONFIRMING - 1]
        self._unsettled = times[-CONFIRMING:]
        self.bound_ms = self._bound(arrivals)
        return arrivals

    def _bound(self, arrivals: list[int]) -> int:
        """Return the newest arrival time before the first advance that is not confirmed yet."""
        bound = self._settled_ms
        if arrivals and arrivals[-1] <= bound + AHEAD_MS:
            return arrivals[-1]
        for at in arrivals[-CONFIRMING:]:
            if at > bound + AHEAD_MS:
                break
            bound = at
        return bound


def _arrivals(times: list[int], reached_ms: int) -> list[int]:
    """Return the arrival times of records after one that arrived at `reached_ms`."""
    arrivals = []
    for place, at in enumerate(times, start=1):
        if at > reached_ms + AHEAD_MS:
            following = times[place : place + CONFIRMING]
            if following and median_low(following) < at - AHEAD_MS:
                at = min(following)
        if at > reached_ms:
            reached_ms = at
        arrivals.append(reached_ms)
    return arrivals


def order_key(time_ms: int, rank: int) -> int:
    """Return the sort key of a record: its arrival time, then its topic's rank among the role's topics."""
    return time_ms << RANK_BITS | rank


def order_keys(times_ms: Sequence[int], rank: int) -> list[int]:
    """Return the sort keys of one topic's records."""
    return [at << RANK_BITS | rank for at in times_ms]  # order_key inlined: this runs once per record


def first_key_of(time_ms: int) -> int:
    """Return the smallest key of an arrival time: all records below it are older, in every topic."""
    return time_ms << RANK_BITS


def time_of(key: int) -> int:
    """Return the arrival time in a sort key."""
    return key >> RANK_BITS


def merged(runs: Sequence[Sequence[tuple[int, T]]]) -> list[T]:
    """Merge sorted runs of (key, record); equal keys belong to one topic and keep their order."""
    if len(runs) == 1:
        return [record for _, record in runs[0]]
    entries = [entry for run in runs for entry in run]
    entries.sort(key=itemgetter(0))
    return [record for _, record in entries]


def aligned(events: Iterable[LoggedEvent]) -> Iterator[LoggedEvent]:
    """Yield events in the order in which a live role folds them.

    The recorded events of a list may have any order; they are sorted in memory. Any other iterable is read once and must
    give each partition in offset order, and all of them by arrival time, as log_order.in_fold_order reads a log. Events
    without offsets keep their order, except that the topic decides between equal timestamps.

    Raises:
        LogError: an iterable that is no list goes back in a partition.
    """
    if isinstance(events, Sequence) and any(event.offset is not None for event in events):
        return _sorted(events)
    return by_topic(_ascending(events))


def by_topic(events: Iterable[tuple[int, LoggedEvent]]) -> Iterator[LoggedEvent]:
    """Order events with equal arrival times by topic; each comes with its arrival time."""
    same_time, time_ms = list[LoggedEvent](), -1
    for at, event in events:
        if at == time_ms:
            same_time.append(event)
            continue
        if len(same_time) > 1:
            same_time.sort(key=_rank)
        yield from same_time
        same_time, time_ms = [event], at
    yield from sorted(same_time, key=_rank)


def _rank(event: LoggedEvent) -> int:
    return RANKS[event.kind]


def _sorted(events: Sequence[LoggedEvent]) -> Iterator[LoggedEvent]:
    """Sort the recorded events of a list, and merge the others into them in the order given."""
    partitions: dict[tuple[str, int], list[LoggedEvent]] = defaultdict(list)
    others = []
    for event in events:
        if event.partition is None or event.offset is None:
            others.append((event.record_ms, event))
        else:
            partitions[event.kind, event.partition].append(event)
    runs = []
    for (kind, _), found in sorted(partitions.items()):
        found.sort(key=attrgetter("offset"))
        arrivals = ArrivalTimes().add([event.record_ms for event in found])
        runs.append(list(zip(order_keys(arrivals, RANKS[kind]), found, strict=True)))
    given = ((order_key(event.record_ms, RANKS[event.kind]), event) for event in by_topic(others))
    return (event for _, event in merge(given, *runs, key=itemgetter(0)))


def _ascending(events: Iterable[LoggedEvent]) -> Iterator[tuple[int, LoggedEvent]]:
    """Add to each event the running maximum of its partition's timestamps; refuse offsets that go back."""
    reached: dict[tuple[str, int], tuple[int, int]] = {}  # (kind, partition) → offset, time
    for event in events:
        at, partition, offset = event.record_ms, event.partition, event.offset
        if partition is not None and offset is not None:
            last, reached_ms = reached.get((event.kind, partition), (-1, at))
            if offset < last:
                raise LogError(
                    f"found offset {offset} of {event.kind}/{partition} after {last}, expected a partition's events in the "
                    "order of their offsets: give a list or a log"
                )
            at = max(at, reached_ms)
            reached[event.kind, partition] = offset, at
        yield at, event
