"""Lay out examples as a table: one row per example, one column per feature, plus the labels.

An unknown value is NaN. Start at table_of.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.data.examples import Example, churned_within, silent_ms
from models.data.labels import HORIZONS_DAYS

TOP_CATEGORIES = 8

Column = NDArray[np.float64]


class FeatureTable(Struct, frozen=True):
    """`values` is (N, F) in the order of `names`; each of `labels` and `times` is (N,); users and slices are text.

    `silent_ms` is a model's input beside the features. `labels` are 0 or 1 by name; `times` are the absent and observed
    times behind them in milliseconds.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    users: NDArray[np.str_]
    slices: NDArray[np.str_]
    event_times_ms: NDArray[np.int64]
    silent_ms: Column
    labels: dict[str, Column]
    times: dict[str, Column]


def table_of(examples: Sequence[Example], names: Sequence[str]) -> FeatureTable:
    """Lay out examples whose features are named `names`.

    Raises:
        ValueError: an example does not have one feature per name.
    """
    wrong = next((len(e.request.features) for e in examples if len(e.request.features) != len(names)), None)
    if wrong is not None:
        raise ValueError(f"found an example of {wrong} features, expected {len(names)}: make the dataset again")
    rows = [example.request.features for example in examples]
    labels = {"returned": _numbers([example.absent_ms is not None if example.observed_ms else None for example in examples])}
    for days in HORIZONS_DAYS:
        labels[f"churned.{days}d"] = _numbers([churned_within(example, days) for example in examples])
    for name in _frequent([example.categories for example in examples]):
        labels[f"next_category.{name}"] = _numbers([None if e.categories is None else name in e.categories for e in examples])
    return FeatureTable(
        names=tuple(names),
        values=np.array(rows, dtype=np.float64).reshape(len(examples), len(names)),
        users=np.array([example.request.user_id for example in examples], dtype=np.str_),
        slices=np.array([example.slice.value for example in examples], dtype=np.str_),
        event_times_ms=np.array([example.request.event_time_ms for example in examples], dtype=np.int64),
        silent_ms=_numbers([silent_ms(example) for example in examples]),
        labels=labels,
        times={
            "absent_ms": _numbers([example.absent_ms for example in examples]),
            "observed_ms": _numbers([example.observed_ms or None for example in examples]),
        },
    )


def _numbers(values: Sequence[float | None]) -> Column:
    return np.array(values, dtype=np.float64)


def _frequent(labels: Sequence[tuple[str, ...] | None]) -> list[str]:
    counts: dict[str, int] = {}
    for found in labels:
        for name in found or ():
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))[:TOP_CATEGORIES]
