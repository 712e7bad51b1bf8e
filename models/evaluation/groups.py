"""Group test examples by properties of users or texts, and measure a model in each group.

This module also describes a user for a report's list of mistakes, without identifying the user. Start at user_groups.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from models.data.examples import Example, ReviewExample
from models.evaluation.bootstrap import Floats, Statistic, Weights, interval, replicate
from models.evaluation.outcomes import silent_days
from models.evaluation.report_document import Part
from models.features.spec import FEATURE_SPEC, KINDS
from schemas.time_units import DAY_MS

MIN_EXAMPLES, MIN_OF_EACH = 50, 10
NEW_DAYS = 30
MAX_GROUPS = 12  # per kind; the largest are kept
_AT = {name: place for place, name in enumerate(FEATURE_SPEC.names)}

Groups = dict[str, list[str]]  # kind of group → each example's group
GroupStatistic = Callable[[NDArray[np.int64]], Statistic]  # indices of a group's examples → their statistic


def user_groups(examples: Sequence[Example]) -> Groups:
    """Group users by month first seen, main category, activity, silence, and new or old."""
    tenure = [(example.request.features[_AT["user.tenure_ms"]] or 0) / DAY_MS for example in examples]
    first_ms = [example.request.event_time_ms - days * DAY_MS for example, days in zip(examples, tenure, strict=True)]
    silent = silent_days(examples)
    events = [sum(example.request.features[_AT[f"{kind}.count.life"]] or 0 for kind in KINDS) for example in examples]
    return {
        "first seen in": [f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m}" for at in first_ms],
        "main category": [(example.request.categories or [("none", 1.0)])[0][0] for example in examples],
        "events so far": [_band(count, (3, 10, 30)) for count in events],
        "days silent": [_band(days, (1, 7, 30)) for days in silent],
        "new or old": [
            f"new, under {NEW_DAYS} days" if days + gone < NEW_DAYS else "old"
            for days, gone in zip(tenure, silent, strict=True)
        ],
    }


def review_groups(reviews: Sequence[ReviewExample]) -> Groups:
    """Group reviews by language, category and length."""
    return {
        "language": [review.language for review in reviews],
        "category": [review.category or "none" for review in reviews],
        "characters": [_band(len(review.text), (20, 60, 200)) for review in reviews],
    }


def measure_groups(
    groups: Mapping[str, Sequence[str]],
    positives: Floats | None,
    weights: Weights,
    served: GroupStatistic,
    baseline: GroupStatistic,
) -> list[Part]:
    """Measure both scorers in every group with enough examples, under the weights that measured the whole.

    `served` and `baseline` build a statistic from the indices of a group's examples. `positives` (N,) are binary
    outcomes, and a group must contain both; None if the outcomes are not binary.
    """
    parts = []
    for kind, names in groups.items():
        column = np.asarray(names, dtype=object)
        found, counts = np.unique(column.astype(str), return_counts=True)
        largest = sorted(found[np.argsort(-counts, kind="stable")[:MAX_GROUPS]].tolist())
        for name in largest:
            picked = np.flatnonzero(column == name)
            count = 0 if positives is None else int(positives[picked].sum())
            both = positives is None or min(count, len(picked) - count) >= MIN_OF_EACH
            if len(picked) < MIN_EXAMPLES or len(picked) == len(column) or not both:
                continue
            drawn = weights[:, picked]
            model, base = replicate(served(picked), drawn), replicate(baseline(picked), drawn)
            parts.append(Part(kind, name, len(picked), count, interval(model), interval(base), interval(model - base)))
    return parts


def hashed(user_id: str) -> str:
    """Return a short hash that stands for a user in a report."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:10]


def user_facts(example: Example, silent: float) -> str:
    """Summarise what may explain a user's score, without anything that identifies the user."""
    request = example.request
    events = sum(request.features[_AT[f"{kind}.count.life"]] or 0 for kind in KINDS)
    bought = request.features[_AT["purchase.count.life"]] or 0
    tenure = (request.features[_AT["user.tenure_ms"]] or 0) / DAY_MS
    return f"{events:.0f} events, {bought:.0f} purchases in {tenure:.0f} days, silent for {silent:.1f} days"


def _band(value: float, bounds: Sequence[int]) -> str:
    """Return the band of a number: `up to 3`, `over 3 to 10`, `over 10`."""
    for below, bound in zip((None, *bounds), bounds, strict=False):
        if value <= bound:
            return f"up to {bound}" if below is None else f"over {below} to {bound}"
    return f"over {bounds[-1]}"
