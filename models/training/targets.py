"""Turn labelled examples into the arrays that a loss compares with a network's logits.

Shapes: N examples, K labels, H horizons, J next items. Start at make_targets.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.data.examples import Example, silent_ms
from models.data.labels import HORIZONS_DAYS
from models.network.inputs import Vocabulary
from models.network.survival import Exposures, exposures
from schemas.errors import TrainingError

MIN_HORIZON_EXAMPLES = 30  # observed in a horizon's bin; a horizon with fewer is left out
UNKNOWN = -1


class Targets(NamedTuple):
    """Labels of N examples; unknown ones do not contribute to the loss."""

    categories: NDArray[np.float32]  # (N, K) multi-hot, NaN is unknown
    next_category: NDArray[np.int64]  # (N,) the first of them; UNKNOWN if there is none or it is not a label
    exposure: NDArray[np.float32]  # (N, H)
    returned: NDArray[np.float32]  # (N, H)
    items: NDArray[np.int64]  # (N, J) vocabulary rows from 0, in order, UNKNOWN beyond the last


def make_targets(examples: Sequence[Example], known: Vocabulary, horizons: Sequence[int], next_items: int) -> Targets:
    """Build the targets of examples; items outside the vocabulary are left out."""
    n = len(examples)
    categories = np.full((n, len(known.labels)), np.nan, np.float32)
    next_category, items = np.full(n, UNKNOWN, np.int64), np.full((n, next_items), UNKNOWN, np.int64)
    for row, example in enumerate(examples):
        if example.categories is not None:
            categories[row] = 0
            places = [known.labels[name] - 1 for name in example.categories if name in known.labels]
            categories[row, places] = 1
            if example.categories and example.categories[0] in known.labels:
                next_category[row] = places[0]
        if example.items is not None and next_items:
            rows = [known.items[item] - 1 for item in example.items[:next_items] if item in known.items]
            items[row, : len(rows)] = rows
    bins = observed_returns(examples, horizons)
    return Targets(categories, next_category, bins.exposure.astype(np.float32), bins.returned.astype(np.float32), items)


def observed_returns(examples: Sequence[Example], horizons: Sequence[int] = HORIZONS_DAYS) -> Exposures:
    """Cut the observed returns of examples into bins; a user without an observed start of absence has no exposure."""
    absent = [np.nan if example.absent_ms is None else example.absent_ms for example in examples]
    observed = [example.observed_ms for example in examples]
    return exposures(absent, observed, [silent_ms(example) for example in examples], horizons)


def choose_labels(examples: Sequence[Example], *, at_most: int, least: int) -> list[str]:
    """Return the categories that follow most often, in alphabetical order; each follows at least `least` examples.

    Raises:
        TrainingError: there is none.
    """
    counts = Counter(category for example in examples for category in example.categories or ())
    labels = sorted(category for category in _most_frequent(counts, at_most) if counts[category] >= least)
    if not labels:
        raise TrainingError(
            f"found no category that follows {least} or more training examples, expected one: use a longer log, or create "
            "the dataset with --cluster-categories if its items have titles but no category"
        )
    return labels


def choose_items(examples: Sequence[Example], *, at_most: int, least: int) -> list[str]:
    """Return the items in the history or next items of at least `least` users: those of most users first."""
    users: dict[str, set[str]] = {}
    for example in examples:
        found = {entry.item_id for entry in example.request.history if entry.item_id is not None} | set(example.items or ())
        for item in found:
            users.setdefault(item, set()).add(example.request.user_id)
    counts = Counter({item: len(user_ids) for item, user_ids in users.items()})
    return [item for item in _most_frequent(counts, at_most) if counts[item] >= least]


def choose_horizons(examples: Sequence[Example]) -> list[int]:
    """Return the horizons in whose bins enough training examples were observed; longer ones cannot be learnt.

    Raises:
        TrainingError: there is none.
    """
    observed = (observed_returns(examples).exposure > 0).sum(0)
    horizons = []
    for days, count in zip(HORIZONS_DAYS, observed.tolist(), strict=True):
        if count < MIN_HORIZON_EXAMPLES:
            break
        horizons.append(days)
    if not horizons:
        raise TrainingError(
            f"found {observed[0]} training examples observed within {HORIZONS_DAYS[0]} day of the newest event or purchase, "
            f"expected {MIN_HORIZON_EXAMPLES} or more: use a longer log"
        )
    return horizons


def _most_frequent(counts: Counter[str], at_most: int) -> list[str]:
    return sorted(counts, key=lambda name: (-counts[name], name))[:at_most]
