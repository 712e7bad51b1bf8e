"""Fill in the categories of score requests whose events carry none, from a map of items to categories.

The map comes from the shop's catalogue or from clusters of titles. A category in the event itself always takes precedence.
Start at with_item_categories.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from models.features.spec import KIND_WEIGHTS
from schemas.scoring import HistoryEntry, ScoreRequest
from schemas.time_units import DAY_MS

HALF_LIFE_DAYS = 30  # longer than a state's half-life, because a history reaches further back


def with_item_categories(requests: Sequence[ScoreRequest], categories: Mapping[str, str]) -> Sequence[ScoreRequest]:
    """Fill in missing categories of the history and missing category shares; `categories` maps items to categories."""
    return [_filled(request, categories) for request in requests] if categories else requests


def _filled(request: ScoreRequest, categories: Mapping[str, str]) -> ScoreRequest:
    history = [_named(entry, categories) for entry in request.history]
    return replace(request, history=history, categories=request.categories or shares_of(history, request.event_time_ms))


def _named(entry: HistoryEntry, categories: Mapping[str, str]) -> HistoryEntry:
    if entry.category is not None or entry.item_id is None or entry.item_id not in categories:
        return entry
    return replace(entry, category=categories[entry.item_id])


def shares_of(history: Sequence[HistoryEntry], at_ms: int) -> list[tuple[str, float]]:
    """Return the categories of a history, heaviest first, as shares of kind weights that halve with age in whole days."""
    today, weights = at_ms // DAY_MS, defaultdict[str, float](float)
    for entry in history:
        if entry.category is not None and (weight := KIND_WEIGHTS.get(entry.kind, 0)):
            age = max(today - entry.event_time_ms // DAY_MS, 0)
            weights[entry.category] += weight * 2.0 ** (-age / HALF_LIFE_DAYS)
    total = sum(weights.values())
    return sorted(((name, weight / total) for name, weight in weights.items() if total), key=lambda one: (-one[1], one[0]))
