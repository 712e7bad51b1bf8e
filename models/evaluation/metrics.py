"""Compute metrics of scores against outcomes, each as a statistic of example weights.

A statistic maps (R, N) weights to (R,) values. Weights of 1 give the metric itself, and the weights of bootstrap draws give
its spread. Outcomes are never unknown here. The module also computes curves for plots. It knows neither models nor files.
Start at binary_statistics.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation.bootstrap import Floats, Statistic

Indices = NDArray[np.int64]

ECE_BINS = 15
LIFT_SHARE = 0.1
THRESHOLD = 0.5
STARS = (1, 2, 3, 4, 5)


def binary_statistics(probabilities: Floats, labels: Floats) -> dict[str, Statistic]:
    """Return every metric of (N,) probabilities of a binary outcome, by name; decisions are taken at THRESHOLD."""
    decided = (probabilities > THRESHOLD).astype(np.float64)
    return {
        "auc": auc(probabilities, labels),
        "pr_auc": average_precision(probabilities, labels),
        "brier": mean((probabilities - labels) ** 2),
        "ece": ece(probabilities, labels),
        "lift_at_10": lift(probabilities, labels),
        "accuracy": mean((decided == labels).astype(np.float64)),
        "precision": ratio(decided * labels, decided),
        "recall": ratio(decided * labels, labels),
        "f1": ratio(2 * decided * labels, decided + labels),
    }


def mean(values: Floats) -> Statistic:
    """Average (N,) values."""
    return lambda weights: weights @ values / weights.sum(1)


def ratio(numerators: Floats, denominators: Floats) -> Statistic:
    """Divide one weighted sum by another; 0 where the divisor is 0."""

    def statistic(weights: Floats) -> Floats:
        below = weights @ denominators
        return np.where(below > 0, weights @ numerators / np.where(below > 0, below, 1), 0.0)

    return statistic


def auc(scores: Floats, labels: Floats) -> Statistic:
    """Return the probability that a positive outscores a negative, ties counting half; NaN without both."""
    order, starts = _tied_groups(scores)
    ones = labels[order]

    def statistic(weights: Floats) -> Floats:
        sorted_weights = weights[:, order]
        positives = np.add.reduceat(sorted_weights * ones, starts, axis=1)
        negatives = np.add.reduceat(sorted_weights * (1 - ones), starts, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives / 2
        return np.asarray((positives * below).sum(1) / (positives.sum(1) * negatives.sum(1)))

    return statistic


def average_precision(scores: Floats, labels: Floats) -> Statistic:
    """Return the area under the precision-recall steps; NaN without a positive."""
    order, starts = _tied_groups(-scores)
    ones = labels[order]

    def statistic(weights: Floats) -> Floats:
        sorted_weights = weights[:, order]
        positives = np.add.reduceat(sorted_weights * ones, starts, axis=1)
        found = np.cumsum(positives, axis=1)
        taken = np.cumsum(np.add.reduceat(sorted_weights, starts, axis=1), axis=1)
        return np.asarray((positives * found / np.maximum(taken, 1e-12)).sum(1) / found[:, -1])

    return statistic


def lift(scores: Floats, labels: Floats, share: float = LIFT_SHARE) -> Statistic:
    """Return the rate of positives among the `share` best scored, relative to that of all; ties are shared evenly."""
    order, starts = _tied_groups(-scores)
    ones = labels[order]

    def statistic(weights: Floats) -> Floats:
        sorted_weights = weights[:, order]
        mass = np.add.reduceat(sorted_weights, starts, axis=1)
        positives = np.add.reduceat(sorted_weights * ones, starts, axis=1)
        limit = share * mass.sum(1, keepdims=True)
        taken = np.clip(limit - (np.cumsum(mass, axis=1) - mass), 0, mass)
        found = (positives * taken / np.maximum(mass, 1e-12)).sum(1)
        return np.asarray(found / limit[:, 0] / (positives.sum(1) / mass.sum(1)))

    return statistic


def ece(probabilities: Floats, labels: Floats, bins: int = ECE_BINS) -> Statistic:
    """Return the mean gap between predicted and observed share over bins of equal mass, cut on the unweighted sample."""
    order = np.argsort(probabilities, kind="stable")
    starts = np.unique([part[0] for part in np.array_split(np.arange(len(order)), bins) if len(part)])
    gaps = (probabilities - labels)[order]

    def statistic(weights: Floats) -> Floats:
        return np.asarray(np.abs(np.add.reduceat(weights[:, order] * gaps, starts, axis=1)).sum(1) / weights.sum(1))

    return statistic


def label_statistics(scores: Floats, relevant: Floats, *, predicted: int) -> dict[str, Statistic]:
    """Return every metric of (N, K) scores of labels, by name; one or more labels per row are relevant.

    F1 uses the `predicted` best scored labels per row, the same number for every scorer: no threshold needs tuning.
    """
    ranks = rank_of_labels(scores)
    chosen = (ranks <= predicted).astype(np.float64)
    hits = chosen * relevant
    both = chosen + relevant

    def macro_f1(weights: Floats) -> Floats:
        found, total = weights @ hits, weights @ both
        occurs = weights @ relevant > 0
        return np.asarray((2 * found / np.maximum(total, 1e-12) * occurs).sum(1) / occurs.sum(1))

    return {
        "map": mean(label_precision(scores, relevant)),
        "hit_rate_3": mean(np.asarray((((ranks <= 3) * relevant) > 0).any(1), np.float64)),
        "ndcg_3": mean(_label_ndcg(ranks, relevant, 3)),
        "micro_f1": ratio(2 * hits.sum(1), both.sum(1)),
        "macro_f1": macro_f1,
    }


def rank_of_labels(scores: Floats) -> Indices:
    """Rank the labels of every row from 1; equal scores keep the order of the labels."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, scores.shape[1] + 1)[None, :], axis=1)
    return ranks


def ranking_statistics(ranked: Sequence[Sequence[str]], relevant: Sequence[Sequence[str]]) -> dict[str, Statistic]:
    """Return every metric of item lists, best first, against the items that followed, in order.

    The lists rank the whole catalogue, cut at 20 or more. HR, NDCG and MRR at 10 count any item that followed; metrics
    named `next` count only the first.
    """
    hits = _hits(ranked, relevant)
    first = _hits(ranked, [following[:1] for following in relevant])
    discount = 1 / np.log2(np.arange(2, 22))
    reciprocal = 1 / np.arange(1, 21)
    return {
        "hit_rate_10": mean(hits[:, :10].max(1)),
        "ndcg_10": mean(item_ndcg(ranked, relevant)),
        "mrr_10": mean((hits[:, :10] * reciprocal[:10]).max(1, initial=0)),
        "next_hit_rate_20": mean(first.sum(1)),
        "next_mrr_20": mean(first @ reciprocal),
        "next_ndcg_20": mean(first @ discount),
    }


def item_ndcg(ranked: Sequence[Sequence[str]], relevant: Sequence[Sequence[str]], top: int = 10) -> Floats:
    """Return (N,): each list's discounted gain at `top`, as a share of the ideal gain."""
    discount = 1 / np.log2(np.arange(2, top + 2))
    ideal = np.array([discount[: min(len(set(following)), top)].sum() for following in relevant])
    return np.asarray((_hits(ranked, relevant)[:, :top] @ discount) / np.maximum(ideal, 1e-12))


def class_statistics(probabilities: Floats, truth: Indices) -> dict[str, Statistic]:
    """Return every metric of (N, K) probabilities of exclusive classes; macro averages are over the classes that occur."""
    classes = np.arange(probabilities.shape[1])
    chosen = (probabilities.argmax(1)[:, None] == classes).astype(np.float64)
    true = (truth[:, None] == classes).astype(np.float64)

    def macro(weights: Floats, below: Floats, times: float) -> Floats:
        occurs = weights @ true > 0
        shares = times * (weights @ (chosen * true)) / np.maximum(weights @ below, 1e-12)
        return np.asarray((shares * occurs).sum(1) / occurs.sum(1))

    return {
        "accuracy": mean((chosen * true).sum(1)),
        "macro_precision": lambda weights: macro(weights, chosen, 1),
        "macro_recall": lambda weights: macro(weights, true, 1),
        "macro_f1": lambda weights: macro(weights, chosen + true, 2),
    }


def rating_statistics(probabilities: Floats, stars: Floats) -> dict[str, Statistic]:
    """Return every metric of (N, 5) probabilities of 1 to 5 stars; the error is that of the expected number of stars."""
    classes = class_statistics(probabilities, np.rint(stars).astype(np.int64) - 1)
    expected = probabilities @ np.array(STARS, np.float64)
    positive = probabilities[:, 3:].sum(1)
    return classes | {"mae": mean(np.abs(expected - stars)), "auc": auc(positive, (stars >= 4).astype(np.float64))}


def classification_report(truth: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Return precision, recall, F1 and support of every class, and their averages."""
    from sklearn.metrics import classification_report as of_sklearn

    report: dict[str, Any] = of_sklearn(truth, predicted, labels=list(labels), output_dict=True, zero_division=0)
    return {
        name: {key: round(float(value), 4) for key, value in part.items()} if isinstance(part, dict) else round(float(part), 4)
        for name, part in report.items()
    }


def confusion(truth: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> list[list[int]]:
    """Count true classes (rows) against predicted ones (columns)."""
    from sklearn.metrics import confusion_matrix

    found: list[list[int]] = confusion_matrix(truth, predicted, labels=list(labels)).tolist()
    return found


def reliability(probabilities: Floats, labels: Floats, bins: int = ECE_BINS) -> list[tuple[float, float, int]]:
    """Return (predicted share, observed share, examples) of every bin of equal mass."""
    parts = [part for part in np.array_split(np.argsort(probabilities, kind="stable"), bins) if len(part)]
    return [(_r(probabilities[part].mean()), _r(labels[part].mean()), len(part)) for part in parts]


def roc_points(scores: Floats, labels: Floats, points: int = 60) -> list[tuple[float, float]]:
    """Return (false positive rate, true positive rate), thinned to about `points`."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(labels, scores)
    return _thinned(false, true, points)


def precision_recall_points(scores: Floats, labels: Floats, points: int = 60) -> list[tuple[float, float]]:
    """Return (recall, precision), thinned to about `points`."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, scores)
    return _thinned(recall[::-1], precision[::-1], points)


def gain_points(scores: Floats, labels: Floats, parts: int = 20) -> list[tuple[float, float, float]]:
    """Return (share of users taken, best scored first; share of positives among them; lift)."""
    everyone = np.ones((1, len(labels)))
    shares = [(part + 1) / parts for part in range(parts)]
    lifts = [float(lift(scores, labels, share)(everyone)[0]) for share in shares]
    return [(_r(share), _r(share * found), _r(found)) for share, found in zip(shares, lifts, strict=True)]


def _tied_groups(scores: Floats) -> tuple[Indices, Indices]:
    """Return the ascending order, and where each group of equal scores starts in it."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    return order, starts


def label_precision(scores: Floats, relevant: Floats) -> Floats:
    """Return (N,): the precision at each relevant label's rank, averaged over the row's relevant labels."""
    ranks = rank_of_labels(scores)
    by_rank = np.take_along_axis(relevant, np.argsort(ranks, axis=1), axis=1)
    precision = np.cumsum(by_rank, axis=1) / np.arange(1, relevant.shape[1] + 1)
    return np.asarray((precision * by_rank).sum(1) / np.maximum(relevant.sum(1), 1))


def _hits(ranked: Sequence[Sequence[str]], relevant: Sequence[Sequence[str]]) -> Floats:
    """Return (N, 20): 1 where the item at a rank is relevant."""
    hits = np.zeros((len(ranked), 20))
    for row, (items, following) in enumerate(zip(ranked, relevant, strict=True)):
        sought = set(following)
        hits[row, : len(items[:20])] = [item in sought for item in items[:20]]
    return hits


def _label_ndcg(ranks: Indices, relevant: Floats, top: int) -> Floats:
    gain = (relevant * (ranks <= top) / np.log2(ranks + 1)).sum(1)
    ideal = np.cumsum(1 / np.log2(np.arange(2, top + 2)))
    return np.asarray(gain / ideal[np.clip(relevant.sum(1).astype(int), 1, top) - 1])


def _thinned(x: Floats, y: Floats, points: int) -> list[tuple[float, float]]:
    places = np.unique(np.linspace(0, len(x) - 1, min(points, len(x))).round().astype(int))
    return [(_r(x[place]), _r(y[place])) for place in places]


def _r(value: float) -> float:
    return round(float(value), 4)
