"""Reviews as counts of characters or words → class probabilities, by logistic regression; and by the class shares alone.

What a transformer must beat to be worth its cost. The regression's strength is chosen on the validation slice, as fair play
demands. Start at tf_idf.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from models.losses import UNKNOWN
from models.text.measures import Floats, Indices, log_loss

STRENGTHS = (1.0, 10.0)  # C of the regression
MAX_FEATURES = 300_000


def majority(classes: Indices, count: int, rows: int) -> Floats:
    """Return (rows, count) copies of the classes' shares, UNKNOWN ones left out."""
    shares = np.bincount(classes[classes != UNKNOWN], minlength=count).astype(np.float64)
    return np.tile(shares / shares.sum(), (rows, 1))


def tf_idf(
    train: tuple[Sequence[str], Indices],
    validation: tuple[Sequence[str], Indices],
    texts: Sequence[str],
    count: int,
    analyser: Callable[[str], list[str]] | None = None,
) -> Floats:
    """Fit on texts and classes of the training slice, return (N, count) probabilities of `texts`.

    Terms are runs of one and two characters, which every language has, or the one- and two-word runs of an analyser.
    """
    from sklearn.linear_model import LogisticRegression

    learnt = [(text, label) for text, label in zip(*train, strict=True) if label != UNKNOWN]
    checked = [(text, label) for text, label in zip(*validation, strict=True) if label != UNKNOWN]
    terms = _vectoriser(analyser)
    matrix = terms.fit_transform([text for text, _ in learnt])
    labels = np.array([label for _, label in learnt])
    check = terms.transform([text for text, _ in checked])
    answers = np.array([label for _, label in checked])
    best: tuple[float, Any] | None = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=300).fit(matrix, labels)
        loss = log_loss(_all_classes(model.predict_proba(check), model.classes_, count), answers)
        if best is None or loss < best[0]:
            best = loss, model
    assert best is not None  # there is at least one strength
    return _all_classes(best[1].predict_proba(terms.transform(texts)), best[1].classes_, count)


def _vectoriser(analyser: Callable[[str], list[str]] | None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    settings: dict[str, Any] = {"ngram_range": (1, 2), "min_df": 2, "sublinear_tf": True, "max_features": MAX_FEATURES}
    if analyser is None:
        return TfidfVectorizer(analyzer="char", **settings)
    return TfidfVectorizer(tokenizer=analyser, token_pattern=None, lowercase=False, **settings)


def _all_classes(probabilities: Floats, present: Indices, count: int) -> Floats:
    """Put columns where their classes are; a class that training never met has probability 0."""
    full = np.zeros((len(probabilities), count))
    full[:, present] = probabilities
    return full
