"""Compute training losses from logits and labels, some of which may be unknown.

Every loss is a mean over known labels, and 0 if none is known, so the losses of several heads can be added. Start at
class_loss.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

UNKNOWN = -1  # the class index of an unknown label, which adds no loss


def class_loss(logits: Tensor, classes: Tensor, smoothing: float = 0.0) -> Tensor:
    """Average the cross-entropy of (N, C) logits and (N,) class indices; UNKNOWN ones are left out.

    With smoothing s the target probabilities are 1 - s + s / C for the class and s / C for each other class.
    """
    if not bool((classes != UNKNOWN).any()):
        return logits.sum() * 0.0  # keeps a zero gradient, so that every head takes part in every step
    return cross_entropy(logits.float(), classes, ignore_index=UNKNOWN, label_smoothing=smoothing)


def binary_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Average the binary cross-entropy of logits and labels in [0, 1] of the same shape; NaN is unknown."""
    known = ~torch.isnan(wanted)
    losses = binary_cross_entropy_with_logits(logits.float(), wanted.nan_to_num(), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def ordinal_loss(logits: Tensor, ranks: Tensor) -> Tensor:
    """Average the CORAL loss of (N, K) logits of "above threshold k" and (N,) ranks 0..K; UNKNOWN ones are left out.

    A row's loss is the sum of K binary cross-entropies, for the labels rank > 0, rank > 1, …, rank > K - 1.
    """
    known = ranks != UNKNOWN
    above = ranks.unsqueeze(-1) > torch.arange(logits.shape[-1], device=ranks.device)  # (N, K)
    logits = logits.float()
    losses = -torch.where(above, logsigmoid(logits), logsigmoid(-logits)).sum(-1)
    return (losses * known).sum() / known.sum().clamp(min=1)


def ordinal_probabilities(logits: Tensor) -> Tensor:
    """Convert (N, K) logits of "above threshold k" into (N, K + 1) probabilities of the ranks.

    CORAL's thresholds share one direction, so their probabilities decrease in k if the biases do. Where they do not, the
    running minimum is used.
    """
    above = torch.cummin(torch.sigmoid(logits.float()), dim=-1).values
    edge = torch.ones_like(above[:, :1])
    return torch.cat([edge, above], -1) - torch.cat([above, torch.zeros_like(edge)], -1)
