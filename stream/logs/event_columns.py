"""Convert events to the columns of a log's files, as DuckDB reads them. Start at columns_of."""

from typing import Any

import numpy as np

from stream.logs.event_log import LoggedEvent


def columns_of(batch: list[LoggedEvent]) -> dict[str, np.ndarray[Any, Any]]:
    """Convert events to columns, each (B,)."""
    return {
        "kind": _objects([event.kind for event in batch]),
        "record_ms": np.array([event.record_ms for event in batch], dtype=np.int64),
        "key": _objects([event.key for event in batch]),
        "value": _objects([event.value for event in batch]),
        "partition": _objects([event.partition for event in batch]),
        "offset": _objects([event.offset for event in batch]),
        "headers": _objects([[{"name": name, "value": value} for name, value in event.headers] for event in batch]),
    }


def _objects(values: list[Any]) -> np.ndarray[Any, Any]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
