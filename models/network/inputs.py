"""Convert score requests into the arrays and batches that the network reads.

`arrange` turns requests into arrays. `collate` turns some rows of these arrays into a batch. This module knows neither Kafka
nor the network. Shapes: N or B rows, T events, D text dimension, F features, R rhythm features, K labels. Start at arrange.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import xxhash
from msgspec import Struct
from numpy.typing import NDArray
from torch import Tensor

from models.data.clean_text import clean_text
from models.features.spec import KINDS
from models.features.user_state import SCALE
from models.network.encoder import Vectors, padded
from models.network.rhythm import rhythm
from schemas.scoring import ScoreRequest
from schemas.time_units import DAY_MS, HOUR_MS

TIME_BUCKETS = 32
HOURS = 24
MAX_STARS = 5
RARE_ITEMS = 256  # rows that all items outside the vocabulary share by hash
FEATURE_LIMIT = 8.0  # standard deviations
SHARE_SCALE = 1000.0  # a share of 1/1000 is about the smallest that matters
_KIND = {kind: place for place, kind in enumerate(KINDS, start=1)}  # 0 is no event
_RATING, _PURCHASE = _KIND["rating"], _KIND["purchase"]


class Vocabulary(NamedTuple):
    """Embedding rows of the categories and items that a network knows, each from 1; `items` may be empty."""

    labels: Mapping[str, int]
    items: Mapping[str, int]


class Normalisation(Struct, frozen=True, forbid_unknown_fields=True):
    """Mean and standard deviation of every feature and rhythm feature, as logarithms, over training rows that know it.

    A deviation of 0 marks a feature that never varied in training: nothing was learnt about it, so it is ignored.
    """

    mean: list[float]
    std: list[float]


class Rows(NamedTuple):
    """N requests as arrays, events oldest first from column 0; texts are rows of a table whose row 0 means no text."""

    lengths: NDArray[np.int64]  # (N,)
    kinds: NDArray[np.uint8]  # (N, T), 0 beyond the length
    categories: NDArray[np.int16]  # (N, T), 0 is no category or one without a label
    items: NDArray[np.int32]  # (N, T), 0 is no item; RARE_ITEMS shared rows follow the vocabulary
    ages: NDArray[np.uint8]  # (N, T) bucket of the time until the request's event
    gaps: NDArray[np.uint8]  # (N, T) bucket of the time since the previous event
    gap_days: NDArray[np.float32]  # (N, T) the same time in days
    hours: NDArray[np.uint8]  # (N, T) UTC
    amounts: NDArray[np.float32]  # (N, T)
    texts: NDArray[np.int32]  # (N, T)
    reviews: NDArray[np.int32]  # (N,)
    shares: NDArray[np.float32]  # (N, K) shares of the user's decayed category weights
    features: NDArray[np.float32]  # (N, F + R) signed log1p, NaN is unknown


class Batch(NamedTuple):
    """The input of one forward pass; T is the padded length of the longest row."""

    lengths: Tensor  # (B,) int64
    kinds: Tensor  # (B, T) int64
    categories: Tensor  # (B, T) int64
    items: Tensor  # (B, T) int64
    ages: Tensor  # (B, T) int64
    gaps: Tensor  # (B, T) int64
    hours: Tensor  # (B, T) int64
    amounts: Tensor  # (B, T) float32
    texts: Tensor  # (B, T, D) float32, zero without a text
    reviews: Tensor  # (B, D) float32, zero without a review
    numbers: Tensor  # (B, 2(F + R) + K) float32: standardised, null indicators, logarithms of category shares


def vocabulary(labels: Sequence[str], items: Sequence[str] = ()) -> Vocabulary:
    """Number labels and items from 1."""
    return Vocabulary(
        {label: row for row, label in enumerate(labels, start=1)}, {item: row for row, item in enumerate(items, start=1)}
    )


def arrange(requests: Sequence[ScoreRequest], known: Vocabulary, max_events: int) -> tuple[Rows, list[str]]:
    """Return the requests as arrays, and their distinct texts; text i is row i + 1 of the table.

    Texts are cleaned. An event without a text uses its category's name. Only the sentiment head reads a review's full text,
    so only a request caused by a review has one.
    """
    n, width = len(requests), max_events
    table: dict[str, int] = {}
    lengths, reviews = np.zeros(n, np.int64), np.zeros(n, np.int32)
    kinds, hours = np.zeros((n, width), np.uint8), np.zeros((n, width), np.uint8)
    categories, texts = np.zeros((n, width), np.int16), np.zeros((n, width), np.int32)
    items = np.zeros((n, width), np.int32)
    times, amounts = np.zeros((n, width), np.int64), np.zeros((n, width), np.int64)
    shares = np.zeros((n, len(known.labels)), np.float32)
    for row, request in enumerate(requests):
        history = request.history[-max_events:]
        lengths[row] = len(history)
        times[row] = request.event_time_ms
        for place, entry in enumerate(history):
            kinds[row, place] = _KIND[entry.kind]
            times[row, place] = entry.event_time_ms
            amounts[row, place] = entry.amount
            if entry.category is not None:
                categories[row, place] = known.labels.get(entry.category, 0)
            if entry.item_id is not None and known.items:
                items[row, place] = item_row(entry.item_id, known)
            if text := clean_text(entry.text or "") or clean_text(entry.category or ""):
                texts[row, place] = table.setdefault(text, len(table) + 1)
        if request.kind == "review" and (text := clean_text(request.text or "")):
            reviews[row] = table.setdefault(text, len(table) + 1)
        for category, share in request.categories:
            if category in known.labels:
                shares[row, known.labels[category] - 1] = share
    at = np.array([request.event_time_ms for request in requests], np.int64).reshape(n, 1)
    hours[:] = times // HOUR_MS % HOURS
    gaps = np.diff(times, axis=1, prepend=times[:, :1])
    features = np.array([request.features for request in requests], np.float64).reshape(n, -1)  # None becomes NaN
    amounts_read = np.where(kinds == _RATING, amounts / (SCALE * MAX_STARS), _signed_log(amounts) / 10)
    rhythms = rhythm(kinds > 0, (kinds == _PURCHASE) & (amounts > 0), times, amounts, at[:, 0])
    rows = Rows(
        lengths,
        kinds,
        categories,
        items,
        _time_bucket(at - times),
        _time_bucket(gaps),
        (np.maximum(gaps, 0) / DAY_MS).astype(np.float32),
        hours,
        amounts_read.astype(np.float32),
        texts,
        reviews,
        shares,
        np.concatenate([_signed_log(features).astype(np.float32), rhythms], axis=1),
    )
    return rows, list(table)


def item_row(item: str, known: Vocabulary) -> int:
    """Return the row of an item: its own, or a row shared with other rare items."""
    return known.items.get(item) or len(known.items) + 1 + xxhash.xxh32_intdigest(item.encode()) % RARE_ITEMS


def collate(rows: Rows, picked: NDArray[np.int64], table: Vectors, normalisation: Normalisation) -> Batch:
    """Gather the picked rows; `table` is (1 + texts, D), row 0 zero."""
    length = padded(int(rows.lengths[picked].max()))
    width = min(length, rows.kinds.shape[1])

    def indices(column: NDArray[np.uint8] | NDArray[np.int16] | NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(column[picked, :width].astype(np.int64))

    mean, std = np.array(normalisation.mean, np.float32), np.array(normalisation.std, np.float32)
    read = std > 0
    features = (rows.features[picked] - mean) / np.where(read, std, 1)
    unknown = np.isnan(features)
    clipped = np.where(read & ~unknown, np.clip(features, -FEATURE_LIMIT, FEATURE_LIMIT), 0)
    shares = 0.5 * np.log1p(SHARE_SCALE * rows.shares[picked])
    numbers = np.concatenate([clipped, unknown & read, shares], axis=1).astype(np.float32)
    return Batch(
        torch.from_numpy(rows.lengths[picked]),
        indices(rows.kinds),
        indices(rows.categories),
        indices(rows.items),
        indices(rows.ages),
        indices(rows.gaps),
        indices(rows.hours),
        torch.from_numpy(rows.amounts[picked, :width]),
        torch.from_numpy(table[rows.texts[picked, :width]]),
        torch.from_numpy(table[rows.reviews[picked]]),
        torch.from_numpy(numbers),
    )


def fit_normalisation(features: NDArray[np.float32]) -> Normalisation:
    """Compute mean and deviation of the (N, F + R) features of training rows."""
    known = ~np.isnan(features)
    count = np.maximum(known.sum(0), 1)
    values = np.where(known, features, 0).astype(np.float64)
    mean = values.sum(0) / count
    std = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(0) / count)
    return Normalisation([round(float(m), 6) for m in mean], [round(float(s), 6) if s > 1e-3 else 0.0 for s in std])


def _signed_log(values: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    return np.sign(values) * np.log1p(np.abs(values))


def _time_bucket(millis: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return logarithmic buckets: 0 is below 0.74 s, each next one is 1.74 times as long, the last begins after a year."""
    seconds = np.maximum(millis, 0) / 1000
    return np.minimum(1.25 * np.log2(1 + seconds), TIME_BUCKETS - 1).astype(np.uint8)
