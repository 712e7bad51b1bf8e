"""Reviews as counts of characters or words → class probabilities, by logistic regression; and by the class shares alone.

What a transformer must beat to be worth its cost. The regression's strength is chosen on the validation slice, as fair play
demands. Start at tf_idf.
"""

from collections.abc import Sequence

import numpy as np

from models.linear.linear_model import Floats, Indices
from models.linear.tfidf import Cut, Labelled, best_terms, characters
from models.network.losses import UNKNOWN
from schemas.errors import CannotFit


def majority(classes: Indices, count: int, rows: int) -> Floats:
    """Return (rows, count) copies of the classes' shares, UNKNOWN ones left out."""
    shares = np.bincount(classes[classes != UNKNOWN], minlength=count).astype(np.float64)
    return np.tile(shares / shares.sum(), (rows, 1))


def tf_idf(train: Labelled, validation: Labelled, texts: Sequence[str], count: int, cut: Cut = characters) -> Floats:
    """Fit on texts and classes of the training slice, return (N, count) probabilities of `texts`.

    The classes' shares answer where that slice is of one class, or no two of its texts share a term.
    """
    try:
        return best_terms(train, validation, (cut,)).terms.probabilities(texts, count)
    except CannotFit:
        return majority(train[1], count, len(texts))
