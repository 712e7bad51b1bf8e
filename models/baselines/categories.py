"""Labelled examples → which categories simple scorers expect next: popularity, personal shares, co-occurrence, logistic.

Each returns (N, K) scores of the labels, of which several may be wanted. Start at rank_categories.
"""

from collections.abc import Sequence

import numpy as np

from models.bootstrap import Floats
from models.examples import Example

POPULARITY_SHARE = 1e-3  # what popularity counts beside a user's own shares
MIN_WANTED = 5  # of a label in training: with fewer its logistic regression is its share


def rank_categories(train: Sequence[Example], test: Sequence[Example], labels: Sequence[str]) -> dict[str, Floats]:
    """Return (N, K) scores of every baseline, learnt from the training examples whose next categories are known."""
    known = [example for example in train if example.categories is not None]
    wanted, shares, asked = wanted_labels(known, labels), own_shares(known, labels), own_shares(test, labels)
    popular = np.nan_to_num(wanted.mean(0)) if len(known) else np.zeros(len(labels))
    following = (shares.T @ wanted) / np.maximum(shares.sum(0), 1e-9)[:, None]  # (K, K)
    return {
        "popularity": np.tile(popular, (len(test), 1)),
        "personal_frequency": asked + POPULARITY_SHARE * popular,
        "co_occurrence": asked @ following + POPULARITY_SHARE * popular,
        "logistic": _logistic(shares, wanted, asked, popular),
    }


def wanted_labels(examples: Sequence[Example], labels: Sequence[str]) -> Floats:
    """Return (N, K): 1 where the label is among the next categories; a row is NaN where they are unknown."""
    place = {label: column for column, label in enumerate(labels)}
    wanted = np.zeros((len(examples), len(labels)))
    for row, example in enumerate(examples):
        if example.categories is None:
            wanted[row] = np.nan
        else:
            wanted[row, [place[category] for category in example.categories if category in place]] = 1
    return wanted


def own_shares(examples: Sequence[Example], labels: Sequence[str]) -> Floats:
    """Return (N, K): each label's share of the user's decayed interest so far."""
    place = {label: column for column, label in enumerate(labels)}
    shares = np.zeros((len(examples), len(labels)))
    for row, example in enumerate(examples):
        for category, share in example.request.categories:
            if category in place:
                shares[row, place[category]] = share
    return shares


def _logistic(shares: Floats, wanted: Floats, asked: Floats, popular: Floats) -> Floats:
    """Fit one logistic regression per label on the log shares of all."""
    from sklearn.linear_model import LogisticRegression

    scores = np.tile(popular, (len(asked), 1))
    x, rows = np.log1p(1000 * shares), np.log1p(1000 * asked)
    for column in range(wanted.shape[1]):
        ones = wanted[:, column].sum()
        if min(ones, len(wanted) - ones) >= MIN_WANTED:
            model = LogisticRegression(max_iter=300, C=0.1).fit(x, wanted[:, column])
            scores[:, column] = model.predict_proba(rows)[:, 1]
    return scores
