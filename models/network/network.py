"""Compute logits of interest, return, next items and sentiment from a batch of users' events, text vectors and numbers.

The numbers of a user are the features, indicators of unknown features, and category shares. This module knows neither
requests nor probabilities. Shapes: B rows, T events, D text dimension, W width, K labels, V items, H horizons.
Start at Network.forward.
"""

from typing import NamedTuple

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from models.features.spec import KINDS
from models.network.inputs import HOURS, RARE_ITEMS, TIME_BUCKETS, Batch

FEATURE_WIDTH = 64


class NetworkConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sizes of a network; `max_events` is how many of a user's newest events it reads.

    `numbers` counts features and rhythm features, `items` the vocabulary of the item head (0: none). A causal network is
    trained at every event, so events' ages are not among its inputs: they would leak the times of later events. A
    decoder's interest is a distribution over the next category, not one probability per label.
    """

    text_dimension: int
    numbers: int
    labels: int
    horizons: int
    items: int = 0
    width: int = 128
    blocks: int = 2
    heads: int = 4
    max_events: int = 50
    causal: bool = False
    decoder: bool = False


class Logits(NamedTuple):
    """Uncalibrated logits: interest (…, K), hazards (…, H), sentiment (B,), items (…, V), kinds (…, 7).

    Items are empty without an item head, kinds without a decoder. Leading dimensions: (B,), or (B, 1 + T) at every event.
    """

    interest: Tensor
    hazards: Tensor
    sentiment: Tensor
    items: Tensor
    kinds: Tensor


class Block(nn.Module):
    """A pre-norm transformer block in which an event attends to itself and to earlier events."""

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


class Plain(nn.Module):
    """Hazards and interest as linear functions of the numbers: the baseline that is blended with the network.

    Interest is fitted on the category shares alone, hazards on all other numbers.

    `shares` are the network's weights in the blended logits of hazards and interest; 1 is the network alone.
    """

    def __init__(self, numbers: int, labels: int, horizons: int) -> None:
        super().__init__()
        self.hazards, self.interest = nn.Linear(numbers, horizons), nn.Linear(numbers, labels)
        self.shares: Tensor
        self.register_buffer("shares", torch.ones(2))
        for layer in (self.hazards, self.interest):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def blend(self, logits: Logits, numbers: Tensor) -> Logits:
        """Blend a network's (B, …) logits with the baseline's."""
        hazards, interest = self.shares
        return logits._replace(
            hazards=hazards * logits.hazards + (1 - hazards) * self.hazards(numbers),
            interest=interest * logits.interest + (1 - interest) * self.interest(numbers),
        )


class Network(nn.Module):
    """The user model: a causal transformer over events, an MLP over numbers, and the heads.

    Numbers also reach interest and hazards through linear layers, so that each number's effect is readable as a weight.
    """

    def __init__(self, config: NetworkConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        width, self.config = config.width, config
        self.text_scale = config.text_dimension**0.5  # scales the entries of a unit vector to about 1
        self.start = nn.Parameter(torch.zeros(width))  # precedes the first event, so that a user without events has a state
        self.text = nn.Linear(config.text_dimension, width)
        self.kind = nn.Embedding(len(KINDS) + 1, width)
        self.category = nn.Embedding(config.labels + 1, width)
        self.age, self.gap = nn.Embedding(TIME_BUCKETS, width), nn.Embedding(TIME_BUCKETS, width)
        self.hour = nn.Embedding(HOURS, width)
        self.amount = nn.Embedding(len(KINDS) + 1, width)  # a direction per kind, scaled by the amount
        self.blocks = nn.ModuleList(Block(width, config.heads, dropout) for _ in range(config.blocks))
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(dropout)
        numbers = 2 * config.numbers + config.labels
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
        self.sentiment = nn.Linear(config.text_dimension, 1)
        self.plain = Plain(numbers, config.labels, config.horizons)
        if config.items:
            self.item = nn.Embedding(1 + config.items + RARE_ITEMS, width, padding_idx=0)
            self.next_item, self.item_bias = nn.Linear(width, width), nn.Parameter(torch.zeros(config.items))
        if config.decoder:
            self.next_kind = nn.Linear(width, len(KINDS))
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=0.05 if config.items and table is self.item else 0.02)
        nn.init.zeros_(self.straight_interest.weight)
        nn.init.zeros_(self.straight_hazards.weight)

    def forward(self, batch: Batch) -> Logits:
        """Return the logits of every row; they depend neither on other rows nor on padding."""
        user = self.now(self.states(batch), batch)
        logits = self.plain.blend(self.unblended(user, batch), batch.numbers)
        return logits._replace(items=self.item_logits(user)) if self.config.items else logits

    def now(self, states: Tensor, batch: Batch) -> Tensor:
        """Return every row's user vector (B, W) after its newest event, from its states."""
        rows = torch.arange(len(batch.lengths), device=states.device)
        return self.users(states[rows, batch.lengths], self.numbers(batch.numbers))

    def unblended(self, user: Tensor, batch: Batch) -> Logits:
        """Return the network's own logits of every row's user, without the baseline and without items."""
        found = self.heads(user)
        return found._replace(
            interest=found.interest + self.straight_interest(batch.numbers),
            hazards=found.hazards + self.straight_hazards(batch.numbers),
            sentiment=self.sentiment(batch.reviews * self.text_scale).squeeze(1),
        )

    def heads(self, user: Tensor) -> Logits:
        """Return the heads' logits of user vectors (…, W), now or at an earlier event."""
        interest, empty = self.interest(user), user.new_zeros(*user.shape[:-1], 0)
        return Logits(
            log_softmax(interest, dim=-1) if self.config.decoder else interest,
            self.hazards(user),
            empty,
            empty,
            self.next_kind(user) if self.config.decoder else empty,
        )

    def users(self, states: Tensor, numbers: Tensor | None = None) -> Tensor:
        """Combine states (…, W) with encoded numbers (…, 64) to user vectors; at earlier events numbers are unknown."""
        if numbers is None:
            numbers = states.new_zeros(*states.shape[:-1], FEATURE_WIDTH)
        return torch.as_tensor(self.user(torch.cat([states, numbers], dim=-1)))

    def item_logits(self, user: Tensor, items: Tensor | None = None) -> Tensor:
        """Return item logits of user vectors (…, W): of all items, or of some rows (S,) of the vocabulary, from 0."""
        if items is None:
            return torch.as_tensor(self.next_item(user) @ self.item.weight[1 : 1 + self.config.items].T + self.item_bias)
        return torch.as_tensor(self.next_item(user) @ self.item(1 + items).T + self.item_bias[items])

    def states(self, batch: Batch) -> Tensor:
        """Return (B, 1 + T, W): column 0 is before the first event, column i after event i."""
        events = (
            self.text(batch.texts * self.text_scale)
            + self.kind(batch.kinds)
            + self.category(batch.categories)
            + self.gap(batch.gaps)
            + self.hour(batch.hours)
            + self.amount(batch.kinds) * batch.amounts.unsqueeze(-1)
        )  # (B, T, W)
        if not self.config.causal:
            events = events + self.age(batch.ages)
        if self.config.items:
            events = events + self.item(batch.items)
        states = torch.cat([self.start.expand(len(events), 1, -1), self.drop(events)], dim=1)
        for block in self.blocks:
            states = block(states)
        return torch.as_tensor(self.norm(states))
