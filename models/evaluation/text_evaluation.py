"""Measure the sentiment, stars and category that scorers predict from review texts against the authors' labels.

TF-IDF with logistic regression is fitted on earlier reviews, per language: Chinese and Japanese by characters, others by
words. Start at evaluate_texts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.data.clean_text import clean_text
from models.data.examples import ReviewExample, Slice
from models.evaluation.baselines.review_baselines import majority
from models.evaluation.bootstrap import Floats, Statistic, user_weights
from models.evaluation.candidates import Candidate, Setup
from models.evaluation.churn_evaluation import best_baseline
from models.evaluation.comparison import Replicates, compare
from models.evaluation.groups import GroupStatistic, hashed, measure_groups, review_groups
from models.evaluation.metrics import (
    STARS,
    auc,
    binary_statistics,
    class_statistics,
    classification_report,
    confusion,
    mean,
    precision_recall_points,
    rating_statistics,
    reliability,
    roc_points,
)
from models.evaluation.report_document import Head, Mistake
from models.linear.tfidf import STRENGTHS, Labelled, best_terms, characters, words
from schemas.errors import CannotFit
from schemas.signals import Unread

MIN_TRAINING, MIN_TEST = 20, 20
SHOWN_CHARACTERS = 60
BASELINES = ("majority", "tfidf_logistic")
BY_CHARACTER = frozenset({"zh", "ja"})
STAR_NAMES = tuple(str(star) for star in STARS)
SENTIMENTS = ("negative", "positive")

Indices = NDArray[np.int64]


class Target(NamedTuple):
    """One target of reviews: its classes, the true classes of training and test reviews, and the measures that decide."""

    head: str
    measures: tuple[str, ...]
    classes: tuple[str, ...]
    train: list[ReviewExample]
    train_truth: list[str]
    test: list[ReviewExample]
    truth: list[str]


def evaluate_texts(
    train: Sequence[ReviewExample], test: Sequence[ReviewExample], candidates: Mapping[str, Candidate], setup: Setup
) -> list[tuple[Head, Replicates]]:
    """Measure sentiment, stars and category, if the served scorer predicts them and enough reviews are labelled."""
    served = candidates[setup.served]
    place = {id(review): row for row, review in enumerate(test)}
    targets = [
        (
            _sentiment(train, test),
            {name: _pair(found.positive) for name, found in candidates.items() if found.positive is not None},
        ),
        (_stars(train, test), {name: found.stars for name, found in candidates.items() if found.stars is not None}),
        (
            _kind(train, test, served.kind_labels),
            {
                name: found.kinds
                for name, found in candidates.items()
                if found.kinds is not None and found.kind_labels == served.kind_labels
            },
        ),
    ]
    heads = []
    for target, predictions in targets:
        enough = len(target.train) >= MIN_TRAINING and len(target.test) >= MIN_TEST
        if setup.served in predictions and enough and len(set(target.train_truth)) > 1:
            rows = np.array([place[id(review)] for review in target.test])
            unread = [served.unread[row] for row in rows.tolist()] if served.unread else []
            heads.append(_head(target, {name: found[rows] for name, found in predictions.items()}, unread, setup))
    return heads


def _sentiment(train: Sequence[ReviewExample], test: Sequence[ReviewExample]) -> Target:
    known, measured = ([review for review in part if review.positive is not None] for part in (train, test))
    truth = [[SENTIMENTS[bool(review.positive)] for review in part] for part in (known, measured)]
    return Target("sentiment", ("auc",), SENTIMENTS, known, truth[0], measured, truth[1])


def _stars(train: Sequence[ReviewExample], test: Sequence[ReviewExample]) -> Target:
    known, measured = ([review for review in part if review.stars is not None] for part in (train, test))
    truth = [[str(round(review.stars or 0)) for review in part] for part in (known, measured)]
    return Target("rating", ("auc",), STAR_NAMES, known, truth[0], measured, truth[1])


def _kind(train: Sequence[ReviewExample], test: Sequence[ReviewExample], labels: tuple[str, ...]) -> Target:
    known, measured = ([review for review in part if review.category in labels] for part in (train, test))
    truth = [[review.category or "" for review in part] for part in (known, measured)]
    return Target("text category", ("accuracy",), labels, known, truth[0], measured, truth[1])


def _head(
    target: Target, predictions: Mapping[str, Floats], unread: Sequence[Unread | None], setup: Setup
) -> tuple[Head, Replicates]:
    measured, classes = target.test, target.classes
    scores = dict(predictions) | _baselines(target)
    truth = np.array([classes.index(name) for name in target.truth])
    statistics = {name: _statistics(target.head, found, truth) for name, found in scores.items()}
    weights = user_weights([_author(row, review) for row, review in enumerate(measured)], setup.replicates, setup.seed)
    compared = compare(statistics, weights, setup.served)
    served = scores[setup.served]
    best = best_baseline(compared, dict.fromkeys(BASELINES), target.measures[0]) or BASELINES[0]
    positives = (truth == 1).astype(np.float64) if target.head == "sentiment" else None
    parts = measure_groups(
        review_groups(measured), positives, weights, _by_group(target, served, truth), _by_group(target, scores[best], truth)
    )
    predicted = [classes[column] for column in served.argmax(1)]
    curves: dict[str, object] = {
        "confusion": {"labels": list(classes), "counts": confusion(target.truth, predicted, classes)},
        "classification_report": classification_report(target.truth, predicted, classes),
    }
    if target.head == "sentiment":
        ones = truth.astype(np.float64)
        curves["reliability"] = {name: reliability(scores[name][:, 1], ones) for name in (setup.served, best)}
        curves["roc"] = {name: roc_points(found[:, 1], ones) for name, found in scores.items()}
        curves["precision_recall"] = {name: precision_recall_points(scores[name][:, 1], ones) for name in (setup.served, best)}
    head = Head(
        head=target.head,
        n=len(measured),
        positives=int(truth.sum()) if target.head == "sentiment" else 0,
        users=len({_author(row, review) for row, review in enumerate(measured)}),
        served=setup.served,
        measures=target.measures,
        scorers=compared.scorers,
        differences=compared.differences,
        parts_measure="auc" if target.head == "sentiment" else "accuracy",
        parts=parts,
        mistakes=_mistakes(target, served, truth, setup.mistakes),
        curves=curves,
        notes=_unread_notes(unread) if target.head == "sentiment" else [],
    )
    return head, compared.replicates


def _unread_notes(unread: Sequence[Unread | None]) -> list[str]:
    """Count the reviews without a sentiment, by reason."""
    counts = Counter(reason.value for reason in unread if reason is not None)
    if not counts:
        return []
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
    return [
        f"{counts.total()} of {len(unread)} reviews cannot be read, have no sentiment when served, and count as 0: {reasons}"
    ]


def _baselines(target: Target) -> dict[str, Floats]:
    """Predict by the class shares of training, and by TF-IDF fitted on the training reviews of each language."""
    truth = np.array([target.classes.index(name) for name in target.train_truth])
    by_shares = majority(truth, len(target.classes), len(target.test))
    by_terms = by_shares.copy()
    for language in sorted({review.language for review in target.test}):
        known = [place for place, review in enumerate(target.train) if review.language == language]
        measured = [place for place, review in enumerate(target.test) if review.language == language]
        if len(known) >= MIN_TRAINING:
            try:
                by_terms[measured] = _tf_idf(
                    target, truth, known, [clean_text(target.test[place].text) for place in measured], language
                )
            except CannotFit:  # keep the class shares for this language
                continue
    return {"majority": by_shares, "tfidf_logistic": by_terms}


def _tf_idf(target: Target, truth: Indices, known: list[int], measured: list[str], language: str) -> Floats:
    """Choose the regularisation strength on the validation slice, then fit on both slices."""

    def labelled(*slices: Slice) -> Labelled:
        rows = [place for place in known if target.train[place].slice in slices]
        return [clean_text(target.train[place].text) for place in rows], truth[rows]

    cuts = (characters if language in BY_CHARACTER else words,)
    try:
        strength = best_terms(labelled(Slice.TRAIN), labelled(Slice.VALIDATION), cuts).strength
    except CannotFit:  # both slices together may still suffice
        strength = STRENGTHS[0]
    both = best_terms(labelled(Slice.TRAIN, Slice.VALIDATION), labelled(), cuts, (strength,))
    return both.terms.probabilities(measured, len(target.classes))


def _statistics(head: str, scores: Floats, truth: Indices) -> dict[str, Statistic]:
    if head == "sentiment":
        classes = class_statistics(scores, truth)
        return binary_statistics(scores[:, 1], truth.astype(np.float64)) | {"macro_f1": classes["macro_f1"]}
    if head == "rating":
        return rating_statistics(scores, truth.astype(np.float64) + 1)
    return class_statistics(scores, truth)


def _by_group(target: Target, scores: Floats, truth: Indices) -> GroupStatistic:
    """Measure a group by AUC for sentiment, and by accuracy for targets with more classes."""
    if target.head == "sentiment":
        return lambda picked: auc(scores[picked, 1], truth[picked].astype(np.float64))
    return lambda picked: mean((scores[picked].argmax(1) == truth[picked]).astype(np.float64))


def _mistakes(target: Target, scores: Floats, truth: Indices, count: int) -> list[Mistake]:
    """Pick the most confident mistakes of the served scorer; texts are cut."""
    top = scores.argmax(1)
    confidence = np.where(top != truth, scores.max(1), -np.inf)
    found = []
    for place in np.argsort(-confidence, kind="stable")[:count]:
        if np.isfinite(confidence[place]):
            review = target.test[place]
            text = review.text if len(review.text) <= SHOWN_CHARACTERS else review.text[:SHOWN_CHARACTERS] + "…"
            prediction = f"{target.classes[top[place]]} {confidence[place]:.3f}"
            found.append(Mistake(hashed(review.user_id), prediction, target.truth[place], text))
    return found


def _author(row: int, review: ReviewExample) -> str:
    """Return the author to resample by; an anonymous review is its own author."""
    return review.user_id or f"review {row}"


def _pair(positive: Floats) -> Floats:
    return np.column_stack([1 - positive, positive])
