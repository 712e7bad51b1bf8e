"""Classify texts by logistic regression on the TF-IDF of their terms.

scikit-learn fits the model, and numpy alone predicts with it: a fitted model is a table of terms and a few arrays. How
texts are split into terms, and the strength of the regression, are chosen on held-out texts. Shapes: N texts, V terms,
C classes, R rows of weights. Start at best_terms.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from models.linear.linear_model import Floats, Indices, log_loss
from models.network.losses import UNKNOWN
from schemas.errors import CannotFit

STRENGTHS = (4.0, 1.0, 10.0)  # C of the regression; the first is used without held-out texts
MAX_TERMS = 50_000  # the most frequent; 131,788 did not improve on Chinese reviews (DECISIONS.md)
MIN_TEXTS = 2  # texts in which a term must occur
STEPS = 300
SPACES = re.compile(r"\s\s+")
WORD = re.compile(r"\b\w\w+\b")

Cut = Callable[[str], list[str]]  # text → its terms, with repetitions
Labelled = tuple[Sequence[str], Indices]  # texts and their classes, some of them UNKNOWN


def characters(text: str) -> list[str]:
    """Return a text's characters and pairs of characters, which work for every language."""
    text = SPACES.sub(" ", text.lower())
    return [*text, *map("".join, zip(text, text[1:], strict=False))]


def words(text: str) -> list[str]:
    """Return a text's words of two letters or more, and pairs of them."""
    return singly_and_paired(WORD.findall(text.lower()))


def singly_and_paired(tokens: list[str]) -> list[str]:
    """Return the tokens, then each token paired with the next."""
    return [*tokens, *map(" ".join, zip(tokens, tokens[1:], strict=False))]


class Terms(NamedTuple):
    """A fitted regression; `classes` are those in the training data, in the order of the weights' rows.

    Two classes share one row of weights, for the second class; with more classes each has its own row.
    """

    cut: Cut
    columns: dict[str, int]  # V terms → their columns
    idf: Floats  # (V,)
    weights: Floats  # (R, V)
    bias: Floats  # (R,)
    classes: Indices

    def probabilities(self, texts: Sequence[str], count: int) -> Floats:
        """Return (N, count) probabilities of the classes; a class absent from training has probability 0."""
        logits = np.array([self._logits(text) for text in texts]).reshape(len(texts), len(self.bias))
        if len(self.bias) == 1:
            logits = np.hstack([np.zeros_like(logits), logits])
        raised = np.exp(logits - logits.max(1, keepdims=True))
        return _all_classes(raised / raised.sum(1, keepdims=True), self.classes, count)

    def _logits(self, text: str) -> Floats:
        counts = Counter(term for term in self.cut(text) if term in self.columns)
        if not counts:
            return self.bias
        columns = [self.columns[term] for term in counts]
        values = (1 + np.log(np.fromiter(counts.values(), np.float64))) * self.idf[columns]
        found: Floats = self.weights[:, columns] @ (values / np.linalg.norm(values)) + self.bias
        return found


class Chosen(NamedTuple):
    """The terms with the least held-out loss, and the C of their regression."""

    terms: Terms
    strength: float


def best_terms(
    train: Labelled, validation: Labelled, cuts: Sequence[Cut] = (characters,), strengths: Sequence[float] = STRENGTHS
) -> Chosen:
    """Fit to `train`; choose cut and strength by log-loss on `validation`, or the first of each if that is empty.

    A cut for which no two texts share a term is skipped: Chinese texts seldom share words, as no spaces separate them.

    Raises:
        CannotFit: the training texts are of one class, or no two of them share a term.
    """
    from sklearn.linear_model import LogisticRegression

    (texts, labels), (held_out, truth) = _known(train), _known(validation)
    if (classes := len(np.unique(labels))) < 2:
        raise CannotFit(f"found {classes} classes among {len(texts)} training texts, expected 2 or more")
    count = 1 + int(max(labels.max(), truth.max(initial=0)))
    best: tuple[float, Chosen] | None = None
    for cut in cuts:
        try:
            vectoriser, matrix = _vectorised(texts, cut)
        except CannotFit as error:
            unshared = error
            continue
        check = vectoriser.transform(held_out) if held_out else None
        for strength in strengths:
            model = LogisticRegression(C=strength, max_iter=STEPS).fit(matrix, labels)
            loss = 0.0
            if check is not None:
                loss = log_loss(_all_classes(model.predict_proba(check), model.classes_, count), truth)
            if best is None or loss < best[0]:
                columns = {term: int(column) for term, column in vectoriser.vocabulary_.items()}
                terms = Terms(cut, columns, vectoriser.idf_, model.coef_, model.intercept_, model.classes_)
                best = loss, Chosen(terms, strength)
    if best is None:
        raise unshared
    return best[1]


def _known(texts: Labelled) -> tuple[list[str], Indices]:
    kept = np.flatnonzero(texts[1] != UNKNOWN)
    return [texts[0][row] for row in kept.tolist()], texts[1][kept]


def _vectorised(texts: list[str], cut: Cut) -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectoriser = TfidfVectorizer(analyzer=cut, min_df=MIN_TEXTS, max_features=MAX_TERMS, sublinear_tf=True)
    try:
        return vectoriser, vectoriser.fit_transform(texts)
    except ValueError as error:
        raise CannotFit(
            f"found no term that {MIN_TEXTS} of {len(texts)} training texts share ({error}), expected one: use more texts"
        ) from error


def _all_classes(probabilities: Floats, present: Indices, count: int) -> Floats:
    """Expand (N, present) columns to (N, count), one column per class."""
    full = np.zeros((len(probabilities), count))
    full[:, present] = probabilities
    return full
