"""Compute the loss of a batch for one objective: heads or decoder.

The heads predict once, after the newest event: the next categories, the return and the next items. A causal network also
predicts the item of every event from the events before it. The decoder also predicts each event's kind, category and time.
Losses are in nats. Shapes: B rows, T events, W width, K labels, H horizons, V items, J next items. Start at Objective.loss.
"""

from typing import NamedTuple

import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.data.labels import HORIZONS_DAYS
from models.network.inputs import Batch, Rows
from models.network.losses import UNKNOWN, binary_loss, class_loss
from models.network.network import Logits, Network
from models.network.survival import exposures, hazard_loss
from models.training.targets import Targets
from schemas.time_units import DAY_MS

POPULARITY_POWER = 0.75


class Weights(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The weight of each part of the loss; a part of weight 0 is not trained."""

    interest: float = 1.0
    hazards: float = 1.0
    items: float = 1.0


class Negatives(NamedTuple):
    """Negative items, sampled anew for every batch; `drawn` of 0 means all items."""

    drawn: int
    probabilities: Tensor  # (V,) sampling probabilities: half uniform, half by popularity


class Objective(NamedTuple):
    """How the parts of a loss are combined."""

    weights: Weights
    negatives: Negatives

    def loss(self, network: Network, batch: Batch, rows: Rows, targets: Targets, picked: NDArray[np.int64]) -> Tensor:
        """Return the mean loss of a batch, the picked rows; eval mode samples no negatives."""
        states = network.states(batch)
        user = network.now(states, batch)
        logits = network.unblended(user, batch)
        known = Targets(*(torch.from_numpy(part[picked]).to(user.device) for part in targets))  # type: ignore[arg-type]
        total = self.weights.hazards * mean_hazard_loss(logits.hazards, known.exposure, known.returned)  # type: ignore[arg-type]
        if network.config.decoder:
            total = total + self.weights.interest * class_loss(logits.interest, known.next_category)  # type: ignore[arg-type]
        else:
            total = total + self.weights.interest * binary_loss(logits.interest, known.categories)  # type: ignore[arg-type]
        if network.config.items and self.weights.items:
            target: Tensor = known.items  # type: ignore[assignment]
            row, place = torch.nonzero(target != UNKNOWN, as_tuple=True)
            shares = 1 / (target != UNKNOWN).sum(1).clamp(min=1)[row]
            total = total + self.weights.items * self._item_loss(network, user[row], target[row, place], shares)
        if network.config.causal:
            total = total + self._sequence_loss(network, states, batch, rows, picked)
        return total

    def _sequence_loss(self, network: Network, states: Tensor, batch: Batch, rows: Rows, picked: NDArray[np.int64]) -> Tensor:
        """Predict every event from those before it: its item, and with a decoder the whole event."""
        row, place = torch.nonzero(batch.kinds > 0, as_tuple=True)
        user = network.users(states[row, place])  # (events, W): column i of states is before event i
        total = states.sum() * 0.0
        if network.config.items and self.weights.items:
            item = batch.items[row, place] - 1
            has_item = (item >= 0) & (item < network.config.items) & (place > 0)
            total = total + self.weights.items * self._item_loss(network, user[has_item], item[has_item])
        if network.config.decoder:
            found: Logits = network.heads(user)
            category = batch.categories[row, place] - 1
            later = place > 0
            gaps_ms = np.maximum(rows.gap_days[picked][row.cpu().numpy(), place.cpu().numpy()] * DAY_MS, 1.0)
            observed = np.full_like(gaps_ms, np.inf)  # the next event did come: its bin was observed to the end
            bins = exposures(gaps_ms, observed, np.zeros_like(gaps_ms), HORIZONS_DAYS[: network.config.horizons])
            exposure, returned = (torch.from_numpy(part).float().to(user.device) for part in bins)
            total = total + cross_entropy(found.kinds, batch.kinds[row, place] - 1)
            total = total + self.weights.interest * class_loss(found.interest, category.where(category >= 0, UNKNOWN))
            total = total + self.weights.hazards * mean_hazard_loss(found.hazards[later], exposure[later], returned[later])
        return total

    def _item_loss(self, network: Network, user: Tensor, target: Tensor, shares: Tensor | None = None) -> Tensor:
        """Average the softmax loss of users (M, W) for target items (M,), corrected for the sampling of negatives."""
        if not len(target):
            return user.sum() * 0.0
        if not (network.training and self.negatives.drawn):
            losses = cross_entropy(network.item_logits(user), target, reduction="none")
        else:
            drawn = torch.multinomial(self.negatives.probabilities, self.negatives.drawn, replacement=True)
            probabilities, drawn = self.negatives.probabilities[drawn].to(user.device), drawn.to(user.device)
            others = network.item_logits(user, drawn) - torch.log(self.negatives.drawn * probabilities)
            others = others.masked_fill(drawn == target.unsqueeze(1), -torch.inf)
            own = (network.next_item(user) * network.item(1 + target)).sum(-1) + network.item_bias[target]
            losses = torch.logsumexp(torch.cat([own.unsqueeze(1), others], dim=1).float(), dim=1) - own.float()
        return losses.mean() if shares is None else (losses * shares).sum() / shares.sum()


def make_negatives(popularity: NDArray[np.float32], drawn: int) -> Negatives:
    """Return negatives sampled half uniformly, half by a softened popularity (V,)."""
    softened = popularity.astype(np.float64) ** POPULARITY_POWER
    probabilities = 0.5 / max(len(popularity), 1) + 0.5 * softened / max(softened.sum(), 1e-12)
    return Negatives(drawn, torch.from_numpy(probabilities).float())


def mean_hazard_loss(logits: Tensor, exposure: Tensor, returned: Tensor) -> Tensor:
    """Average the hazard loss over the rows that were observed at all."""
    observed = (exposure > 0).any(1)
    return (hazard_loss(logits.float(), exposure, returned) * observed).sum() / observed.sum().clamp(min=1)
