"""Texts and their classes → the probabilities that simple scorers give other texts: majority, TF-IDF with regression.

Chinese is read by characters and their pairs, other languages by words and their pairs. Start at tfidf_logistic.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.bootstrap import Floats

BY_CHARACTER = frozenset({"zh", "ja"})
MIN_TEXTS, MAX_TERMS = 2, 200_000


def majority(train: Sequence[str], classes: Sequence[str]) -> Floats:
    """Return (K,): each class's share of the training texts."""
    return np.array([train.count(name) for name in classes], np.float64) / max(len(train), 1)


def tfidf_logistic(
    texts: Sequence[str], truth: Sequence[str], test: Sequence[str], classes: Sequence[str], language: str
) -> Floats:
    """Return (N, K) probabilities of the classes; one that training never met has probability 0.

    Raises:
        ValueError: training met fewer than two classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len(set(truth)) < 2:
        raise ValueError(f"found {len(set(truth))} classes among {len(truth)} training texts, expected 2 or more")
    model = make_pipeline(_vectorizer(language), LogisticRegression(C=4.0, max_iter=200))
    model.fit(list(texts), list(truth))
    known = list(model.classes_)
    found = model.predict_proba(list(test))
    probabilities = np.zeros((len(test), len(classes)))
    for column, name in enumerate(classes):
        if name in known:
            probabilities[:, column] = found[:, known.index(name)]
    return probabilities


def _vectorizer(language: str) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    if language in BY_CHARACTER:
        return TfidfVectorizer(
            analyzer="char", ngram_range=(1, 2), min_df=MIN_TEXTS, max_features=MAX_TERMS, sublinear_tf=True, dtype=np.float32
        )
    return TfidfVectorizer(ngram_range=(1, 2), min_df=MIN_TEXTS, max_features=MAX_TERMS, sublinear_tf=True, dtype=np.float32)
