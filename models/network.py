"""A user's newest events, text vectors and rolling features → logits of interest, return and sentiment.

Score requests become arrays (arrange), rows of those a batch (collate), a batch logits (Network). Knows neither Kafka
nor probabilities. Shapes: B rows, T events, D text dimension, W width, F features, K labels, H horizons. Start at
Network.forward.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray
from torch import Tensor, nn

from models.encoder import Vectors, padded
from models.features.spec import KINDS
from models.features.user_state import SCALE
from schemas.scoring import ScoreRequest

TIME_BUCKETS = 32
HOURS = 24
MAX_STARS = 5
FEATURE_WIDTH = 64
FEATURE_LIMIT = 8.0  # standard deviations
SHARE_SCALE = 1000.0  # a share of a thousandth is about the least that matters
_KIND = {kind: place for place, kind in enumerate(KINDS, start=1)}  # 0 is no event
_RATING = _KIND["rating"]


class NetworkConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sizes of a network; `max_events` is how many of a user's newest events it reads."""

    text_dimension: int
    features: int
    labels: int
    horizons: int
    width: int = 128
    blocks: int = 2
    heads: int = 4
    max_events: int = 50


class Normalisation(Struct, frozen=True, forbid_unknown_fields=True):
    """Mean and standard deviation of every feature after the signed logarithm, over the training rows that know it.

    A deviation of 0 marks a feature that never varied in training: nothing was learnt about it, so it is not read.
    """

    mean: list[float]
    std: list[float]


class Rows(NamedTuple):
    """N requests as arrays, events oldest first from column 0; texts are rows of a table, row 0 of which is no text."""

    lengths: NDArray[np.int64]  # (N,)
    kinds: NDArray[np.uint8]  # (N, T), 0 beyond the length
    categories: NDArray[np.int16]  # (N, T), 0 is none or not a label
    ages: NDArray[np.uint8]  # (N, T) bucket of the time before the request's event
    gaps: NDArray[np.uint8]  # (N, T) bucket of the time since the event before
    hours: NDArray[np.uint8]  # (N, T) UTC
    amounts: NDArray[np.float32]  # (N, T)
    texts: NDArray[np.int32]  # (N, T)
    reviews: NDArray[np.int32]  # (N,)
    shares: NDArray[np.float32]  # (N, K) shares of the user's decayed category weights
    features: NDArray[np.float32]  # (N, F) signed log1p, NaN is unknown


class Batch(NamedTuple):
    """What one forward pass reads; T is the padded length of the longest row."""

    lengths: Tensor  # (B,) int64
    kinds: Tensor  # (B, T) int64
    categories: Tensor  # (B, T) int64
    ages: Tensor  # (B, T) int64
    gaps: Tensor  # (B, T) int64
    hours: Tensor  # (B, T) int64
    amounts: Tensor  # (B, T) float32
    texts: Tensor  # (B, T, D) float32, zero where there is none
    reviews: Tensor  # (B, D) float32, zero where there is none
    numbers: Tensor  # (B, 2F + K) float32: standardised features, null indicators, logarithms of category shares


class Logits(NamedTuple):
    """Unbounded and uncalibrated: interest (B, K), hazards (B, H), sentiment (B,)."""

    interest: Tensor
    hazards: Tensor
    sentiment: Tensor


def arrange(requests: Sequence[ScoreRequest], labels: Sequence[str], max_events: int) -> tuple[Rows, list[str]]:
    """Turn requests into arrays and the distinct texts they need; text i is row i + 1 of the table.

    An event without a text is known by the name of its category. A review's full text is read by the sentiment head
    alone, so only a request that a review caused has one.
    """
    n, width = len(requests), max_events
    label_row = {label: row for row, label in enumerate(labels)}
    table: dict[str, int] = {}
    lengths, reviews = np.zeros(n, np.int64), np.zeros(n, np.int32)
    kinds, hours = np.zeros((n, width), np.uint8), np.zeros((n, width), np.uint8)
    categories, texts = np.zeros((n, width), np.int16), np.zeros((n, width), np.int32)
    times, amounts = np.zeros((n, width), np.int64), np.zeros((n, width), np.int64)
    shares = np.zeros((n, len(labels)), np.float32)
    for row, request in enumerate(requests):
        history = request.history[-max_events:]
        lengths[row] = len(history)
        times[row] = request.event_time_ms
        for place, entry in enumerate(history):
            kinds[row, place] = _KIND[entry.kind]
            times[row, place] = entry.event_time_ms
            amounts[row, place] = entry.amount
            if entry.category is not None:
                categories[row, place] = label_row.get(entry.category, -1) + 1
            if text := entry.text or entry.category:
                texts[row, place] = table.setdefault(text, len(table) + 1)
        if request.kind == "review" and request.text:
            reviews[row] = table.setdefault(request.text, len(table) + 1)
        for category, share in request.categories:
            if category in label_row:
                shares[row, label_row[category]] = share
    at = np.array([request.event_time_ms for request in requests], np.int64).reshape(n, 1)
    hours[:] = times // 3_600_000 % HOURS
    gaps = np.diff(times, axis=1, prepend=times[:, :1])
    features = np.array([request.features for request in requests], np.float64).reshape(n, -1)  # None becomes NaN
    amounts_read = np.where(kinds == _RATING, amounts / (SCALE * MAX_STARS), _signed_log(amounts) / 10)
    rows = Rows(
        lengths,
        kinds,
        categories,
        _time_bucket(at - times),
        _time_bucket(gaps),
        hours,
        amounts_read.astype(np.float32),
        texts,
        reviews,
        shares,
        _signed_log(features).astype(np.float32),
    )
    return rows, list(table)


def collate(rows: Rows, picked: NDArray[np.int64], table: Vectors, normalisation: Normalisation) -> Batch:
    """Gather the picked rows; `table` is (1 + texts, D), row 0 zero."""
    length = padded(int(rows.lengths[picked].max()))
    width = min(length, rows.kinds.shape[1])

    def indices(column: NDArray[np.uint8] | NDArray[np.int16]) -> Tensor:
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
        indices(rows.ages),
        indices(rows.gaps),
        indices(rows.hours),
        torch.from_numpy(rows.amounts[picked, :width]),
        torch.from_numpy(table[rows.texts[picked, :width]]),
        torch.from_numpy(table[rows.reviews[picked]]),
        torch.from_numpy(numbers),
    )


def fit_normalisation(features: NDArray[np.float32]) -> Normalisation:
    """Measure the (N, F) features of training rows."""
    known = ~np.isnan(features)
    count = np.maximum(known.sum(0), 1)
    values = np.where(known, features, 0).astype(np.float64)
    mean = values.sum(0) / count
    std = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(0) / count)
    return Normalisation([round(float(m), 6) for m in mean], [round(float(s), 6) if s > 1e-3 else 0.0 for s in std])


def survival_curve(hazards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return S (B, H), the probability of no return by the end of each bin, from P(return in bin | none before)."""
    return np.cumprod(1 - hazards, axis=1, dtype=np.float64)


class Block(nn.Module):
    """A pre-norm transformer block in which an event sees itself and what came before."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, W) → (B, T, W)."""
        b, t, w = states.shape
        split = self.query_key_value(self.norm_attention(states)).view(b, t, 3, self.heads, w // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, heads, T, W / heads)
        dropout = self.dropout if self.training else 0.0
        seen = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        states = states + self.drop(self.output(seen.transpose(1, 2).reshape(b, t, w)))
        widened = nn.functional.gelu(self.widen(self.norm_feed(states)))
        fed: Tensor = self.drop(self.narrow(self.drop(widened)))
        return states + fed


class Network(nn.Module):
    """The user model: a causal transformer over events, an MLP over numbers, three heads.

    Numbers also reach interest and hazards on a straight path, so that what each adds can be read off its weight.
    """

    def __init__(self, config: NetworkConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        width = config.width
        self.text_scale = config.text_dimension**0.5  # brings the entries of a unit vector to about 1
        self.start = nn.Parameter(torch.zeros(width))  # stands before the first event, so that nobody has no state
        self.text = nn.Linear(config.text_dimension, width)
        self.kind = nn.Embedding(len(KINDS) + 1, width)
        self.category = nn.Embedding(config.labels + 1, width)
        self.age, self.gap = nn.Embedding(TIME_BUCKETS, width), nn.Embedding(TIME_BUCKETS, width)
        self.hour = nn.Embedding(HOURS, width)
        self.amount = nn.Embedding(len(KINDS) + 1, width)  # a direction per kind, as long as the amount
        self.blocks = nn.ModuleList(Block(width, config.heads, dropout) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        numbers = 2 * config.features + config.labels
        self.numbers = nn.Sequential(
            nn.Linear(numbers, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, FEATURE_WIDTH),
        )
        self.user = nn.Sequential(nn.Linear(width + FEATURE_WIDTH, width), nn.GELU(), nn.Dropout(dropout))
        self.interest = nn.Linear(width, config.labels)
        self.hazards = nn.Linear(width, config.horizons)
        self.straight_interest = nn.Linear(numbers, config.labels, bias=False)
        self.straight_hazards = nn.Linear(numbers, config.horizons, bias=False)
        self.sentiment = nn.Sequential(nn.Dropout(dropout), nn.Linear(config.text_dimension, 1))
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=0.02)
        nn.init.zeros_(self.straight_interest.weight)
        nn.init.zeros_(self.straight_hazards.weight)

    def forward(self, batch: Batch) -> Logits:
        """Return the logits of every row; rows do not see each other, nor padding."""
        last = self.states(batch)[torch.arange(len(batch.lengths)), batch.lengths]  # (B, W)
        user = self.user(torch.cat([last, self.numbers(batch.numbers)], dim=1))  # (B, W)
        return Logits(
            self.interest(user) + self.straight_interest(batch.numbers),
            self.hazards(user) + self.straight_hazards(batch.numbers),
            self.sentiment(batch.reviews * self.text_scale).squeeze(1),
        )

    def states(self, batch: Batch) -> Tensor:
        """Return (B, 1 + T, W): column 0 is before the first event, column i after event i."""
        events = (
            self.text(batch.texts * self.text_scale)
            + self.kind(batch.kinds)
            + self.category(batch.categories)
            + self.age(batch.ages)
            + self.gap(batch.gaps)
            + self.hour(batch.hours)
            + self.amount(batch.kinds) * batch.amounts.unsqueeze(-1)
        )  # (B, T, W)
        states = torch.cat([self.start.expand(len(events), 1, -1), events], dim=1)
        for block in self.blocks:
            states = block(states)
        return torch.as_tensor(self.norm(states))


def _signed_log(values: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    return np.sign(values) * np.log1p(np.abs(values))


def _time_bucket(millis: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Bucket 0 is at most the same instant; each next one is 1.74 times as long, the last begins after a year."""
    seconds = np.maximum(millis, 0) / 1000
    return np.minimum(1.25 * np.log2(1 + seconds), TIME_BUCKETS - 1).astype(np.uint8)
