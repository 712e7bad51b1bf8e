"""What users looked at before → which items come next, by counting: co-occurrence, popularity, and a user's own items.

Three honest baselines in one, and what the network's item head is mixed with: the mixture that ranked validation best is
kept. Items are rows 0..V-1 of the vocabulary; everything beyond it is left out. Shapes: N users, V items, T events. Start
at fit_item_prior.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

KEPT_PER_ITEM = 200
SEQUENCE_SIGHT = 10  # events on each side that count as near
BACKWARD = 0.5  # what a step back counts for
FADE = 0.6  # of one event to the one before it, for what is near
OWN_FADE = 0.95  # and for a user's own items, which are counted rather than remembered
PARTS = ("network", "co_occurrence", "own", "popularity")
NETWORK_SHARES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
OWN_SHARES = (0.0, 0.01, 0.03, 0.06, 0.1, 0.2, 0.5, 1.0)  # of what is left, the rest is co-occurrence
LEAST_POPULARITY = 0.005  # so that no item is impossible

Floats = NDArray[np.float32]


class ItemPrior(NamedTuple):
    """Counted chances of the next item; row i of the sparse co-occurrence is values[indptr[i] : indptr[i + 1]]."""

    indptr: NDArray[np.int64]  # (V + 1,)
    indices: NDArray[np.int32]
    values: Floats
    popularity: Floats  # (V,)
    mix: Floats  # (4,) shares of PARTS, which sum to 1


class Journey(NamedTuple):
    """Items one user met, in order, as vocabulary rows (-1: none), and how much the user counts for."""

    items: Sequence[int]
    weight: float


def fit_item_prior(journeys: Iterable[Journey], wanted: Iterable[tuple[int, float]], items: int) -> ItemPrior:
    """Count `journeys` for co-occurrence and `wanted` items (row, weight) for popularity; the mixture is even."""
    pairs: list[NDArray[np.int64]] = []
    weights: list[NDArray[np.float64]] = []
    for journey in journeys:
        met = np.array([item for item in journey.items if item >= 0], np.int64)
        for step in range(1, min(SEQUENCE_SIGHT, len(met))):
            before, after = met[:-step], met[step:]
            differ = before != after
            for one, other, share in ((before, after, 1.0), (after, before, BACKWARD)):
                pairs.append((one * items + other)[differ])
                weights.append(np.full(int(differ.sum()), journey.weight * share / step))
    keys, place = np.unique(np.concatenate([np.empty(0, np.int64), *pairs]), return_inverse=True)
    sums = np.bincount(place, weights=np.concatenate([np.empty(0), *weights]), minlength=len(keys))
    one, other = np.divmod(keys, items)
    order = np.lexsort((-sums, one))
    one, other, sums = one[order], other[order], sums[order]
    rank = np.arange(len(one)) - np.searchsorted(one, one)
    kept = rank < KEPT_PER_ITEM
    one, other, sums = one[kept], other[kept], sums[kept]
    totals = np.bincount(one, weights=sums, minlength=items)
    popularity = np.full(items, 1e-3)
    for item, weight in wanted:
        popularity[item] += weight
    return ItemPrior(
        np.searchsorted(one, np.arange(items + 1)).astype(np.int64),
        other.astype(np.int32),
        (sums / totals[one]).astype(np.float32),
        (popularity / popularity.sum()).astype(np.float32),
        np.full(len(PARTS), 1 / len(PARTS), np.float32),
    )


def counted_chances(prior: ItemPrior, items: NDArray[np.int32], lengths: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the (N, V) chances by co-occurrence and by the users' own items, from vocabulary rows (N, T) that begin at 1.

    A user without a known item has no such chances: the row is zero.
    """
    size = len(prior.popularity)
    near, own = np.zeros((len(items), size), np.float32), np.zeros((len(items), size), np.float32)
    for row, (met, length) in enumerate(zip(items, lengths, strict=True)):
        weight, own_weight = 1.0, 1.0
        for item in met[:length][::-1] - 1:
            if 0 <= item < size:
                part = slice(prior.indptr[item], prior.indptr[item + 1])
                near[row, prior.indices[part]] += weight * prior.values[part]
                own[row, item] += own_weight
                weight *= FADE
                own_weight *= OWN_FADE
    return _shares(near), _shares(own)


def mix_items(prior: ItemPrior, network: Floats, near: Floats, own: Floats) -> Floats:
    """Return the (N, V) chances of the mixture, from those of the network and of counting."""
    shares = prior.mix
    return np.asarray(shares[0] * network + shares[1] * near + shares[2] * own + shares[3] * prior.popularity, np.float32)


def choose_mix(prior: ItemPrior, network: Floats, near: Floats, own: Floats, wanted: Sequence[Sequence[int]]) -> ItemPrior:
    """Return the prior with the mixture that ranks the `wanted` items of N users best; all chances are (N, V).

    What counts is the mean over users and their wanted items of 1 / rank and of being among the first 20.
    """
    best, chosen = -1.0, prior
    for shares in _mixtures():
        tried = prior._replace(mix=shares)
        if (value := ranking_value(mix_items(tried, network, near, own), wanted)) > best + 1e-9:
            best, chosen = value, tried
    return chosen


def ranking_value(chances: Floats, wanted: Sequence[Sequence[int]]) -> float:
    """Return the mean over users of how well their wanted items rank; users who want nothing do not count."""
    values = []
    for row, items in zip(chances, wanted, strict=True):
        if items:
            ranks = [(row > row[item]).sum() for item in items]
            values.append(np.mean([1 / (rank + 1) + (rank < 20) for rank in ranks]))
    return float(np.mean(values)) if values else 0.0


def _mixtures() -> Iterable[Floats]:
    """Yield shares of PARTS; the ones that lean on the network come last, so that it must win, not draw."""
    for network in NETWORK_SHARES:
        for own in OWN_SHARES:
            counted = (1 - network) * (1 - own)
            shares = np.array([network, counted, (1 - network) * own], np.float32) * (1 - LEAST_POPULARITY)
            yield np.append(shares, np.float32(LEAST_POPULARITY))
    yield np.array([0, 0, 0, 1], np.float32)


def _shares(counts: Floats) -> Floats:
    return np.asarray(counts / np.maximum(counts.sum(1, keepdims=True), 1e-9), np.float32)
