"""Labelled examples → a trained, calibrated and tested checkpoint's content.

The text encoder stays frozen: every distinct text is encoded once, then the user model trains on cached vectors. Early
stopping looks at users held out of training, calibration and tests at later time. Start at train.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from msgspec import Struct
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from models.checkpoint import Calibration, Contract, Platt
from models.dataset import DAY_MS, HORIZONS_DAYS, Example, Slices, label_return
from models.encoder import Encoder, Vectors
from models.features.spec import FEATURE_SPEC
from models.network import Batch, Logits, Network, NetworkConfig, Normalisation, Rows, arrange, collate, fit_normalisation
from models.network import survival_curve as survival
from models.scorer import Calibrated, calibrate, sigmoid, text_table

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

ECE_BINS = 15
TOP = 3
PLATT_PRIOR = 10.0  # how many examples' worth of doubt holds a calibration at "leave it as it is"
MIN_PLATT_SCALE = 0.05
SENTIMENT_WEIGHT = 0.3
MIN_HORIZON_EXAMPLES = 30  # a horizon that fewer training examples were watched through is left out
ACTIVITY_BASELINE = "sessions.count.30d"


class TrainingError(ValueError):
    """Examples that nothing can be learnt from: the text says what was found, expected and to do."""


class TrainConfig(Struct, frozen=True, kw_only=True):
    """How to train; the same configuration, examples, encoder and thread count give the same weights."""

    seed: int = 1
    epochs: int = 6
    patience: int = 2
    batch_rows: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    dropout: float = 0.3
    warm_up_share: float = 0.06
    validation_share: float = 0.1
    max_labels: int = 64
    min_label_examples: int = 5
    max_events: int = 32
    width: int = 128
    blocks: int = 2
    heads: int = 4


class Trained(NamedTuple):
    """What a checkpoint is made of; `metrics` are of the test slice."""

    network: Network
    contract: Contract
    metrics: dict[str, Any]


class Targets(NamedTuple):
    """Labels of N examples; NaN is unknown."""

    interest: Floats  # (N, K)
    returned: Floats  # (N, H)
    positive: Floats  # (N,)
    away: Floats  # (N, H): 1 where the user stayed away to the end of the horizon


class Data(NamedTuple):
    """All examples of all slices as arrays, and the vectors of their texts."""

    rows: Rows
    targets: Targets
    table: Vectors
    normalisation: Normalisation

    def batch(self, picked: Indices) -> Batch:
        """Collate the picked examples."""
        return collate(self.rows, picked, self.table, self.normalisation)


def train(slices: Slices, encoder: Encoder, config: TrainConfig) -> Trained:
    """Train on the first slice, calibrate on the second, measure on the third; progress is shown on a terminal.

    Raises:
        TrainingError: a slice is empty, no category is met often enough to be a label, or no user is watched for long.
    """
    for name, examples in zip(Slices._fields, slices, strict=True):
        if not examples:
            raise TrainingError(f"found no {name} examples, expected some in every slice: give a longer log")
    labels, horizons = choose_labels(slices.train, config), choose_horizons(slices.train)
    examples = [example for part in slices for example in part]
    held_out = np.array([_is_held_out(example, config) for example in slices.train])
    fitted, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    calibration = np.arange(len(slices.train), len(slices.train) + len(slices.calibration))
    test = np.arange(calibration[-1] + 1, len(examples))
    data = _prepare(examples, labels, horizons, fitted, encoder, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network, epochs = _fit(data, fitted, validation if len(validation) else fitted, config)
    contract = Contract(
        spec_version=FEATURE_SPEC.version,
        encoder_uri=encoder.uri,
        encoder_id=encoder.encoder_id,
        labels=labels,
        horizons_days=horizons,
        network=_network_config(data, config),
        normalisation=data.normalisation,
        calibration=_fit_calibration(_logits(network, data, calibration), data.targets, calibration),
    )
    calibrated = calibrate(_logits(network, data, test), contract.calibration)
    counts = {"train": len(fitted), "validation": len(validation), "calibration": len(calibration), "test": len(test)}
    metrics = {"examples": counts, "epochs": epochs} | evaluate(calibrated, data, fitted, test, contract)
    return Trained(network, contract, metrics)


def choose_labels(examples: Sequence[Example], config: TrainConfig) -> list[str]:
    """Return the categories met most often as an interest, in alphabetical order.

    Raises:
        TrainingError: there is none.
    """
    counts = Counter(category for example in examples for category in example.interest or ())
    common = sorted(counts, key=lambda category: (-counts[category], category))[: config.max_labels]
    labels = sorted(category for category in common if counts[category] >= config.min_label_examples)
    if not labels:
        raise TrainingError(
            f"found no category that follows {config.min_label_examples} training requests, expected some: give a longer log"
        )
    return labels


def choose_horizons(examples: Sequence[Example]) -> list[int]:
    """Return the horizons that enough training examples were watched through: of longer ones nothing can be learnt.

    Raises:
        TrainingError: there is none.
    """
    watched = [sum(example.observed_ms >= days * DAY_MS for example in examples) for days in HORIZONS_DAYS]
    horizons = [days for days, count in zip(HORIZONS_DAYS, watched, strict=True) if count >= MIN_HORIZON_EXAMPLES]
    if not horizons:
        raise TrainingError(
            f"found {watched[0]} training examples watched for a day, expected {MIN_HORIZON_EXAMPLES}: give a longer log"
        )
    return horizons


def _is_held_out(example: Example, config: TrainConfig) -> bool:
    """Hold out whole users, so that nobody is on both sides."""
    return xxhash.xxh64_intdigest(example.request.user_id.encode(), config.seed) % 10_000 < config.validation_share * 10_000


def _prepare(
    examples: list[Example], labels: list[str], horizons: list[int], fitted: Indices, encoder: Encoder, config: TrainConfig
) -> Data:
    rows, texts = arrange([example.request for example in examples], labels, config.max_events)
    normalisation = fit_normalisation(rows.features[fitted])
    return Data(rows, _targets(examples, labels, horizons), text_table(encoder, texts), normalisation)


def _targets(examples: list[Example], labels: list[str], horizons: list[int]) -> Targets:
    place = {label: column for column, label in enumerate(labels)}
    interest = np.full((len(examples), len(labels)), np.nan)
    away = np.full((len(examples), len(horizons)), np.nan)
    for row, example in enumerate(examples):
        if example.interest is not None:
            interest[row] = 0
            interest[row, [place[category] for category in example.interest if category in place]] = 1
        for column, days in enumerate(horizons):
            if example.observed_ms >= days * DAY_MS:
                away[row, column] = example.absent_ms is None or example.absent_ms > days * DAY_MS
    returned = np.array([label_return(example.absent_ms, example.observed_ms) for example in examples], np.float64)
    return Targets(
        interest, returned[:, : len(horizons)], np.array([example.positive for example in examples], np.float64), away
    )


def _network_config(data: Data, config: TrainConfig) -> NetworkConfig:
    return NetworkConfig(
        text_dimension=data.table.shape[1],
        features=data.rows.features.shape[1],
        labels=data.rows.shares.shape[1],
        horizons=data.targets.away.shape[1],
        width=config.width,
        blocks=config.blocks,
        heads=config.heads,
        max_events=config.max_events,
    )


def _fit(data: Data, fitted: Indices, validation: Indices, config: TrainConfig) -> tuple[Network, int]:
    """Return the network of the best epoch, by loss on the validation rows, and how many epochs were run."""
    from tqdm import tqdm

    network = Network(_network_config(data, config), dropout=config.dropout)
    with torch.no_grad():
        network.interest.bias.copy_(_prior_logits(data.targets.interest[fitted]))
        network.hazards.bias.copy_(_prior_logits(data.targets.returned[fitted]))
    matrices = [weight for weight in network.parameters() if weight.ndim > 1]
    vectors = [weight for weight in network.parameters() if weight.ndim == 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    steps = config.epochs * math.ceil(len(fitted) / config.batch_rows)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=steps + 1, pct_start=config.warm_up_share
    )
    rng = np.random.default_rng(config.seed)
    best_loss, best_epoch, best = math.inf, 0, network.state_dict()
    epoch = 0
    with tqdm(total=steps, unit="batch", desc="train", disable=not sys.stderr.isatty()) as bar:
        for epoch in range(1, config.epochs + 1):
            network.train()
            for picked in _shuffled(rng, fitted, data.rows.lengths, config.batch_rows):
                optimizer.zero_grad()
                loss = _loss(network(data.batch(picked)), data.targets, picked)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                bar.update()
            network.eval()
            validation_loss = float(_loss(_logits(network, data, validation), data.targets, validation))
            bar.set_postfix(epoch=epoch, validation=f"{validation_loss:.4f}")
            if validation_loss < best_loss - 1e-4:
                best_loss, best_epoch = validation_loss, epoch
                best = {key: tensor.clone() for key, tensor in network.state_dict().items()}
            elif epoch - best_epoch >= config.patience:
                break
    network.load_state_dict(best)
    return network.eval(), epoch


def _shuffled(rng: np.random.Generator, rows: Indices, lengths: Indices, batch_rows: int) -> Iterator[Indices]:
    """Yield random batches whose rows are of like length, to pad little."""
    order = rng.permutation(rows)
    pool = 16 * batch_rows
    batches = []
    for start in range(0, len(order), pool):
        near = order[start : start + pool]
        near = near[np.argsort(lengths[near], kind="stable")]
        batches += [near[i : i + batch_rows] for i in range(0, len(near), batch_rows)]
    for place in rng.permutation(len(batches)):
        yield batches[place]


def _loss(logits: Logits, targets: Targets, picked: Indices) -> Tensor:
    interest = _masked_loss(logits.interest, targets.interest[picked])
    hazards = _masked_loss(logits.hazards, targets.returned[picked])
    return interest + hazards + SENTIMENT_WEIGHT * _masked_loss(logits.sentiment, targets.positive[picked])


def _masked_loss(logits: Tensor, targets: Floats) -> Tensor:
    """Average the cross-entropy over the labels that are known; 0 where none is."""
    known = torch.from_numpy(~np.isnan(targets))
    wanted = torch.from_numpy(np.nan_to_num(targets)).float()
    losses = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def _prior_logits(targets: Floats) -> Tensor:
    """Return the logit of every column's share of ones, so that training starts at the base rates."""
    known = ~np.isnan(targets)
    share = (np.nansum(targets, axis=0) + 0.5) / (known.sum(0) + 1)
    return torch.from_numpy(np.log(share / (1 - share))).float()


def _logits(network: Network, data: Data, picked: Indices) -> Logits:
    parts = []
    with torch.inference_mode():
        for start in range(0, len(picked), 256):
            parts.append(network(data.batch(picked[start : start + 256])))
    return Logits(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _fit_calibration(logits: Logits, targets: Targets, picked: Indices) -> Calibration:
    interest, hazards, sentiment = (part.double().numpy() for part in logits)
    return Calibration(
        interest=fit_platt(interest.ravel(), targets.interest[picked].ravel()),
        hazards=[fit_platt(hazards[:, i], targets.returned[picked, i]) for i in range(hazards.shape[1])],
        sentiment=fit_platt(sentiment, targets.positive[picked]),
    )


def fit_platt(logits: Floats, labels: Floats) -> Platt:
    """Fit scale and bias by Newton's method; unknown labels (NaN) are left out, few labels change little."""
    known = ~np.isnan(labels)
    x = np.column_stack([logits[known], np.ones(known.sum())])
    start = np.array([1.0, 0.0])
    fitted = start.copy()
    for _ in range(50):
        p = sigmoid(x @ fitted)
        gradient = x.T @ (p - labels[known]) + PLATT_PRIOR * (fitted - start)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + PLATT_PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        fitted -= np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-9:
            break
    return Platt(round(max(float(fitted[0]), MIN_PLATT_SCALE), 6), round(float(fitted[1]), 6))


def evaluate(found: Calibrated, data: Data, fitted: Indices, test: Indices, contract: Contract) -> dict[str, Any]:
    """Measure every head and its baselines on the test rows; None where the rows cannot tell."""
    churn: dict[str, Any] = {}
    fewest_sessions = -data.rows.features[test, FEATURE_SPEC.names.index(ACTIVITY_BASELINE)].astype(np.float64)
    for column, (days, stays_away) in enumerate(zip(contract.horizons_days, survival(found.hazards).T, strict=True)):
        away = data.targets.away[test, column]
        known = ~np.isnan(away)
        churn[f"{days}d"] = {
            "examples": int(known.sum()),
            "away_share": _rounded(away[known].mean()) if known.any() else None,
            "auc": auc(stays_away[known], away[known]),
            "auc_fewest_sessions": auc(fewest_sessions[known], away[known]),
            "brier": brier(stays_away[known], away[known]),
            "ece": ece(stays_away[known], away[known]),
        }
    wanted = data.targets.interest[test]
    known = ~np.isnan(wanted[:, 0])
    popularity = np.nanmean(data.targets.interest[fitted], axis=0)
    candidates = {
        "model": found.interest,
        "popularity": np.tile(popularity, (len(test), 1)),
        "recent_categories": data.rows.shares[test] + 1e-6 * popularity,
    }
    interest: dict[str, Any] = {"examples": int(known.sum()), "labels": len(contract.labels)}
    for name, scores in candidates.items():
        hit = hit_rate(scores[known], wanted[known])
        interest[name] = {"top3_hit_rate": hit, "micro_auc": auc(scores[known].ravel(), wanted[known].ravel())}
    interest["model"]["ece"] = ece(found.interest[known].ravel(), wanted[known].ravel())
    positive = data.targets.positive[test]
    rated = ~np.isnan(positive)
    right = (found.positive[rated] > 0.5) == (positive[rated] > 0.5)
    sentiment = {
        "examples": int(rated.sum()),
        "positive_share": _rounded(positive[rated].mean()) if rated.any() else None,
        "accuracy": _rounded(right.mean()) if rated.any() else None,
        "auc": auc(found.positive[rated], positive[rated]),
    }
    return {"churn": churn, "interest": interest, "sentiment": sentiment}


def auc(scores: Floats, labels: Floats) -> float | None:
    """Return the probability that a one outscores a zero, ties counting half; None without both."""
    ones = labels > 0.5
    if not 0 < ones.sum() < len(labels):
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    pairs = ones.sum() * (~ones).sum()
    return _rounded((rank[ones].sum() - ones.sum() * (ones.sum() + 1) / 2) / pairs)


def brier(probabilities: Floats, labels: Floats) -> float | None:
    """Return the mean squared difference of probability and outcome."""
    return _rounded(((probabilities - labels) ** 2).mean()) if len(labels) else None


def ece(probabilities: Floats, labels: Floats, bins: int = ECE_BINS) -> float | None:
    """Return the mean distance of claimed and observed share over bins of equal mass."""
    if not len(labels):
        return None
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return _rounded(sum(abs((probabilities[part] - labels[part]).sum()) for part in parts) / len(labels))


def hit_rate(scores: Floats, wanted: Floats, top: int = TOP) -> float | None:
    """Return the share of rows one of whose `top` best scored labels is wanted."""
    if not len(scores):
        return None
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return _rounded((np.take_along_axis(wanted, best, axis=1) > 0).any(axis=1).mean())


def _rounded(value: float) -> float:
    return round(float(value), 4)
