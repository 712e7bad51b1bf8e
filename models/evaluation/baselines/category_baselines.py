"""Labelled examples → which categories simple scorers expect next: popularity, personal shares, co-occurrence, logistic.

Each returns (N, K) scores of the labels, of which several may be wanted. Start at rank_categories.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from models.data.examples import Example
from models.evaluation.bootstrap import Floats

POPULARITY_SHARE = 1e-3  # what popularity counts beside a user's own shares
HISTORY_DECAY = 0.9  # per remembered event, where interest is read off the items
MIN_WANTED = 5  # of a label in training: with fewer its logistic regression is its share


def rank_categories(
    train: Sequence[Example], test: Sequence[Example], labels: Sequence[str], clusters: Mapping[str, str]
) -> dict[str, Floats]:
    """Return (N, K) scores of every baseline, learnt from the training examples whose next categories are known.

    `clusters` names the category of items whose events carry none.
    """
    known = [example for example in train if example.categories is not None]
    wanted, shares = wanted_labels(known, labels), own_shares(known, labels, clusters)
    asked = own_shares(test, labels, clusters)
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


def own_shares(examples: Sequence[Example], labels: Sequence[str], clusters: Mapping[str, str]) -> Floats:
    """Return (N, K): each label's share of the user's decayed interest so far.

    Of a user without categories it is what the remembered items belong to, newer ones more.
    """
    place = {label: column for column, label in enumerate(labels)}
    shares = np.zeros((len(examples), len(labels)))
    for row, example in enumerate(examples):
        weights = dict(example.request.categories) or _clustered(example, clusters)
        for category, weight in weights.items():
            if category in place:
                shares[row, place[category]] = weight / sum(weights.values())
    return shares


def _clustered(example: Example, clusters: Mapping[str, str]) -> dict[str, float]:
    weights: dict[str, float] = defaultdict(float)
    for age, entry in enumerate(reversed(example.request.history)):
        if (name := clusters.get(entry.item_id or "")) is not None:
            weights[name] += HISTORY_DECAY**age
    return weights


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
