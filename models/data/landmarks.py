"""Slices of time and the seeds of a draw → when each user is looked at, and which of the looks are kept.

Landmarks are drawn uniformly over a slice's time, the same for equal seeds whatever else a log holds. A look is kept by
a priority that depends on the seed, the user and the moment alone, so what is kept is the same in any order and memory
grows with the sample, not with the log. Knows nothing of features or labels. Start at periods_of and Draws.
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

from models.data.examples import Slice
from schemas.scoring import ScoreRequest

DEFAULT_SHARES = (0.5, 0.1, 0.15, 0.25)


class Period(Struct, frozen=True):
    """The time of one slice: from `start_ms` up to, not including, `end_ms`."""

    slice: Slice
    start_ms: int
    end_ms: int


class Sampling(Struct, frozen=True, kw_only=True):
    """How many looks at each user, per user and slice, and which users count.

    `landmarks` are random moments, `at_events` are events that the live role would score. A slice that holds one of
    `cuts_ms` has examples of all users at its cuts and no others; `max_examples` limits the rest. With `before_last_item`
    there is one look more per user and slice, without limit: just before the last item that followed another. `eligible`
    says who is looked at: whoever was seen, or whoever has bought something by then; `users` are patterns of ids, and
    users that match none are left out of everything.
    """

    seed: int = 1
    landmarks: int = 4
    at_events: int = 4
    max_examples: int = 40_000
    cuts_ms: tuple[int, ...] = ()
    before_last_item: bool = False
    eligible: Literal["seen", "purchase"] = "seen"
    users: tuple[str, ...] = ()


class Look(NamedTuple):
    """One user at one landmark, not yet labelled."""

    request: ScoreRequest
    landmark_ms: int
    slice: Slice
    since_ms: int | None


def periods_of(first_ms: int, ends_ms: Sequence[int], embargo_ms: int = 0) -> list[Period]:
    """Make the four periods that end at `ends_ms`; each but the first begins `embargo_ms` after the one before it.

    A slice may be empty: its end is that of the slice before it, and it leaves no gap of its own.

    Raises:
        ValueError: the ends are not in order, the last slice is empty, or an embargo swallows a slice.
    """
    if len(ends_ms) != len(Slice):
        raise ValueError(f"found {len(ends_ms)} ends of slices, expected {len(Slice)}: {', '.join(Slice)}")
    if any(later < earlier for earlier, later in zip([first_ms, *ends_ms], ends_ms, strict=False)):
        order = ", ".join(map(to_the_minute, ends_ms))
        raise ValueError(
            f"found slices of a log from {to_the_minute(first_ms)} that end {order}, expected each after the one before"
        )
    periods: list[Period] = []
    start_ms = last_ms = first_ms
    for name, end_ms in zip(Slice, ends_ms, strict=True):
        if end_ms == last_ms:
            periods.append(Period(name, end_ms, end_ms))
            continue
        if start_ms >= end_ms:
            raise ValueError(f"found an embargo as long as slice {name}, expected a shorter one, or a longer slice")
        periods.append(Period(name, start_ms, end_ms))
        last_ms, start_ms = end_ms, end_ms + embargo_ms
    if periods[0].start_ms == periods[0].end_ms or periods[-1].start_ms == periods[-1].end_ms:
        raise ValueError("found an empty train or test slice, expected time in both: choose other shares or dates")
    return periods


def period_at(periods: Sequence[Period], at_ms: int) -> Period | None:
    """Return the period that holds a moment; None before the first, after the last, or in an embargo."""
    return next((period for period in periods if period.start_ms <= at_ms < period.end_ms), None)


def check_cuts(periods: Sequence[Period], cuts_ms: Sequence[int]) -> frozenset[Slice]:
    """Return the slices that are looked at by cuts alone.

    Raises:
        ValueError: a cut lies in no slice.
    """
    found = set[Slice]()
    for cut_ms in cuts_ms:
        period = period_at(periods, cut_ms)
        if period is None:
            spans = ", ".join(f"{p.slice} {to_the_minute(p.start_ms)} to {to_the_minute(p.end_ms)}" for p in periods)
            at = to_the_minute(cut_ms)
            raise ValueError(f"found a cut at {at}, expected one inside a slice ({spans}): move it or the slices")
        found.add(period.slice)
    return frozenset(found)


def to_the_minute(at_ms: int) -> str:
    """Write a time for people, in UTC."""
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M}"


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return what tells whether a user's id matches one of the patterns (`*`, `?`, `[…]`); no patterns match everybody."""
    found = re.compile("|".join(map(translate, patterns)))
    return (lambda user: found.match(user) is not None) if patterns else (lambda _: True)


def draw_landmarks(user: str, periods: Sequence[Period], sampling: Sampling) -> list[int]:
    """Draw a user's landmarks of all slices, in order of time; cuts stand in for random ones."""
    rng, by_cuts = Random(f"{sampling.seed}:{user}"), check_cuts(periods, sampling.cuts_ms)
    drawn = list(sampling.cuts_ms)
    for period in periods:
        length = period.end_ms - period.start_ms
        times = [period.start_ms + int(rng.random() * length) for _ in range(sampling.landmarks)]
        if length and period.slice not in by_cuts:
            drawn += times
    return sorted(set(drawn))


def priority(seed: int, *parts: object) -> int:
    """Return the rank of a look in the draw: uniform over 64 bits, the lower the better."""
    return xxhash.xxh64_intdigest(":".join(map(str, (seed, *parts))).encode())


class Draws:
    """The looks kept so far, by lowest priority: at most `limit` of all, and of each user, slice and sort at most its size."""

    def __init__(self, *, sizes: Mapping[str, int], limit: int) -> None:
        """Keep nothing yet; `sizes` maps a sort of look to how many of it a user may have in a slice."""
        self._sizes, self._limit, self._count = sizes, limit, 0
        self._held: dict[tuple[str, str, Slice], list[_Held]] = defaultdict(list)
        self._worst: int | None = None  # from here on a look can no longer be among the best

    def wants(self, sort: str, rank: int) -> bool:
        """Tell whether a look of this priority may still be kept: if not, it need not be made."""
        return self._sizes[sort] > 0 and (self._worst is None or rank < self._worst)

    def offer(self, sort: str, rank: int, look: Look) -> None:
        """Keep a look if it is among the best of its user, slice and sort, and of all."""
        if not self.wants(sort, rank):
            return
        pool = self._held[sort, look.request.user_id, look.slice]
        insort(pool, _Held(rank, sort, look), key=_order)
        self._count += 1
        if len(pool) > self._sizes[sort]:
            pool.pop()
            self._count -= 1
        if self._count > 2 * self._limit:
            self._prune()

    def kept(self) -> list[Look]:
        """Return the looks kept, in order of priority."""
        self._prune()
        return [held.look for held in self._ordered()]

    def _ordered(self) -> list["_Held"]:
        return sorted((held for pool in self._held.values() for held in pool), key=_order)

    def _prune(self) -> None:
        """Drop what cannot be among the best any more: a user's later looks only ever displace worse ones of theirs."""
        if self._count <= self._limit:
            return
        best = self._ordered()[: self._limit]
        self._held.clear()
        for held in best:
            self._held[held.sort, held.look.request.user_id, held.look.slice].append(held)
        self._count, self._worst = len(best), best[-1].rank


class _Held(NamedTuple):
    rank: int
    sort: str
    look: Look


def _order(held: _Held) -> tuple[int, str, int, str]:
    return held.rank, held.sort, held.look.landmark_ms, held.look.request.request_id
