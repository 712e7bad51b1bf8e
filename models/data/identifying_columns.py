"""Find feature columns that identify the user: from them a model would learn who churned rather than why.

Such a column differs between users but stays constant for each user whose state changes. As evidence, nearest neighbours in
the column predict a label twice: once among all examples, and once among those of other users. If the first AUC is much
higher, the column identifies users. Start at memorised_columns.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from models.data.feature_table import FeatureTable

CONSTANT_SHARE = 0.99  # of users for whom the column never changes
UNIQUE_SHARE = 0.9  # distinct values per user
MIN_USERS, MIN_VALUES = 20, 20
GAP = 0.1  # AUC from the same user's examples above that from other users'
FOLDS, NEIGHBOURS = 5, 5


def memorised_columns(table: FeatureTable) -> Iterator[tuple[str, str]]:
    """Yield each identifying column of the train slice, and the evidence as text."""
    rows = (table.slices == "train") & _changing(table)
    users = table.users[rows]
    if np.unique(users).size < MIN_USERS:
        return
    order = np.argsort(users, kind="stable")
    values = np.nan_to_num(table.values[rows][order], nan=-1.0)
    _, starts = np.unique(users[order], return_index=True)
    constant = (np.minimum.reduceat(values, starts) == np.maximum.reduceat(values, starts)).mean(axis=0)
    for column in np.flatnonzero(constant >= CONSTANT_SHARE):
        of_users = values[starts, column]
        distinct = np.unique(of_users).size
        if distinct < MIN_VALUES:
            continue
        label, within, across = _aucs(table, rows, int(column))
        if distinct >= UNIQUE_SHARE * starts.size or within - across > GAP:
            yield (
                table.names[column],
                f"{distinct} values for {starts.size} users, constant for each; AUC for {label} {within:.2f} from the "
                f"same user's other examples, {across:.2f} from other users'",
            )


def _changing(table: FeatureTable) -> NDArray[np.bool_]:
    """Return the mask of rows of users with more than one state: within one state no column can change."""
    train = table.slices == "train"
    states = np.unique(np.stack([table.users[train], table.event_times_ms[train].astype(np.str_)]), axis=1)[0]
    users, counts = np.unique(states, return_counts=True)
    return np.isin(table.users, users[counts > 1])


def _aucs(table: FeatureTable, rows: NDArray[np.bool_], column: int) -> tuple[str, float, float]:
    """Return the most balanced label, and its AUC by nearest neighbours in the column: of any user, of other users."""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, KFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    name = max(table.labels, key=lambda label: _rarer(table.labels[label][rows]))
    known = rows & ~np.isnan(table.labels[name])
    truth, users = table.labels[name][known], table.users[known]
    if _rarer(truth) < FOLDS or np.unique(users).size < FOLDS:
        return name, 0.5, 0.5
    values = np.nan_to_num(table.values[known, column], nan=-1.0)
    ranks = np.unique(values, return_inverse=True)[1].reshape(-1, 1).astype(np.float64)
    model, found = KNeighborsClassifier(NEIGHBOURS, weights="distance"), list[float]()
    for folds, groups in ((KFold(FOLDS, shuffle=True, random_state=0), None), (GroupKFold(FOLDS), users)):
        scores = cross_val_predict(model, ranks, truth, groups=groups, cv=folds, method="predict_proba")[:, -1]
        found.append(float(roc_auc_score(truth, scores)))
    return name, found[0], found[1]


def _rarer(label: NDArray[np.float64]) -> int:
    """Count the rarer of a label's two values."""
    return int(min((label == 1).sum(), (label == 0).sum()))
