"""Search labelled examples for leaks (inputs that a live model could not have), and report each leak by its column.

- prefix: a sampled example must equal, bit for bit, one that is rebuilt from only what had arrived by its landmark
- overlap: no feature may equal a label or rank examples like one, and no history entry may be later than the landmark
- identity: no feature may identify the user
- split: slices may share no example and no text, and each must stay within its time

This module knows neither logs nor files. Start at lint.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.stats import rankdata

from models.data.examples import Example, ReviewExample, silent_ms
from models.data.feature_table import FeatureTable, table_of
from models.data.identifying_columns import memorised_columns
from models.data.landmarks import Period
from models.data.review_labels import same_text

AUC_LIMIT, CORRELATION_LIMIT = 0.95, 0.95  # no single feature without a leak ranks users so well
EQUAL_SHARE = 0.5
MIN_EACH = 30  # of each class, or of known values; with fewer, chance alone can resemble a leak


class Leak(Struct, frozen=True):
    """One leak: the search that found it, the column, and the evidence."""

    check: str
    column: str
    detail: str


class Verdict(Struct, frozen=True):
    """The number of examples searched, by search, and the leaks found."""

    searched: dict[str, int]
    leaks: tuple[Leak, ...]


def lint(
    examples: Sequence[Example],
    reviews: Sequence[ReviewExample],
    *,
    names: Sequence[str],
    periods: Sequence[Period],
    again: Mapping[int, Example | None] | None = None,
) -> Verdict:
    """Search for leaks; `names` are the features' names, `again` maps indices of `examples` to rebuilt examples.

    Without `again` there is no prefix search, and `searched` counts 0 for it.
    """
    leaks: list[Leak] = []
    if examples:
        table = table_of(examples, names)
        leaks += prefix_leaks(examples, again or {}, names)
        leaks += overlap_leaks(table)
        leaks += history_leaks(examples)
        leaks += [Leak("identity", column, detail) for column, detail in memorised_columns(table)]
    leaks += split_leaks(examples, periods)
    leaks += review_leaks(reviews, periods)
    searched = {"prefix": len(again or {}), "overlap": len(examples), "identity": len(examples)}
    return Verdict(searched | {"split": len(examples) + len(reviews)}, tuple(leaks))


def prefix_leaks(examples: Sequence[Example], again: Mapping[int, Example | None], names: Sequence[str]) -> Iterator[Leak]:
    """Yield the columns in which an example differs from the one rebuilt from records known by its landmark."""
    differing: Counter[str] = Counter()
    for place, rebuilt in again.items():
        differing.update(_differences(examples[place], rebuilt, names))
    for column, count in sorted(differing.items()):
        yield Leak("prefix", column, f"{count} of {len(again)} examples differ from what was known at their landmark")


def overlap_leaks(table: FeatureTable) -> Iterator[Leak]:
    """Yield the features that equal a label, or rank examples like a label, in any slice."""
    found: dict[str, str] = {}
    for name in np.unique(table.slices):
        rows = table.slices == name
        values = table.values[rows]
        for label, known in table.labels.items():
            for column, auc in _aucs(values, known[rows]):
                found.setdefault(table.names[column], f"AUC {auc:.3f} for {label} in slice {name}")
        for label, times in table.times.items():
            for column, share in _equal(values, times[rows]):
                found.setdefault(table.names[column], f"equals {label} in {share:.0%} of slice {name}")
        for column, correlation in _correlations(values, table.times["absent_ms"][rows]):
            found.setdefault(table.names[column], f"rank correlation {correlation:.3f} with absent_ms in slice {name}")
    for named, detail in sorted(found.items()):
        yield Leak("overlap", named, detail)


def history_leaks(examples: Sequence[Example]) -> Iterator[Leak]:
    """Yield the columns of a request that hold a time after the landmark."""
    columns = {
        "history.event_time_ms": [max((entry.event_time_ms for entry in e.request.history), default=0) for e in examples],
        "event_time_ms": [example.request.event_time_ms for example in examples],
    }
    for column, times in columns.items():
        later = sum(time > example.landmark_ms for time, example in zip(times, examples, strict=True))
        if later:
            yield Leak("overlap", column, f"{later} of {len(examples)} examples hold a time after their landmark")


def split_leaks(examples: Sequence[Example], periods: Sequence[Period]) -> Iterator[Leak]:
    """Yield examples that slices share, and examples or labels outside their slice's time."""
    ends = {period.slice: (period.start_ms, period.end_ms) for period in periods}
    found: Counter[tuple[str, str]] = Counter()
    slices: dict[tuple[str, int], set[str]] = {}
    for example in examples:
        start_ms, end_ms = ends[example.slice]
        since_ms = example.landmark_ms - silent_ms(example)
        if not start_ms <= example.landmark_ms < end_ms:
            found["landmark_ms", f"are outside slice {example.slice} or in its embargo"] += 1
        if example.observed_ms and since_ms + example.observed_ms > end_ms:
            found["observed_ms", f"were observed beyond the end of slice {example.slice}"] += 1
        if example.absent_ms is not None:
            if since_ms + example.absent_ms >= end_ms:
                found["absent_ms", f"returned after the end of slice {example.slice}"] += 1
            if example.absent_ms <= silent_ms(example):
                found["absent_ms", "returned before their landmark"] += 1
        slices.setdefault((example.request.request_id, example.landmark_ms), set()).add(example.slice.value)
    for shared in slices.values():
        if len(shared) > 1:
            found["request_id", f"are the same example in slices {' and '.join(sorted(shared))}"] += 1
    for (column, what), count in sorted(found.items()):
        yield Leak("split", column, f"{count} examples {what}")


def review_leaks(reviews: Sequence[ReviewExample], periods: Sequence[Period]) -> Iterator[Leak]:
    """Yield texts that two slices share, and reviews outside their slice's time."""
    ends = {period.slice: (period.start_ms, period.end_ms) for period in periods}
    slices: dict[str, set[str]] = {}
    for review in reviews:
        slices.setdefault(same_text(review.text), set()).add(review.slice.value)
    if shared := sum(len(found) > 1 for found in slices.values()):
        yield Leak("split", "text", f"{shared} review texts are in more than one slice")
    outside = sum(not ends[review.slice][0] <= review.event_time_ms < ends[review.slice][1] for review in reviews)
    if outside:
        yield Leak("split", "event_time_ms", f"{outside} reviews are outside their slice or in its embargo")


def _differences(example: Example, rebuilt: Example | None, names: Sequence[str]) -> set[str]:
    if rebuilt is None:
        return {"request"}
    found = {name for name, a, b in _pairs(example, rebuilt) if a != b and name not in ("request", "landmark_ms", "slice")}
    for name, a, b in _pairs(example.request, rebuilt.request):
        if name == "features":
            found |= {column for column, x, y in zip(names, a, b, strict=True) if x != y}
        elif a != b:
            found.add(f"request.{name}")
    return found


def _pairs(a: Struct, b: Struct) -> Iterator[tuple[str, Any, Any]]:
    other = msgspec.structs.asdict(b)
    return ((name, value, other[name]) for name, value in msgspec.structs.asdict(a).items())


def _aucs(values: NDArray[np.float64], label: NDArray[np.float64]) -> Iterator[tuple[int, float]]:
    """Yield the columns of `values` (N, F) that separate a label (N,) of 0, 1 and NaN; unknown features rank lowest."""
    known = ~np.isnan(label)
    positive = label[known] == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if min(n_positive, n_negative) < MIN_EACH:
        return
    ranks = rankdata(np.nan_to_num(values[known], nan=-np.inf, neginf=-np.inf), axis=0)
    aucs = (ranks[positive].sum(axis=0) - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    for column in np.flatnonzero(np.maximum(aucs, 1 - aucs) > AUC_LIMIT):
        yield int(column), float(aucs[column])


def _equal(values: NDArray[np.float64], times: NDArray[np.float64]) -> Iterator[tuple[int, float]]:
    known = ~np.isnan(times)
    if known.sum() < MIN_EACH or np.unique(times[known]).size < MIN_EACH:
        return
    shares = (values[known] == times[known, None]).mean(axis=0)
    for column in np.flatnonzero(shares > EQUAL_SHARE):
        yield int(column), float(shares[column])


def _correlations(values: NDArray[np.float64], times: NDArray[np.float64]) -> Iterator[tuple[int, float]]:
    """Yield the columns that rank-correlate with a time (N,) over the rows where it is known."""
    known = ~np.isnan(times)
    if known.sum() < MIN_EACH:
        return
    ranks = rankdata(np.nan_to_num(values[known], nan=-1.0), axis=0)
    ranks -= ranks.mean(axis=0)
    wanted = rankdata(times[known]) - (known.sum() + 1) / 2
    spread = np.sqrt((ranks**2).sum(axis=0) * (wanted**2).sum())
    with np.errstate(invalid="ignore"):
        correlations = np.where(spread > 0, ranks.T @ wanted / spread, 0.0)
    for column in np.flatnonzero(np.abs(correlations) > CORRELATION_LIMIT):
        yield int(column), float(correlations[column])
