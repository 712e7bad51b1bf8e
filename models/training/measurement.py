"""Compute the few test metrics that a trained model's checkpoint carries.

They have neither baselines nor intervals: those are in the report of footfall evaluate. Start at measure.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.examples import Example, churned_within, silent_ms
from models.evaluation.metrics import auc, ece
from models.network.survival import risk
from models.serving.checkpoint import Contract
from models.serving.scorer import Calibrated
from schemas.time_units import DAY_MS

Floats = NDArray[np.float64]
TOP = 3


def measure(
    found: Calibrated, positive: Floats, sentiments: NDArray[np.float32], examples: Sequence[Example], contract: Contract
) -> dict[str, Any]:
    """Measure every head; None where the examples do not suffice."""
    silent = np.array([silent_ms(example) / DAY_MS for example in examples])
    churn: dict[str, Any] = {}
    for days in contract.horizons_days:
        away = np.array([churned_within(example, days) for example in examples], np.float64)  # None becomes NaN
        known = ~np.isnan(away)
        risks = risk(found.hazards, silent, days, contract.horizons_days) if len(examples) else np.empty(0)
        churn[f"{days}d"] = {
            "examples": int(known.sum()),
            "away_share": _rounded(away[known].mean()) if known.any() else None,
            "auc": _auc(risks[known], away[known]),
            "brier": _rounded(((risks[known] - away[known]) ** 2).mean()) if known.any() else None,
            "ece": _rounded(ece(risks[known], away[known])(_once(known.sum()))[0]) if known.any() else None,
        }
    known_rows = [row for row, example in enumerate(examples) if example.categories]
    hits = []
    for row in known_rows:
        best = np.argsort(-found.interest[row], kind="stable")[:TOP]
        hits.append(any(contract.labels[label] in (examples[row].categories or ()) for label in best))
    right = (positive > 0.5) == (sentiments > 0.5)
    return {
        "churn": churn,
        "interest": {
            "examples": len(known_rows),
            "labels": len(contract.labels),
            "top3_hit_rate": _rounded(float(np.mean(hits))) if hits else None,
        },
        "sentiment": {
            "examples": len(sentiments),
            "positive_share": _rounded(sentiments.mean()) if len(sentiments) else None,
            "accuracy": _rounded(right.mean()) if len(sentiments) else None,
            "auc": _auc(positive, sentiments.astype(np.float64)),
        },
    }


def _auc(scores: Floats, labels: Floats) -> float | None:
    return _rounded(auc(scores, labels)(_once(len(labels)))[0]) if 0 < labels.sum() < len(labels) else None


def _once(examples: int) -> Floats:
    """Weight every example equally."""
    return np.ones((1, examples))


def _rounded(value: float) -> float:
    return round(float(value), 4)
