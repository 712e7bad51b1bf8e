"""Change a user's history at random into another that the same user might have had, from a seeded generator.

Entries stay sorted by time, and no entry is added. This module knows no model. Start at changed_copies.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import structs

from models.data.examples import Example
from schemas.scoring import HistoryEntry

LEAST_SHARE, MASKED_SHARE, WINDOW_MS, DEVIATION_MS = 0.7, 0.1, 60_000, 20_000.0

History = Sequence[HistoryEntry]


def changed_copies(examples: Sequence[Example], copies: int, seed: int) -> list[Example]:
    """Return `copies` of each example with a changed history and the same labels; equal seeds give equal copies."""
    rng = np.random.default_rng(seed)
    return [_changed(example, rng) for _ in range(copies) for example in examples]


def _changed(example: Example, rng: np.random.Generator) -> Example:
    history = mask(crop(example.request.history, LEAST_SHARE, rng), MASKED_SHARE, rng)
    history = jitter(reorder(history, WINDOW_MS, rng), DEVIATION_MS, rng)
    return structs.replace(example, request=structs.replace(example.request, history=history))


def crop(history: History, min_share: float, rng: np.random.Generator) -> list[HistoryEntry]:
    """Keep the newest entries, at least `min_share` of them, as if the user had joined later."""
    fewest = max(1, int(np.ceil(min_share * len(history))))
    kept = int(rng.integers(fewest, len(history) + 1)) if history else 0
    return list(history[len(history) - kept :])


def mask(history: History, share: float, rng: np.random.Generator) -> list[HistoryEntry]:
    """Hide item, category, amount and text of about `share` of the entries; the events themselves stay."""
    hidden = rng.random(len(history)) < share
    return [
        structs.replace(entry, item_id=None, category=None, amount=0, text=None) if hide else entry
        for entry, hide in zip(history, hidden, strict=True)
    ]


def reorder(history: History, window_ms: int, rng: np.random.Generator) -> list[HistoryEntry]:
    """Shuffle the events among the times of entries within one window of `window_ms`."""
    changed: list[HistoryEntry] = []
    start = 0
    while start < len(history):
        end = start
        while end < len(history) and history[end].event_time_ms - history[start].event_time_ms < window_ms:
            end += 1
        for place, other in zip(range(start, end), rng.permutation(range(start, end)), strict=True):
            changed.append(structs.replace(history[int(other)], event_time_ms=history[place].event_time_ms))
        start = max(end, start + 1)
    return changed


def jitter(history: History, deviation_ms: float, rng: np.random.Generator) -> list[HistoryEntry]:
    """Shift every time by a normal amount, keeping the order; the newest time, that of the request, does not change."""
    if not history:
        return []
    times = np.array([entry.event_time_ms for entry in history], np.int64)
    moved = times + np.round(rng.normal(0, deviation_ms, len(times))).astype(np.int64)
    moved = np.minimum(np.maximum.accumulate(np.maximum(moved, 0)), times[-1])
    moved[-1] = times[-1]
    return [structs.replace(entry, event_time_ms=int(at)) for entry, at in zip(history, moved, strict=True)]
