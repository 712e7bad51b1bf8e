"""Rank the next categories of test users with simple baselines, fitted on labelled examples.

The baselines are popularity, personal shares, co-occurrence and logistic regression. Each returns (N, K) scores of the
labels; several labels of a row can be relevant. Start at rank_categories.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from models.data.examples import Example
from models.evaluation.bootstrap import Floats

POPULARITY_SHARE = 1e-3  # weight of popularity beside a user's own shares
HISTORY_DECAY = 0.9  # per remembered event, where interest is derived from the items
MIN_POSITIVES = 5  # of a label in training: with fewer, its base rate replaces its logistic regression


def rank_categories(
    train: Sequence[Example], test: Sequence[Example], labels: Sequence[str], clusters: Mapping[str, str]
) -> dict[str, Floats]:
    """Return (N, K) scores of every baseline, fitted on the training examples whose next categories are known.

    `clusters` maps an item to its category, for items whose events carry none.
    """
    known = [example for example in train if example.categories is not None]
    relevant, shares = relevant_labels(known, labels), own_shares(known, labels, clusters)
    test_shares = own_shares(test, labels, clusters)
    popular = np.nan_to_num(relevant.mean(0)) if len(known) else np.zeros(len(labels))
    following = (shares.T @ relevant) / np.maximum(shares.sum(0), 1e-9)[:, None]  # (K, K)
    return {
        "popularity": np.tile(popular, (len(test), 1)),
        "personal_frequency": test_shares + POPULARITY_SHARE * popular,
        "co_occurrence": test_shares @ following + POPULARITY_SHARE * popular,
        "logistic": _logistic(shares, relevant, test_shares, popular),
    }


def relevant_labels(examples: Sequence[Example], labels: Sequence[str]) -> Floats:
    """Return (N, K): 1 where the label is among the next categories; a row is NaN if they are unknown."""
    place = {label: column for column, label in enumerate(labels)}
    relevant = np.zeros((len(examples), len(labels)))
    for row, example in enumerate(examples):
        if example.categories is None:
            relevant[row] = np.nan
        else:
            relevant[row, [place[category] for category in example.categories if category in place]] = 1
    return relevant


def own_shares(examples: Sequence[Example], labels: Sequence[str], clusters: Mapping[str, str]) -> Floats:
    """Return (N, K): each label's share of the user's decayed interest so far.

    A user without categories gets those of the remembered items, weighted towards newer ones.
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


def _logistic(shares: Floats, relevant: Floats, test_shares: Floats, popular: Floats) -> Floats:
    """Fit one logistic regression per label on the log shares of all."""
    from sklearn.linear_model import LogisticRegression

    scores = np.tile(popular, (len(test_shares), 1))
    x, rows = np.log1p(1000 * shares), np.log1p(1000 * test_shares)
    for column in range(relevant.shape[1]):
        ones = relevant[:, column].sum()
        if min(ones, len(relevant) - ones) >= MIN_POSITIVES:
            model = LogisticRegression(max_iter=300, C=0.1).fit(x, relevant[:, column])
            scores[:, column] = model.predict_proba(rows)[:, 1]
    return scores
