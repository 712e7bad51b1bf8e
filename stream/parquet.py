"""Rows, one after the other → Parquet files, one for each table, in memory that does not grow with them.

Rows wait in a database beside the files and become files at the end, whole or not at all. Knows nothing of what the
columns mean. Start at ParquetFiles.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import numpy as np

BATCH_ROWS = 2_048
UNFINISHED = "unfinished.duckdb"
MEMORY = "512MB"  # beyond it the database goes on in its file

Columns = Mapping[str, str]  # name → SQL type


class ParquetFiles:
    """Tables while they are written: file name → columns; leaving the block without an error writes the files."""

    def __init__(self, directory: Path, tables: Mapping[str, Columns]) -> None:
        """Begin files in a directory that exists."""
        self._directory, self._tables = directory, tables
        self._waiting: dict[str, list[tuple[Any, ...]]] = {name: [] for name in tables}
        self._database = duckdb.connect(directory / UNFINISHED, config={"memory_limit": MEMORY})
        for name, columns in tables.items():
            typed = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
            self._database.execute(f'CREATE TABLE "{name}" ({typed})')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                for name in self._tables:
                    self._insert(name)
                    path = str(self._directory / name).replace("'", "''")
                    self._database.execute(f"COPY \"{name}\" TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
        finally:
            self._database.close()
            for left in self._directory.glob(f"{UNFINISHED}*"):
                left.unlink()

    def add(self, name: str, row: tuple[Any, ...]) -> None:
        """Take one row, its values in the order of the columns; None is null."""
        waiting = self._waiting[name]
        waiting.append(row)
        if len(waiting) >= BATCH_ROWS:
            self._insert(name)

    def _insert(self, name: str) -> None:
        if not self._waiting[name]:
            return
        values = zip(*self._waiting[name], strict=True)
        columns = zip(self._tables[name].items(), values, strict=True)
        self._database.register("batch", {column: _array(kind, found) for (column, kind), found in columns})
        self._database.execute(f'INSERT INTO "{name}" SELECT * FROM batch')
        self._database.unregister("batch")
        self._waiting[name].clear()


def _array(kind: str, values: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    """Return (B,) values of a column; in one of numbers null is NaN, which the database reads as null."""
    if kind == "DOUBLE":
        return np.array(values, dtype=np.float64)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
