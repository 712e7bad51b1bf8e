"""Predict the class of a review by TF-IDF with logistic regression, or by the class shares alone.

A transformer must beat these baselines to justify its cost. The regularisation strength is chosen on the validation slice, so
that the comparison is fair. Start at tf_idf.
"""

from collections.abc import Sequence

import numpy as np

from models.linear.linear_model import Floats, Indices
from models.linear.tfidf import Cut, Labelled, best_terms, characters
from models.network.losses import UNKNOWN
from schemas.errors import CannotFit


def majority(classes: Indices, count: int, rows: int) -> Floats:
    """Return (rows, count) copies of the class shares, ignoring UNKNOWN."""
    shares = np.bincount(classes[classes != UNKNOWN], minlength=count).astype(np.float64)
    return np.tile(shares / shares.sum(), (rows, 1))


def tf_idf(train: Labelled, validation: Labelled, texts: Sequence[str], count: int, cut: Cut = characters) -> Floats:
    """Fit on texts and classes of the training slice; return (N, count) class probabilities of `texts`.

    Falls back to the class shares if that slice has only one class, or no two of its texts share a term.
    """
    try:
        return best_terms(train, validation, (cut,)).terms.probabilities(texts, count)
    except CannotFit:
        return majority(train[1], count, len(texts))
