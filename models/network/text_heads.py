"""Compute unit vectors of texts from token ids, and logits of sentiment, rating and category from the vectors.

Texts are pooled as in models.network.encoder, so the heads also work on vectors from its cache. This module knows neither
words nor labels. Start at TextNetwork.
"""

from typing import Any, NamedTuple

import torch
from msgspec import Struct
from torch import Tensor, nn

RATING_THRESHOLDS = 4  # stars above 1, 2, 3, 4


class HeadsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which heads exist; a category head has at least two categories."""

    dimension: int
    sentiment: bool
    rating: bool
    categories: tuple[str, ...] = ()


class TextLogits(NamedTuple):
    """The heads' logits of N texts; None without that head."""

    sentiment: Tensor | None  # (N, 2) negative, positive
    rating: Tensor | None  # (N, 4) above 1, 2, 3, 4 stars
    category: Tensor | None  # (N, C)


class OrdinalHead(nn.Module):
    """A CORAL head: one direction, and a threshold for each rank above the lowest."""

    def __init__(self, dimension: int, thresholds: int) -> None:
        super().__init__()
        self.direction = nn.Linear(dimension, 1, bias=False)
        self.bias = nn.Parameter(torch.linspace(1.0, -1.0, thresholds))

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, D) to (N, K) logits of "above threshold k"."""
        logits: Tensor = self.direction(features) + self.bias
        return logits


class TextHeads(nn.Module):
    """The heads: they map unit vectors to logits."""

    def __init__(self, config: HeadsConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = config.dimension**0.5  # scales the coordinates of unit vectors to about 1, as linear layers need
        self.dropout = nn.Dropout(dropout)
        self.sentiment = nn.Linear(config.dimension, 2) if config.sentiment else None
        self.rating = OrdinalHead(config.dimension, RATING_THRESHOLDS) if config.rating else None
        self.category = nn.Linear(config.dimension, len(config.categories)) if config.categories else None

    def forward(self, vectors: Tensor) -> TextLogits:
        """Map (N, D) vectors of length 1 to the logits of every head."""
        features = self.dropout(vectors * self.scale)
        heads = (self.sentiment, self.rating, self.category)
        return TextLogits(*(None if head is None else head(features) for head in heads))


class TextNetwork(nn.Module):
    """A transformer with heads."""

    def __init__(self, body: Any, heads: TextHeads) -> None:
        super().__init__()
        self.body = body
        self.heads = heads

    def vectors(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (B, D) unit vectors of (B, T) token ids: the normalised mean over the tokens that the mask keeps."""
        states = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask.unsqueeze(-1).float()  # (B, T, 1)
        pooled = (states.float() * kept).sum(1) / kept.sum(1)
        return torch.nn.functional.normalize(pooled, dim=-1)

    def forward(self, ids: Tensor, mask: Tensor) -> TextLogits:
        """Map (B, T) token ids to the logits of every head."""
        logits: TextLogits = self.heads(self.vectors(ids, mask))
        return logits
