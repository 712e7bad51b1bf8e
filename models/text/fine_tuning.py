"""Fine-tune a pretrained encoder and its heads on review rows.

All heads train at once, each on the reviews whose label is known. A frozen encoder encodes every text only once. Start at
fine_tune.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from msgspec import Struct, field
from torch import Tensor, nn

from models.data.examples import Slice
from models.network.adapters import AdaptationConfig, Peft, adapt, merged, orthogonality, rank_allocation
from models.network.encoder_parts import Parts
from models.network.losses import UNKNOWN, class_loss, ordinal_loss
from models.network.text_heads import HeadsConfig, TextHeads, TextLogits, TextNetwork
from models.text.text_batches import Indices, Labels, ReviewRows, plan_epoch
from models.training.loop import Curves, Fitted, LoopConfig, autocast, fit
from models.training.optimisation import OptimiserConfig, parameter_counts

INFERENCE_ROWS = 128  # rows of a forward pass without gradients
ORTHOGONALITY_WEIGHT = 0.5


class TextConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to fine-tune an encoder; equal configuration, reviews, encoder and threads give equal weights."""

    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    batch_rows: int = 32
    max_tokens: int = 128
    head_dropout: float = 0.1
    smoothing: float = 0.0
    sentiment_weight: float = 1.0
    rating_weight: float = 0.5
    category_weight: float = 0.3


class Tuned(NamedTuple):
    """A plain transformer (adapters merged) in eval mode, its heads, and how the run went."""

    body: nn.Module
    heads: TextHeads
    heads_config: HeadsConfig
    parameters: dict[str, int]
    fitted: Fitted


def fine_tune(
    rows: ReviewRows,
    parts: Parts,
    config: TextConfig,
    *,
    device: str = "cpu",
    train_rows: Indices | None = None,
    state_folder: Path | None = None,
    curves: Curves | None = None,
) -> Tuned:
    """Train on the training slice, or on `train_rows` of it, with early stopping on the validation slice.

    `parts.model` is changed in place; its weights must be float32. Blocks until done.
    """
    train = rows.slices[Slice.TRAIN] if train_rows is None else train_rows
    lengths = np.array([len(ids) for ids in rows.ids], np.int64)
    batches = math.ceil(len(train) / config.batch_rows)
    total_steps = config.loop.epochs * math.ceil(batches / config.loop.accumulate)
    heads_config = choose_heads(rows, train, int(parts.model.config.hidden_size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        body = adapt(parts.model, config.adaptation, total_steps)
        network = TextNetwork(body, TextHeads(heads_config, config.head_dropout)).to(device)
    validation = rows.slices[Slice.VALIDATION]
    table = _frozen_vectors(network, rows, [train, validation], config) if config.adaptation.peft is Peft.HEAD else None

    def logits(picked: Indices) -> TextLogits:
        if table is not None:
            found: TextLogits = network.heads(table[torch.from_numpy(picked)])
            return found
        ids, mask = rows.batch(picked)
        encoded: TextLogits = network(ids.to(device), mask.to(device))
        return encoded

    def loss(picked: Indices) -> tuple[Tensor, float]:
        value = text_loss(logits(picked), rows.labels.of(picked), config, config.smoothing)
        if config.adaptation.peft is Peft.ADALORA:
            value = value + ORTHOGONALITY_WEIGHT * orthogonality(network.body)
        return value, float(len(picked))

    def validate() -> float:
        total = 0.0
        for picked in by_length(validation, lengths, INFERENCE_ROWS):
            total += float(text_loss(logits(picked), rows.labels.of(picked), config)) * len(picked)
        return total / len(validation)

    parameters = parameter_counts(network)
    fitted = fit(
        network,
        plan=lambda epoch: plan_epoch(train, lengths, batch_rows=config.batch_rows, seed=config.loop.seed, epoch=epoch),
        loss=loss,
        validate=validate,
        loop=config.loop,
        optimiser_config=config.optimiser,
        new_names=["heads."],
        state_folder=state_folder,
        adaptation=rank_allocation(body, config.adaptation),
        curves=curves,
    )
    return Tuned(merged(network.body).eval(), network.heads.eval(), heads_config, parameters, fitted)


def choose_heads(rows: ReviewRows, train: Indices, dimension: int) -> HeadsConfig:
    """Choose the heads for which the training rows have at least two different labels."""
    known = {
        name: len(set(column[train].tolist()) - {UNKNOWN}) > 1 for name, column in zip(Labels._fields, rows.labels, strict=True)
    }
    return HeadsConfig(
        dimension=dimension,
        sentiment=known["sentiment"],
        rating=known["rating"],
        categories=rows.categories if known["category"] else (),
    )


def text_loss(logits: TextLogits, labels: Labels, config: TextConfig, smoothing: float = 0.0) -> Tensor:
    """Add up the losses of the existing heads, each with its configured weight."""
    device = next(part.device for part in logits if part is not None)
    sentiment, rating, category = (torch.from_numpy(column).to(device) for column in labels)
    total = torch.zeros((), device=device)
    if logits.sentiment is not None:
        total = total + config.sentiment_weight * class_loss(logits.sentiment, sentiment, smoothing)
    if logits.rating is not None:
        total = total + config.rating_weight * ordinal_loss(logits.rating, rating)
    if logits.category is not None:
        total = total + config.category_weight * class_loss(logits.category, category, smoothing)
    return total


def encode_rows(network: TextNetwork, rows: ReviewRows, picked: Indices, bf16: bool) -> Tensor:
    """Return (N, D) unit vectors of rows, in their order, without changing the network."""
    device = next(network.parameters()).device
    lengths = np.array([len(ids) for ids in rows.ids], np.int64)
    network.eval()
    vectors = torch.empty(len(picked), network.body.config.hidden_size, device=device)
    with torch.no_grad(), autocast(network, bf16):
        for places in by_length(np.arange(len(picked)), lengths[picked], INFERENCE_ROWS):
            ids, mask = rows.batch(picked[places])
            vectors[torch.from_numpy(places)] = network.vectors(ids.to(device), mask.to(device))
    return vectors


def _frozen_vectors(network: TextNetwork, rows: ReviewRows, needed: list[Indices], config: TextConfig) -> Tensor:
    """Return a vector for every row; rows that are not needed stay zero."""
    picked = np.unique(np.concatenate(needed))
    table = torch.zeros(len(rows.ids), network.body.config.hidden_size, device=next(network.parameters()).device)
    table[torch.from_numpy(picked)] = encode_rows(network, rows, picked, config.loop.bf16)
    return table


def by_length(rows: Indices, lengths: Indices, count: int) -> list[Indices]:
    """Cut rows into batches of `count`, shortest texts first; `lengths` covers all rows."""
    ordered = rows[np.argsort(lengths[rows], kind="stable")]
    return [ordered[at : at + count] for at in range(0, len(ordered), count)]
