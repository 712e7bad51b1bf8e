"""Predict next items by counting (co-occurrence, popularity, a user's own items), and mix this prior with the network.

The mixture is the one that ranks the validation slice best. Items are rows 0..V-1 of the vocabulary; other items are left
out. Shapes: N users, V items, T events. Start at fit_item_prior.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

KEPT_PER_ITEM = 200
SEQUENCE_SIGHT = 10  # events on each side that count as co-occurring
BACKWARD = 0.5  # weight of a co-occurrence backwards in time
FADE = 0.6  # decay per event back, for co-occurrence
OWN_FADE = 0.95  # and for a user's own items, whose counts decay slowly
PARTS = ("network", "co_occurrence", "own", "popularity")
NETWORK_SHARES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
OWN_SHARES = (0.0, 0.01, 0.03, 0.06, 0.1, 0.2, 0.5, 1.0)  # of the rest; what remains is co-occurrence
LEAST_POPULARITY = 0.005  # so that no item has probability 0

Floats = NDArray[np.float32]


class ItemPrior(NamedTuple):
    """Counted probabilities of the next item; row i of the sparse co-occurrence is values[indptr[i] : indptr[i + 1]]."""

    indptr: NDArray[np.int64]  # (V + 1,)
    indices: NDArray[np.int32]
    values: Floats
    popularity: Floats  # (V,)
    mix: Floats  # (4,) shares of PARTS, which sum to 1


class Journey(NamedTuple):
    """One user's items in order, as vocabulary rows (-1: none), and the user's weight."""

    items: Sequence[int]
    weight: float


def fit_item_prior(journeys: Iterable[Journey], wanted: Iterable[tuple[int, float]], items: int) -> ItemPrior:
    """Count `journeys` for co-occurrence and `wanted` items (row, weight) for popularity; the mixture is uniform."""
    pairs: list[NDArray[np.int64]] = []
    weights: list[NDArray[np.float64]] = []
    for journey in journeys:
        known = np.array([item for item in journey.items if item >= 0], np.int64)
        for step in range(1, min(SEQUENCE_SIGHT, len(known))):
            before, after = known[:-step], known[step:]
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
    """Return (N, V) probabilities by co-occurrence and by the users' own items, from vocabulary rows (N, T) from 1.

    The row of a user without a known item is zero.
    """
    size = len(prior.popularity)
    near, own = np.zeros((len(items), size), np.float32), np.zeros((len(items), size), np.float32)
    for row, (history, length) in enumerate(zip(items, lengths, strict=True)):
        weight, own_weight = 1.0, 1.0
        for item in history[:length][::-1] - 1:
            if 0 <= item < size:
                part = slice(prior.indptr[item], prior.indptr[item + 1])
                near[row, prior.indices[part]] += weight * prior.values[part]
                own[row, item] += own_weight
                weight *= FADE
                own_weight *= OWN_FADE
    return _shares(near), _shares(own)


def mix_items(prior: ItemPrior, network: Floats, near: Floats, own: Floats) -> Floats:
    """Return the (N, V) probabilities of the mixture, from those of the network and of counting."""
    shares = prior.mix
    return np.asarray(shares[0] * network + shares[1] * near + shares[2] * own + shares[3] * prior.popularity, np.float32)


def choose_mix(prior: ItemPrior, network: Floats, near: Floats, own: Floats, wanted: Sequence[Sequence[int]]) -> ItemPrior:
    """Return the prior with the mixture that ranks the `wanted` items of N users best; all probabilities are (N, V).

    The criterion is the mean over users and their wanted items of 1 / rank plus the hit rate at 20.
    """
    best, chosen = -1.0, prior
    for shares in _mixtures():
        tried = prior._replace(mix=shares)
        if (value := ranking_value(mix_items(tried, network, near, own), wanted)) > best + 1e-9:
            best, chosen = value, tried
    return chosen


def ranking_value(chances: Floats, wanted: Sequence[Sequence[int]]) -> float:
    """Return the mean ranking quality of users' wanted items; users without wanted items are left out."""
    values = []
    for row, items in zip(chances, wanted, strict=True):
        if items:
            ranks = [(row > row[item]).sum() for item in items]
            values.append(np.mean([1 / (rank + 1) + (rank < 20) for rank in ranks]))
    return float(np.mean(values)) if values else 0.0


def _mixtures() -> Iterable[Floats]:
    """Yield shares of PARTS; larger network shares come later, so that the network loses ties."""
    for network in NETWORK_SHARES:
        for own in OWN_SHARES:
            counted = (1 - network) * (1 - own)
            shares = np.array([network, counted, (1 - network) * own], np.float32) * (1 - LEAST_POPULARITY)
            yield np.append(shares, np.float32(LEAST_POPULARITY))
    yield np.array([0, 0, 0, 1], np.float32)


def _shares(counts: Floats) -> Floats:
    return np.asarray(counts / np.maximum(counts.sum(1, keepdims=True), 1e-9), np.float32)
