"""Score a dataset's examples at their landmarks with a checkpoint, for evaluation.

The scores come from the scorer of production, with its blend and its calibration. Start at predict.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.data.examples import Example, silent_ms
from models.network.survival import risk
from models.serving.scorer import Calibrated, Scorer
from schemas.time_units import DAY_MS

CHUNK_ROWS = 2_048

Floats = NDArray[np.float64]


class Predictions(Struct, frozen=True):
    """Predictions of a model for N examples.

    `risk` maps each horizon to (N,) P(no return within so many days of the landmark). `hazards` (N, H) count from the start
    of the silence, in the bins that end at `horizons_days`. `categories` (N, K) score `labels`. `items` are ranked item ids
    with their probabilities, best first; None if the model ranks no items.
    """

    risk: dict[int, Floats]
    hazards: Floats
    horizons_days: tuple[int, ...]
    categories: Floats
    labels: tuple[str, ...]
    items: list[list[tuple[str, float]]] | None


def predict(
    checkpoint: Path, examples: Sequence[Example], horizons_days: Sequence[int] = (), *, threads: int | None = None
) -> Predictions:
    """Score examples at their landmarks, in order; without `horizons_days`, risks are over the model's own horizons.

    Raises:
        ModelError: the checkpoint cannot be used.
        ModelError: its encoder cannot be loaded.
        ModelError: an example was made by another feature spec.
    """
    return predict_with(Scorer.load(checkpoint, threads=threads), examples, horizons_days)


def predict_with(scorer: Scorer, examples: Sequence[Example], horizons_days: Sequence[int] = ()) -> Predictions:
    """Score examples as `predict` does, with a loaded scorer."""
    requests = [example.request for example in examples]
    parts = [scorer.probabilities(requests[start : start + CHUNK_ROWS]) for start in range(0, len(requests), CHUNK_ROWS)]
    hazards = np.concatenate([np.empty((0, len(scorer.horizons_days))), *(part.hazards for part in parts)])
    silent = np.array([silent_ms(example) / DAY_MS for example in examples])
    return Predictions(
        {days: risk(hazards, silent, days, scorer.horizons_days) for days in horizons_days or scorer.horizons_days},
        hazards,
        scorer.horizons_days,
        np.concatenate([np.empty((0, len(scorer.labels))), *(part.interest for part in parts)]),
        scorer.labels,
        _items(parts) if scorer.ranks_items else None,
    )


def _items(parts: Sequence[Calibrated]) -> list[list[tuple[str, float]]]:
    return [best for part in parts for best in part.items]
