"""A dataset's examples and reviews → a trained, blended, calibrated and measured user model, ready to be saved.

The text encoder stays frozen: every distinct text is encoded once, then the user model trains on cached vectors. The train
slice teaches, the validation slice stops and picks the blend, the calibration slice calibrates, the test slice is only
measured. Start at train.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from models.calibration import fit_calibration
from models.checkpoint import Catalogue, Contract
from models.encoder import Encoder, Vectors
from models.examples import Example, ReviewExample, Slice
from models.features.spec import FEATURE_SPEC
from models.item_training import choose_catalogue, count_items, item_directions
from models.linear import best_share, fit_best
from models.losses import binary_loss
from models.measurement import measure
from models.network import Logits, Network, NetworkConfig
from models.objective import Objective, make_negatives, mean_hazard_loss
from models.presets import TrainConfig
from models.rhythm import RHYTHM_NAMES
from models.rows import Batch, Normalisation, Rows, arrange, collate, fit_normalisation, vocabulary
from models.scorer import calibrate, text_table
from models.survival import Exposures, prior_logits
from models.targets import Targets, TrainingError, choose_horizons, choose_items, choose_labels, make_targets
from models.training_loop import Curves, Fitted, fit

Indices = NDArray[np.int64]

SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)  # of the network in a blend; it keeps the lead where nothing tells them apart
PREDICTION_ROWS = 256


class Trained(NamedTuple):
    """What a checkpoint is made of, how it came about, and metrics of the test slice."""

    network: Network
    contract: Contract
    catalogue: Catalogue | None
    fitted: Fitted
    examples: dict[str, int]
    metrics: dict[str, Any]


class Data(NamedTuple):
    """All examples of all slices as arrays, and the vectors of their texts."""

    rows: Rows
    targets: Targets
    table: Vectors
    normalisation: Normalisation
    slices: dict[Slice, Indices]

    def batch(self, picked: Indices) -> Batch:
        """Collate the picked examples."""
        return collate(self.rows, picked, self.table, self.normalisation)

    def seen(self, picked: Indices) -> Exposures:
        """Return what was seen of the picked examples' returns."""
        return Exposures(self.targets.exposure[picked].astype(np.float64), self.targets.returned[picked].astype(np.float64))


class Reviews(NamedTuple):
    """Vectors of reviews (M, D), and their moods (M,): 1 is good, 0 bad, NaN unknown."""

    vectors: Tensor
    positive: Tensor


def train(
    examples: Sequence[Example],
    reviews: Sequence[ReviewExample],
    returns: Literal["any", "purchase"],
    encoder: Encoder,
    config: TrainConfig,
    *,
    state_folder: Path | None = None,
    curves: Curves | None = None,
) -> Trained:
    """Train a user model; with a `state_folder` a run that was cut off goes on. Progress is shown on a terminal.

    Raises:
        TrainingError: there are no training examples, no category is met often enough, or no user is watched for long.
    """
    examples = [example for example in examples if example.slice is not Slice.TRAIN or _is_kept(example, config)]
    taught = [example for example in examples if example.slice is Slice.TRAIN]
    if not taught:
        raise TrainingError("found no training examples, expected some: give more --landmarks or a longer log")
    labels, horizons = (
        choose_labels(taught, at_most=config.max_labels, least=config.least_label_examples),
        choose_horizons(taught),
    )
    items = choose_items(taught, at_most=config.items, least=config.least_item_users) if config.items else []
    data = _prepare(examples, labels, items, horizons, encoder, config)
    prior = count_items(taught, vocabulary(labels, items), config.fade_days) if items else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        network = Network(_network_config(data, len(items), config), dropout=config.dropout)
        start_at_base_rates(network, data)
        if prior is not None:
            network.item.weight.data[1 : 1 + len(items)] = item_directions(prior, config.width)
            network.item_bias.data.copy_(torch.from_numpy(np.log(prior.popularity)))
        popularity = np.zeros(0, np.float32) if prior is None else prior.popularity
        objective = Objective(config.weights, make_negatives(popularity, config.negatives))
        fitted = _fit(network, data, objective, config, state_folder, curves)
        texts = {kind: _reviews(encoder, reviews, kind) for kind in Slice}
        choices = _blend(network, data) | _fit_sentiment(network, texts)
    catalogue = None if prior is None else choose_catalogue(items, prior, network, data)
    calibration, test = data.slices[Slice.CALIBRATION], data.slices[Slice.TEST]
    late = predict_logits(network, data, calibration)
    contract = Contract(
        spec_version=FEATURE_SPEC.version,
        rhythm=list(RHYTHM_NAMES),
        returns=returns,
        encoder_uri=encoder.uri,
        encoder_id=encoder.encoder_id,
        labels=labels,
        horizons_days=horizons,
        network=network.config,
        normalisation=data.normalisation,
        calibration=fit_calibration(
            late.interest.double().numpy(),
            data.targets.categories[calibration].astype(np.float64),
            late.hazards,
            data.seen(calibration),
            _moods(network, texts[Slice.CALIBRATION]).double().numpy(),
            texts[Slice.CALIBRATION].positive.double().numpy(),
        ),
    )
    found = predict_logits(network, data, test)
    moods = _moods(network, texts[Slice.TEST])
    metrics = measure(
        calibrate(found, contract.calibration),
        calibrate(found._replace(sentiment=moods), contract.calibration).positive,
        texts[Slice.TEST].positive.numpy(),
        [examples[row] for row in test],
        contract,
    )
    counts = {str(kind): len(picked) for kind, picked in data.slices.items()}
    return Trained(network.eval(), contract, catalogue, fitted, counts, {"choices": choices} | metrics)


def start_at_base_rates(network: Network, data: Data) -> None:
    """Set the biases of interest and hazards so that training starts where nothing is known of anybody."""
    picked = data.slices[Slice.TRAIN]
    known = ~np.isnan(data.targets.categories[picked])
    share = (np.nansum(data.targets.categories[picked], axis=0) + 0.5) / (known.sum(0) + 1)
    interest = np.log(share) if network.config.decoder else np.log(share / (1 - share))
    with torch.no_grad():
        network.interest.bias.copy_(torch.from_numpy(interest))
        network.hazards.bias.copy_(torch.from_numpy(prior_logits(data.seen(picked))))


def predict_logits(network: Network, data: Data, picked: Indices) -> Logits:
    """Return the blended logits of the picked rows, items left out."""
    network.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(picked), PREDICTION_ROWS):
            batch = data.batch(picked[start : start + PREDICTION_ROWS])
            user = network.now(network.states(batch), batch)
            parts.append(network.plain.blend(network.unblended(user, batch), batch.numbers))
    if not parts:
        nothing, config = torch.zeros(0, 0), network.config
        return Logits(torch.zeros(0, config.labels), torch.zeros(0, config.horizons), torch.zeros(0), nothing, nothing)
    return Logits(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _is_kept(example: Example, config: TrainConfig) -> bool:
    """Keep whole users, so that fewer labels are fewer people's."""
    digest = xxhash.xxh64_intdigest(example.request.user_id.encode(), config.loop.seed)
    return digest % 10_000 < config.label_share * 10_000


def _prepare(
    examples: list[Example], labels: list[str], items: list[str], horizons: list[int], encoder: Encoder, config: TrainConfig
) -> Data:
    known = vocabulary(labels, items)
    rows, texts = arrange([example.request for example in examples], known, config.max_events)
    slices = {kind: np.flatnonzero([example.slice is kind for example in examples]) for kind in Slice}
    targets = make_targets(examples, known, horizons, config.next_items if items else 0)
    return Data(rows, targets, text_table(encoder, texts), fit_normalisation(rows.features[slices[Slice.TRAIN]]), slices)


def _network_config(data: Data, items: int, config: TrainConfig) -> NetworkConfig:
    return NetworkConfig(
        text_dimension=data.table.shape[1],
        numbers=data.rows.features.shape[1],
        labels=data.rows.shares.shape[1],
        horizons=data.targets.exposure.shape[1],
        items=items,
        width=config.width,
        blocks=config.blocks,
        heads=config.heads,
        max_events=config.max_events,
        causal=config.causal or config.decoder,
        decoder=config.decoder,
    )


def _fit(
    network: Network, data: Data, objective: Objective, config: TrainConfig, state_folder: Path | None, curves: Curves | None
) -> Fitted:
    """Train on the train slice; the validation slice, where there is one, says when it is enough."""
    taught, held_out = data.slices[Slice.TRAIN], data.slices[Slice.VALIDATION]
    held_out = held_out if len(held_out) else taught
    network.plain.requires_grad_(False)
    network.sentiment.requires_grad_(False)

    def loss(picked: Indices) -> tuple[Tensor, float]:
        return objective.loss(network, data.batch(picked), data.rows, data.targets, picked), float(len(picked))

    def validate() -> float:
        losses = [loss(held_out[start : start + PREDICTION_ROWS]) for start in range(0, len(held_out), PREDICTION_ROWS)]
        return sum(float(value) * weight for value, weight in losses) / len(held_out)

    fitted = fit(
        network,
        plan=lambda epoch: _batches(np.random.default_rng([config.loop.seed, epoch]), taught, data.rows.lengths, config.batch_rows),
        loss=loss,
        validate=validate,
        loop=config.loop,
        optimiser_config=config.optimiser,
        state_folder=state_folder,
        curves=curves,
    )
    network.plain.requires_grad_(True)
    network.sentiment.requires_grad_(True)
    return fitted


def _batches(rng: np.random.Generator, rows: Indices, lengths: Indices, batch_rows: int) -> list[Indices]:
    """Cut shuffled rows into batches of like length, to pad little."""
    order = rng.permutation(rows)
    pool = 16 * batch_rows
    batches = []
    for start in range(0, len(order), pool):
        near = order[start : start + pool]
        near = near[np.argsort(lengths[near], kind="stable")]
        batches += [near[i : i + batch_rows] for i in range(0, len(near), batch_rows)]
    return [batches[place] for place in rng.permutation(len(batches))]


def _blend(network: Network, data: Data) -> dict[str, Any]:
    """Fit the plain model and choose, by loss on the validation slice, how much of it the scores are made of."""
    numbers, targets = {}, {}
    for kind in (Slice.TRAIN, Slice.VALIDATION):
        picked = data.slices[kind]
        numbers[kind] = data.batch(picked).numbers if len(picked) else torch.zeros(0, 0)
        targets[kind] = [torch.from_numpy(part[picked]) for part in data.targets]
    taught, held_out = Slice.TRAIN, Slice.VALIDATION

    def hazards(kind: Slice, logits: Tensor) -> Tensor:
        return mean_hazard_loss(logits, targets[kind][2], targets[kind][3])

    def interest(kind: Slice, logits: Tensor) -> Tensor:
        return binary_loss(logits, targets[kind][0])

    found = predict_logits(network, data, data.slices[held_out])  # the shares are 1: the network alone
    chosen: dict[str, Any] = {}
    parts = (("hazards", hazards, network.plain.hazards, found.hazards), ("interest", interest, network.plain.interest, found.interest))
    for place, (name, loss, layer, alone) in enumerate(parts):
        with torch.no_grad():
            layer.bias.copy_(network.hazards.bias if name == "hazards" else network.interest.bias)
        penalty = fit_best(
            layer, numbers[taught], lambda z, loss=loss: loss(taught, z), numbers[held_out], lambda z, loss=loss: loss(held_out, z)
        )
        losses = []
        if len(alone) and not (network.config.decoder and name == "interest"):
            with torch.no_grad():
                plain = layer(numbers[held_out])
                losses = [(share, float(loss(held_out, share * alone + (1 - share) * plain))) for share in SHARES]
        share = best_share(losses)
        network.plain.shares[place] = share
        chosen[name] = {"network_share": share, "penalty": penalty, "validation_loss": {f"{s:g}": round(v, 5) for s, v in losses}}
    return chosen


def _reviews(encoder: Encoder, reviews: Sequence[ReviewExample], kind: Slice) -> Reviews:
    rated = [review for review in reviews if review.slice is kind and review.positive is not None]
    vectors = encoder.encode([review.text for review in rated]) if rated else np.zeros((0, encoder.dimension), np.float32)
    return Reviews(torch.from_numpy(vectors), torch.tensor([float(review.positive or 0) for review in rated]))


def _fit_sentiment(network: Network, texts: dict[Slice, Reviews]) -> dict[str, Any]:
    """Fit the sentiment head to the training reviews' vectors; without any it stays as it is drawn, near 0."""
    taught, held_out = texts[Slice.TRAIN], texts[Slice.VALIDATION]
    torch.nn.init.zeros_(network.sentiment.weight)
    torch.nn.init.zeros_(network.sentiment.bias)
    if not len(taught.positive):
        return {}
    scale = network.text_scale
    penalty = fit_best(
        network.sentiment,
        taught.vectors * scale,
        lambda z: binary_loss(z.squeeze(1), taught.positive),
        held_out.vectors * scale,
        lambda z: binary_loss(z.squeeze(1), held_out.positive),
    )
    return {"sentiment": {"penalty": penalty, "reviews": len(taught.positive)}}


def _moods(network: Network, reviews: Reviews) -> Tensor:
    with torch.inference_mode():
        return torch.as_tensor(network.sentiment(reviews.vectors * network.text_scale).squeeze(1))
