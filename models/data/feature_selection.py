"""Rank features for a label by mutual information, permutation importance and stability of selection.

Mutual information is measured on the train slice. Permutation importance is the AUC that a gradient-boosted model loses on
a later slice when a column is shuffled. Stability is the share of bootstrap samples of users in which a sparse logistic
model keeps the column. The test slice is never read. Start at rank_features.
"""

from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.data.examples import Slice
from models.data.feature_table import FeatureTable

SILENCE = "landmark.silent_ms"
LATER = (Slice.VALIDATION, Slice.CALIBRATION)
MIN_EACH = 20  # examples of each class that a slice needs
MAX_ROWS = 10_000  # of the train slice, sampled if there are more: enough for a ranking
SPARSE_C, SHUFFLES = 0.05, 5
UNKNOWN = -2.0  # below every known value


class RankedFeature(Struct, frozen=True, kw_only=True):
    """One feature: mutual information in nats, AUC lost when it is shuffled, share of bootstrap samples that keep it.

    `mean_rank` is the mean of its three ranks; 1 is the best.
    """

    name: str
    mutual_information: float
    permutation: float
    stability: float
    mean_rank: float


class Ranking(Struct, frozen=True, kw_only=True):
    """All features, best first, and the data of the ranking; `auc` is the boosted model's on the later slice."""

    label: str
    train_examples: int
    later_slice: str
    later_examples: int
    auc: float
    bootstraps: int
    features: tuple[RankedFeature, ...]


class _Rows(NamedTuple):
    values: NDArray[np.float64]
    label: NDArray[np.float64]
    users: NDArray[np.str_]


def rank_features(table: FeatureTable, *, label: str | None = None, bootstraps: int = 20, seed: int = 1) -> Ranking:
    """Rank the features of a dataset for a label; the default is churn in the longest horizon with enough known labels.

    Raises:
        ValueError: there is no such label, or too few examples know it.
    """
    from sklearn.metrics import roc_auc_score

    name, later = _choose(table, label)
    train = _drawn(_rows(table, name, Slice.TRAIN), seed)
    held = _rows(table, name, later)
    model = _boosted(train, seed)
    information = _information(train, seed)
    lost = _permutation(model, held, seed)
    stability = _stability(train, bootstraps, seed)
    ranks = np.mean([_ranks(scores) for scores in (information, lost, stability)], axis=0)
    names = (*table.names, SILENCE)
    return Ranking(
        label=name,
        train_examples=len(train.label),
        later_slice=later.value,
        later_examples=len(held.label),
        auc=round(float(roc_auc_score(held.label, model.predict_proba(held.values)[:, 1])), 4),
        bootstraps=bootstraps,
        features=tuple(
            RankedFeature(
                name=names[i],
                mutual_information=round(float(information[i]), 5),
                permutation=round(float(lost[i]), 5),
                stability=round(float(stability[i]), 3),
                mean_rank=round(float(ranks[i]), 2),
            )
            for i in sorted(range(len(names)), key=lambda i: (ranks[i], names[i]))
        ),
    )


def _choose(table: FeatureTable, label: str | None) -> tuple[str, Slice]:
    """Choose the label, and the first later slice with enough examples of both classes."""
    if label is not None and label not in table.labels:
        raise ValueError(f"found label {label!r}, expected one of {', '.join(table.labels)}")
    candidates = [label] if label else [name for name in reversed(table.labels) if name.startswith("churned.")]
    for name in candidates:
        for later in LATER:
            if min(_rarer(_rows(table, name, Slice.TRAIN)), _rarer(_rows(table, name, later))) >= MIN_EACH:
                return name, later
    raise ValueError(
        f"found too few examples with a known {label or 'churn label'}, expected {MIN_EACH} or more of each class in "
        "the train slice, and in the validation or the calibration slice: make a dataset of more users or longer slices"
    )


def _rows(table: FeatureTable, label: str, name: Slice) -> _Rows:
    rows = (table.slices == name.value) & ~np.isnan(table.labels[label])
    values = np.column_stack([table.values[rows], table.silent_ms[rows]])
    return _Rows(np.nan_to_num(values, nan=UNKNOWN), table.labels[label][rows], table.users[rows])


def _drawn(rows: _Rows, seed: int) -> _Rows:
    if len(rows.label) <= MAX_ROWS:
        return rows
    chosen = np.sort(np.random.default_rng(seed).choice(len(rows.label), MAX_ROWS, replace=False))
    return _Rows(rows.values[chosen], rows.label[chosen], rows.users[chosen])


def _rarer(rows: _Rows) -> int:
    return int(min((rows.label == 1).sum(), (rows.label == 0).sum()))


def _boosted(rows: _Rows, seed: int):  # type: ignore[no-untyped-def]  # scikit-learn ships no types
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=100, max_leaf_nodes=15, random_state=seed).fit(rows.values, rows.label)


def _information(rows: _Rows, seed: int) -> NDArray[np.float64]:
    """Estimate mutual information from one example per user: several would let a feature identify the user."""
    from sklearn.feature_selection import mutual_info_classif

    shuffled = np.random.default_rng(seed).permutation(len(rows.label))
    one_each = shuffled[np.unique(rows.users[shuffled], return_index=True)[1]]
    ranked = np.column_stack([np.unique(column, return_inverse=True)[1] for column in rows.values[one_each].T])
    found: NDArray[np.float64] = mutual_info_classif(ranked, rows.label[one_each], random_state=seed)
    return found


def _permutation(model: object, rows: _Rows, seed: int) -> NDArray[np.float64]:
    from sklearn.inspection import permutation_importance

    found = permutation_importance(model, rows.values, rows.label, scoring="roc_auc", n_repeats=SHUFFLES, random_state=seed)
    lost: NDArray[np.float64] = found.importances_mean
    return lost


def _stability(rows: _Rows, bootstraps: int, seed: int) -> NDArray[np.float64]:
    """Return the share of bootstrap samples, drawn by user, in which an L1 logistic model keeps each column."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import QuantileTransformer

    quantiles = min(200, len(rows.label))
    values = QuantileTransformer(n_quantiles=quantiles, output_distribution="uniform").fit_transform(rows.values)
    values = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-9)
    users, members = np.unique(rows.users, return_inverse=True)
    order = np.argsort(members, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(members))[:-1])
    rng, kept = np.random.default_rng(seed), np.zeros(values.shape[1])
    for _ in range(bootstraps):
        drawn = np.concatenate([groups[user] for user in rng.integers(len(users), size=len(users))])
        if len(np.unique(rows.label[drawn])) < 2:
            continue
        model = LogisticRegression(l1_ratio=1.0, C=SPARSE_C, solver="liblinear", random_state=seed)
        kept += np.abs(model.fit(values[drawn], rows.label[drawn]).coef_[0]) > 1e-6
    return kept / max(1, bootstraps)


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    ranks: NDArray[np.float64] = rankdata(-scores)
    return ranks
