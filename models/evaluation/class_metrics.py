"""Measure one head's class probabilities against labels: accuracy, macro-F1, AUC and the confusion matrix.

The same measures apply to the model, every baseline and their blend. Start at class_measures.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.linear.linear_model import SMALLEST, Floats, Indices, log_loss
from models.network.losses import UNKNOWN

PRIOR_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)


def class_measures(probabilities: Floats, classes: Indices, names: Sequence[str]) -> dict[str, Any]:
    """Measure (N, C) probabilities against (N,) classes, ignoring UNKNOWN; confusion rows are the true classes.

    For ranks (names are numbers), AUC is that of the expected rank against the top rank. For two classes, it is that of the
    last class. Otherwise it is the mean over one class against the rest. It is None if undefined.
    """
    from sklearn.metrics import confusion_matrix, f1_score

    known = classes != UNKNOWN
    probabilities, classes = probabilities[known], classes[known]
    found = probabilities.argmax(1)
    everything = list(range(len(names)))
    measures = {
        "examples": len(classes),
        "accuracy": _rounded((found == classes).mean()),
        "macro_f1": _rounded(f1_score(classes, found, labels=everything, average="macro", zero_division=0)),
        "auc": _auc(probabilities, classes, ranks=all(name.isdigit() for name in names)),
        "log_loss": _rounded(log_loss(probabilities, classes)),
        "confusion": confusion_matrix(classes, found, labels=everything).tolist(),
        "classes": list(names),
    }
    if all(name.isdigit() for name in names):
        measures["mean_absolute_error"] = _rounded(np.abs(found - classes).mean())
    return measures


def _auc(probabilities: Floats, classes: Indices, *, ranks: bool) -> float | None:
    from sklearn.metrics import roc_auc_score

    count = probabilities.shape[1]
    if ranks:
        pairs = [(probabilities @ np.arange(count), classes == count - 1)]
    elif count == 2:
        pairs = [(probabilities[:, 1], classes == 1)]
    else:
        pairs = [(probabilities[:, place], classes == place) for place in range(count)]
    known = [roc_auc_score(labels, scores) for scores, labels in pairs if 0 < labels.sum() < len(labels)]
    return _rounded(np.mean(known)) if known else None


def prior_power(probabilities: Floats, classes: Indices, shares: Floats) -> float:
    """Return the power t for which deciding by p / share^t has the best macro-F1 on these rows; 0 is the plain decision.

    If nearly all ratings are five stars, the plain decision is always five; t sets how much rarer classes count.
    It is 0 if no row's class is known.
    """
    from sklearn.metrics import f1_score

    known = classes != UNKNOWN
    if not known.any():
        return PRIOR_POWERS[0]
    scores = []
    for power in PRIOR_POWERS:
        found = reweighted(probabilities[known], shares, power).argmax(1)
        scores.append(f1_score(classes[known], found, average="macro", zero_division=0))
    return PRIOR_POWERS[int(np.argmax(scores))]


def reweighted(probabilities: Floats, shares: Floats, power: float) -> Floats:
    """Divide (N, C) probabilities by the class shares to a power, and normalise every row to 1."""
    weighted = probabilities / np.clip(shares, SMALLEST, 1) ** power
    return np.asarray(weighted / weighted.sum(1, keepdims=True), np.float64)


def _rounded(value: Any) -> float:
    return round(float(value), 4)
