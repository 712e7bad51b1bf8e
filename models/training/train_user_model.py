"""Train a user model on a dataset's examples and reviews; blend, calibrate and measure it, ready to be saved.

The text encoder stays frozen: every distinct text is encoded once, then the user model trains on cached vectors. The train
slice fits the weights. The validation slice stops training and chooses the blend. The calibration slice calibrates the
scores. The test slice is only measured. Start at train.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import xxhash
from msgspec.structs import replace
from torch import Tensor

from models.data.examples import Example, ReviewExample, Slice
from models.features.spec import FEATURE_SPEC
from models.linear.sentiment_terms import SentimentTerms
from models.network.encoder import Encoder
from models.network.inputs import vocabulary
from models.network.network import Network, NetworkConfig
from models.network.rhythm import RHYTHM_NAMES
from models.network.survival import prior_logits
from models.serving.calibration import fit_calibration
from models.serving.checkpoint import Catalogue, Contract
from models.serving.item_categories import with_item_categories
from models.serving.item_prior import PARTS
from models.serving.scorer import calibrate
from models.training.blending import blend, fit_sentiment, fit_sentiment_terms, sentiment_logits
from models.training.history_augmentation import changed_copies
from models.training.item_training import choose_mixture, count_items, item_directions
from models.training.loop import Curves, Fitted, fit
from models.training.measurement import measure
from models.training.objective import Objective, make_negatives
from models.training.presets import TrainConfig
from models.training.targets import choose_horizons, choose_items, choose_labels
from models.training.training_data import PREDICTION_ROWS, Data, Indices, predict_logits, prepare, rated_reviews
from schemas.errors import TrainingError


class Trained(NamedTuple):
    """The contents of a checkpoint, how the run went, and metrics of the test slice."""

    network: Network
    contract: Contract
    catalogue: Catalogue | None
    item_categories: Mapping[str, str]
    sentiment_terms: SentimentTerms | None
    fitted: Fitted
    examples: dict[str, int]
    metrics: dict[str, Any]


def train(
    examples: Sequence[Example],
    reviews: Sequence[ReviewExample],
    returns: Literal["any", "purchase"],
    encoder: Encoder,
    config: TrainConfig,
    *,
    item_categories: Mapping[str, str] | None = None,
    state_folder: Path | None = None,
    curves: Curves | None = None,
    device: str = "cpu",
) -> Trained:
    """Train a user model; with a `state_folder`, an interrupted run resumes. Shows progress on a terminal.

    Gradient steps run on `device`, all that follows on the CPU in float32.

    Events without a category get the one that `item_categories` gives for their item.

    Raises:
        TrainingError: there are no training examples, no category is frequent enough, or no user is observed long enough.
    """
    examples = [example for example in examples if example.slice is not Slice.TRAIN or _is_kept(example, config)]
    if item_categories:
        requests = with_item_categories([example.request for example in examples], item_categories)
        examples = [replace(example, request=request) for example, request in zip(examples, requests, strict=True)]
    training = [example for example in examples if example.slice is Slice.TRAIN]
    if not training:
        raise TrainingError(
            "found no training examples, expected some: create the dataset with more --landmarks or from a longer log"
        )
    labels, horizons = (
        choose_labels(training, at_most=config.max_labels, least=config.least_label_examples),
        choose_horizons(training),
    )
    items = choose_items(training, at_most=config.items, least=config.least_item_users) if config.items else []
    examples += changed_copies(training, config.copies, config.loop.seed)
    data = prepare(examples, labels, items, horizons, encoder, max_events=config.max_events, next_items=config.next_items)
    prior = count_items(training, vocabulary(labels, items), config.fade_days) if items else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        network = Network(_network_config(data, len(items), config), dropout=config.dropout)
        start_at_base_rates(network, data)
        if prior is not None:
            network.item.weight.data[1 : 1 + len(items)] = item_directions(prior, config.width)
            network.item_bias.data.copy_(torch.from_numpy(np.log(prior.popularity)))
        popularity = np.zeros(0, np.float32) if prior is None else prior.popularity
        objective = Objective(config.weights, make_negatives(popularity, config.negatives))
        fitted = _fit(network, data, objective, config, state_folder, curves, device)
        texts = {kind: rated_reviews(encoder, reviews, kind) for kind in Slice}
        choices = blend(network, data) | fit_sentiment(network, texts)
        sentiment_terms, chosen = fit_sentiment_terms(network, texts)
        if chosen:
            choices["sentiment"] |= chosen
    catalogue = None
    if prior is not None:
        mixture = choose_mixture(prior, network, data).mix
        # validation may be counted too, now that the mixture is chosen
        counted = training + [example for example in examples if example.slice is Slice.VALIDATION]
        catalogue = Catalogue(items, count_items(counted, vocabulary(labels, items), config.fade_days)._replace(mix=mixture))
        choices["items"] = dict(zip(PARTS, np.round(mixture.astype(float), 4).tolist(), strict=True))
    calibration, test = data.slices[Slice.CALIBRATION], data.slices[Slice.TEST]
    calibration_logits = predict_logits(network, data, calibration)
    contract = Contract(
        spec_version=FEATURE_SPEC.version,
        features=list(FEATURE_SPEC.references),
        churn_days=config.churn_days,
        rhythm=list(RHYTHM_NAMES),
        returns=returns,
        encoder_uri=encoder.uri,
        encoder_id=encoder.encoder_id,
        labels=labels,
        horizons_days=horizons,
        network=network.config,
        normalisation=data.normalisation,
        calibration=fit_calibration(
            calibration_logits.interest.double().numpy(),
            data.targets.categories[calibration].astype(np.float64),
            calibration_logits.hazards,
            data.exposures(calibration),
            sentiment_logits(network, texts[Slice.CALIBRATION], sentiment_terms).double().numpy(),
            texts[Slice.CALIBRATION].positive.double().numpy(),
        ),
    )
    found = predict_logits(network, data, test)
    test_logits = sentiment_logits(network, texts[Slice.TEST], sentiment_terms)
    metrics = measure(
        calibrate(found, contract.calibration),
        calibrate(found._replace(sentiment=test_logits), contract.calibration).positive,
        texts[Slice.TEST].positive.numpy(),
        [examples[row] for row in test],
        contract,
    )
    counts = {str(kind): len(picked) for kind, picked in data.slices.items()}
    unread = {str(kind): dict(texts[kind].unread) for kind in Slice if texts[kind].unread}
    metrics = {"choices": choices} | metrics | ({"unread_reviews": unread} if unread else {})
    return Trained(network.eval(), contract, catalogue, item_categories or {}, sentiment_terms, fitted, counts, metrics)


def start_at_base_rates(network: Network, data: Data) -> None:
    """Set the biases of interest and hazards to the base rates, so that training starts from these."""
    picked = data.slices[Slice.TRAIN]
    known = ~np.isnan(data.targets.categories[picked])
    share = (np.nansum(data.targets.categories[picked], axis=0) + 0.5) / (known.sum(0) + 1)
    interest = np.log(share) if network.config.decoder else np.log(share / (1 - share))
    with torch.no_grad():
        network.interest.bias.copy_(torch.from_numpy(interest))
        network.hazards.bias.copy_(torch.from_numpy(prior_logits(data.exposures(picked))))


def _is_kept(example: Example, config: TrainConfig) -> bool:
    """Return whether to keep a user's labels; whole users are kept, so that fewer labels mean fewer users."""
    digest = xxhash.xxh64_intdigest(example.request.user_id.encode(), config.loop.seed)
    return digest % 10_000 < config.label_share * 10_000


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
    network: Network,
    data: Data,
    objective: Objective,
    config: TrainConfig,
    state_folder: Path | None,
    curves: Curves | None,
    device: str,
) -> Fitted:
    """Train on the train slice, with early stopping on the validation slice, or on the train slice if that is empty."""
    training, held_out = data.slices[Slice.TRAIN], data.slices[Slice.VALIDATION]
    held_out = held_out if len(held_out) else training
    network.plain.requires_grad_(False)
    network.sentiment.requires_grad_(False)
    network.to(device)

    def loss(picked: Indices) -> tuple[Tensor, float]:
        return objective.loss(network, data.batch(picked, device), data.rows, data.targets, picked), float(len(picked))

    def validate() -> float:
        losses = [loss(held_out[start : start + PREDICTION_ROWS]) for start in range(0, len(held_out), PREDICTION_ROWS)]
        return sum(float(value) * weight for value, weight in losses) / len(held_out)

    fitted = fit(
        network,
        plan=lambda epoch: _batches([config.loop.seed, epoch], training, data.rows.lengths, config.batch_rows),
        loss=loss,
        validate=validate,
        loop=config.loop,
        optimiser_config=config.optimiser,
        state_folder=state_folder,
        curves=curves,
    )
    network.cpu()
    network.plain.requires_grad_(True)
    network.sentiment.requires_grad_(True)
    return fitted


def _batches(seeds: Sequence[int], rows: Indices, lengths: Indices, batch_rows: int) -> list[Indices]:
    """Cut shuffled rows into batches of similar length, to reduce padding."""
    rng = np.random.default_rng(list(seeds))
    order = rng.permutation(rows)
    pool = 16 * batch_rows
    batches = []
    for start in range(0, len(order), pool):
        near = order[start : start + pool]
        near = near[np.argsort(lengths[near], kind="stable")]
        batches += [near[i : i + batch_rows] for i in range(0, len(near), batch_rows)]
    return [batches[place] for place in rng.permutation(len(batches))]
