"""What scorers read out of review texts and what the authors meant → how good each is: mood, stars, kind of article.

TF-IDF with logistic regression is fitted on earlier reviews, per language: Chinese by characters, others by words. Start at
evaluate_texts.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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

MIN_TRAINING, MIN_TEST = 20, 20
SHOWN_CHARACTERS = 60
BASELINES = ("majority", "tfidf_logistic")
BY_CHARACTER = frozenset({"zh", "ja"})
STAR_NAMES = tuple(str(star) for star in STARS)
SENTIMENTS = ("negative", "positive")

Indices = NDArray[np.int64]


class Question(NamedTuple):
    """One thing asked of reviews: the classes, what each training and test review is, and the measures that decide."""

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
    """Measure mood, stars and kind of article, of each what the served scorer answers and enough reviews tell."""
    served = candidates[setup.served]
    place = {id(review): row for row, review in enumerate(test)}
    answers = [
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
    for question, said in answers:
        enough = len(question.train) >= MIN_TRAINING and len(question.test) >= MIN_TEST
        if setup.served in said and enough and len(set(question.train_truth)) > 1:
            rows = np.array([place[id(review)] for review in question.test])
            heads.append(_head(question, {name: found[rows] for name, found in said.items()}, setup))
    return heads


def _sentiment(train: Sequence[ReviewExample], test: Sequence[ReviewExample]) -> Question:
    known, asked = ([review for review in part if review.positive is not None] for part in (train, test))
    truth = [[SENTIMENTS[bool(review.positive)] for review in part] for part in (known, asked)]
    return Question("sentiment", ("auc",), SENTIMENTS, known, truth[0], asked, truth[1])


def _stars(train: Sequence[ReviewExample], test: Sequence[ReviewExample]) -> Question:
    known, asked = ([review for review in part if review.stars is not None] for part in (train, test))
    truth = [[str(round(review.stars or 0)) for review in part] for part in (known, asked)]
    return Question("rating", ("auc",), STAR_NAMES, known, truth[0], asked, truth[1])


def _kind(train: Sequence[ReviewExample], test: Sequence[ReviewExample], labels: tuple[str, ...]) -> Question:
    known, asked = ([review for review in part if review.category in labels] for part in (train, test))
    truth = [[review.category or "" for review in part] for part in (known, asked)]
    return Question("text category", ("accuracy",), labels, known, truth[0], asked, truth[1])


def _head(question: Question, said: Mapping[str, Floats], setup: Setup) -> tuple[Head, Replicates]:
    asked, classes = question.test, question.classes
    scores = dict(said) | _baselines(question)
    truth = np.array([classes.index(name) for name in question.truth])
    statistics = {name: _statistics(question.head, found, truth) for name, found in scores.items()}
    weights = user_weights([_author(row, review) for row, review in enumerate(asked)], setup.replicates, setup.seed)
    compared = compare(statistics, weights, setup.served)
    served = scores[setup.served]
    best = best_baseline(compared, dict.fromkeys(BASELINES), question.measures[0]) or BASELINES[0]
    positives = (truth == 1).astype(np.float64) if question.head == "sentiment" else None
    parts = measure_groups(
        review_groups(asked), positives, weights, _by_group(question, served, truth), _by_group(question, scores[best], truth)
    )
    predicted = [classes[column] for column in served.argmax(1)]
    curves: dict[str, object] = {
        "confusion": {"labels": list(classes), "counts": confusion(question.truth, predicted, classes)},
        "classification_report": classification_report(question.truth, predicted, classes),
    }
    if question.head == "sentiment":
        ones = truth.astype(np.float64)
        curves["reliability"] = {name: reliability(scores[name][:, 1], ones) for name in (setup.served, best)}
        curves["roc"] = {name: roc_points(found[:, 1], ones) for name, found in scores.items()}
        curves["precision_recall"] = {name: precision_recall_points(scores[name][:, 1], ones) for name in (setup.served, best)}
    head = Head(
        head=question.head,
        n=len(asked),
        positives=int(truth.sum()) if question.head == "sentiment" else 0,
        users=len({_author(row, review) for row, review in enumerate(asked)}),
        served=setup.served,
        measures=question.measures,
        scorers=compared.scorers,
        differences=compared.differences,
        parts_measure="auc" if question.head == "sentiment" else "accuracy",
        parts=parts,
        mistakes=_mistakes(question, served, truth, setup.mistakes),
        curves=curves,
    )
    return head, compared.replicates


def _baselines(question: Question) -> dict[str, Floats]:
    """Answer by the shares of training, and by TF-IDF fitted on the training reviews of each language."""
    truth = np.array([question.classes.index(name) for name in question.train_truth])
    by_shares = majority(truth, len(question.classes), len(question.test))
    by_terms = by_shares.copy()
    for language in sorted({review.language for review in question.test}):
        known = [place for place, review in enumerate(question.train) if review.language == language]
        asked = [place for place, review in enumerate(question.test) if review.language == language]
        if len(known) >= MIN_TRAINING:
            try:
                by_terms[asked] = _tf_idf(question, truth, known, [question.test[place].text for place in asked], language)
            except CannotFit:  # these reviews say no more than the shares do
                continue
    return {"majority": by_shares, "tfidf_logistic": by_terms}


def _tf_idf(question: Question, truth: Indices, known: list[int], asked: list[str], language: str) -> Floats:
    """Choose the regression's strength on the validation slice, then learn from both slices."""

    def labelled(*slices: Slice) -> Labelled:
        rows = [place for place in known if question.train[place].slice in slices]
        return [question.train[place].text for place in rows], truth[rows]

    cuts = (characters if language in BY_CHARACTER else words,)
    try:
        strength = best_terms(labelled(Slice.TRAIN), labelled(Slice.VALIDATION), cuts).strength
    except CannotFit:  # both slices together may still teach
        strength = STRENGTHS[0]
    both = best_terms(labelled(Slice.TRAIN, Slice.VALIDATION), labelled(), cuts, (strength,))
    return both.terms.probabilities(asked, len(question.classes))


def _statistics(head: str, scores: Floats, truth: Indices) -> dict[str, Statistic]:
    if head == "sentiment":
        classes = class_statistics(scores, truth)
        return binary_statistics(scores[:, 1], truth.astype(np.float64)) | {"macro_f1": classes["macro_f1"]}
    if head == "rating":
        return rating_statistics(scores, truth.astype(np.float64) + 1)
    return class_statistics(scores, truth)


def _by_group(question: Question, scores: Floats, truth: Indices) -> GroupStatistic:
    """Measure a group by AUC for mood, by accuracy for what has more classes."""
    if question.head == "sentiment":
        return lambda picked: auc(scores[picked, 1], truth[picked].astype(np.float64))
    return lambda picked: mean((scores[picked].argmax(1) == truth[picked]).astype(np.float64))


def _mistakes(question: Question, scores: Floats, truth: Indices, count: int) -> list[Mistake]:
    """Pick the reviews that the served scorer was surest of and wrong about; texts are cut."""
    top = scores.argmax(1)
    sure = np.where(top != truth, scores.max(1), -np.inf)
    found = []
    for place in np.argsort(-sure, kind="stable")[:count]:
        if np.isfinite(sure[place]):
            review = question.test[place]
            text = review.text if len(review.text) <= SHOWN_CHARACTERS else review.text[:SHOWN_CHARACTERS] + "…"
            said = f"{question.classes[top[place]]} {sure[place]:.3f}"
            found.append(Mistake(hashed(review.user_id), said, question.truth[place], text))
    return found


def _author(row: int, review: ReviewExample) -> str:
    """Name the author that draws go by; a review of nobody stands for itself."""
    return review.user_id or f"review {row}"


def _pair(positive: Floats) -> Floats:
    return np.column_stack([1 - positive, positive])
