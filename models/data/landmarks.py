"""Draw landmarks (the times at which users are sampled) in the slices of a dataset, and choose which samples to keep.

Random landmarks are uniform over a slice and depend only on seed, user and slices. A seeded hash ranks the samples, and the
best ranked are kept. So the choice does not depend on the order of samples, and memory does not grow with the log. This
module knows neither features nor labels. Start at periods_of and SampleReservoir.
"""

import re
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import translate
from random import Random
from typing import Literal, NamedTuple

import xxhash
from msgspec import Struct

from models.data.examples import Purchases, Slice
from schemas.scoring import ScoreRequest

DEFAULT_SHARES = (0.5, 0.1, 0.15, 0.25)


class Period(Struct, frozen=True):
    """The time of one slice: from `start_ms`, inclusive, to `end_ms`, exclusive."""

    slice: Slice
    start_ms: int
    end_ms: int


class Sampling(Struct, frozen=True, kw_only=True):
    """How many samples to take per user and slice, and of which users.

    `landmarks` are random times, `at_events` are events that the live role would score; `max_examples` limits both. A slice
    with one of `cuts_ms` has samples of all users at its cuts and no others. `before_last_item` adds one sample per user
    and slice, without limit: just before the last item that followed another. `eligible` users are those seen, or those
    who bought something, by then. `users` are patterns of ids; users that match none are excluded entirely.
    """

    seed: int = 1
    landmarks: int = 4
    at_events: int = 4
    max_examples: int = 40_000
    cuts_ms: tuple[int, ...] = ()
    before_last_item: bool = False
    eligible: Literal["seen", "purchase"] = "seen"
    users: tuple[str, ...] = ()


class Sample(NamedTuple):
    """One sample: a user at a landmark, not yet labelled."""

    request: ScoreRequest
    landmark_ms: int
    slice: Slice
    purchases: Purchases


def periods_of(first_ms: int, ends_ms: Sequence[int], embargo_ms: int = 0) -> list[Period]:
    """Return the four periods that end at `ends_ms`; each but the first begins `embargo_ms` after the previous one.

    A slice that ends with the previous one is empty and adds no embargo.

    Raises:
        ValueError: the ends are not in order, the train or test slice is empty, or an embargo covers a whole slice.
    """
    if len(ends_ms) != len(Slice):
        raise ValueError(f"found {len(ends_ms)} ends of slices, expected {len(Slice)}, one each for {', '.join(Slice)}")
    if any(later < earlier for earlier, later in zip([first_ms, *ends_ms], ends_ms, strict=False)):
        order = ", ".join(map(to_the_minute, ends_ms))
        raise ValueError(
            f"found a log that starts at {to_the_minute(first_ms)} and slices that end at {order}, "
            "expected them in order of time: correct the dates"
        )
    periods: list[Period] = []
    start_ms = last_ms = first_ms
    for name, end_ms in zip(Slice, ends_ms, strict=True):
        if end_ms == last_ms:
            periods.append(Period(name, end_ms, end_ms))
            continue
        if start_ms >= end_ms:
            raise ValueError(
                f"found an embargo as long as slice {name} or longer, expected a shorter gap between slices or a longer slice"
            )
        periods.append(Period(name, start_ms, end_ms))
        last_ms, start_ms = end_ms, end_ms + embargo_ms
    if periods[0].start_ms == periods[0].end_ms or periods[-1].start_ms == periods[-1].end_ms:
        raise ValueError("found an empty train or test slice, expected a time span for both: choose other shares or dates")
    return periods


def period_at(periods: Sequence[Period], at_ms: int) -> Period | None:
    """Return the period that contains a time; None before the first, after the last, or in an embargo."""
    return next((period for period in periods if period.start_ms <= at_ms < period.end_ms), None)


def check_cuts(periods: Sequence[Period], cuts_ms: Sequence[int]) -> frozenset[Slice]:
    """Return the slices that are sampled at cuts alone.

    Raises:
        ValueError: a cut is in no slice.
    """
    found = set[Slice]()
    for cut_ms in cuts_ms:
        period = period_at(periods, cut_ms)
        if period is None:
            spans = ", ".join(f"{p.slice} {to_the_minute(p.start_ms)} to {to_the_minute(p.end_ms)}" for p in periods)
            at = to_the_minute(cut_ms)
            raise ValueError(f"found a cut at {at}, expected one inside a slice ({spans}): move the cut or the slices")
        found.add(period.slice)
    return frozenset(found)


def to_the_minute(at_ms: int) -> str:
    """Format a time for people, in UTC."""
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M}"


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return a predicate: does a user id match one of the patterns (`*`, `?`, `[…]`)? No patterns match every user."""
    found = re.compile("|".join(map(translate, patterns)))
    return (lambda user: found.match(user) is not None) if patterns else (lambda _: True)


def draw_landmarks(user: str, periods: Sequence[Period], sampling: Sampling) -> list[int]:
    """Draw a user's landmarks of all slices, in order of time; cuts replace random ones."""
    rng, by_cuts = Random(f"{sampling.seed}:{user}"), check_cuts(periods, sampling.cuts_ms)
    drawn = list(sampling.cuts_ms)
    for period in periods:
        length = period.end_ms - period.start_ms
        times = [period.start_ms + int(rng.random() * length) for _ in range(sampling.landmarks)]
        if length and period.slice not in by_cuts:
            drawn += times
    return sorted(set(drawn))


def priority(seed: int, *parts: object) -> int:
    """Return the priority of a sample: uniform over 64 bits, lower is better."""
    return xxhash.xxh64_intdigest(":".join(map(str, (seed, *parts))).encode())


class SampleReservoir:
    """The samples kept so far, by lowest priority: at most `limit` in all, and per user, slice and sort its size."""

    def __init__(self, *, sizes: Mapping[str, int], limit: int) -> None:
        """Start empty; `sizes` maps a sort of sample to how many of it a user may have in a slice."""
        self._sizes, self._limit, self._count = sizes, limit, 0
        self._held: dict[tuple[str, str, Slice], list[_Held]] = defaultdict(list)
        self._worst: int | None = None  # a sample with this priority or a higher one cannot be kept

    def accepts(self, sort: str, rank: int) -> bool:
        """Return whether a sample of this priority may still be kept; if not, the caller need not build it."""
        return self._sizes[sort] > 0 and (self._worst is None or rank < self._worst)

    def offer(self, sort: str, rank: int, sample: Sample) -> None:
        """Keep a sample if it is among the best of its user, slice and sort, and among the best overall."""
        if not self.accepts(sort, rank):
            return
        pool = self._held[sort, sample.request.user_id, sample.slice]
        insort(pool, _Held(rank, sort, sample), key=_order)
        self._count += 1
        if len(pool) > self._sizes[sort]:
            pool.pop()
            self._count -= 1
        if self._count > 2 * self._limit:
            self._prune()

    def kept(self) -> list[Sample]:
        """Return the samples kept, in order of priority."""
        self._prune()
        return [held.sample for held in self._ordered()]

    def _ordered(self) -> list["_Held"]:
        return sorted((held for pool in self._held.values() for held in pool), key=_order)

    def _prune(self) -> None:
        """Drop samples beyond the limit; safe, because a user's later samples only displace worse ones of that user."""
        if self._count <= self._limit:
            return
        best = self._ordered()[: self._limit]
        self._held.clear()
        for held in best:
            self._held[held.sort, held.sample.request.user_id, held.sample.slice].append(held)
        self._count, self._worst = len(best), best[-1].rank


class _Held(NamedTuple):
    rank: int
    sort: str
    sample: Sample


def _order(held: _Held) -> tuple[int, str, int, str]:
    return held.rank, held.sort, held.sample.landmark_ms, held.sample.request.request_id
