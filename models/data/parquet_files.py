"""Write rows that arrive one by one to Parquet files, one per table, in bounded memory.

Rows go to part files, which are joined at the end. If an error occurs while rows are added, no file is left. All Parquet
files are written by this module: `copy_to_parquet` writes the rows of a database query. Start at ParquetFiles.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:  # loaded where files are written
    from duckdb import DuckDBPyConnection

PART_ROWS, GROUP_ROWS = 4_096, 16_384  # held in memory while parts are written, and while they are joined
UNFINISHED = "unfinished"
MEMORY = "512MB"

Columns = Mapping[str, str]  # name → SQL type


class ParquetFiles:
    """Tables that are being written, by file name; leaving the `with` block without an error completes the files."""

    def __init__(self, directory: Path, tables: Mapping[str, Columns]) -> None:
        """Start files in an existing directory."""
        import duckdb

        self._directory, self._tables = directory, tables
        self._unfinished = directory / UNFINISHED
        self._unfinished.mkdir()
        self._waiting: dict[str, list[tuple[Any, ...]]] = {name: [] for name in tables}
        self._parts: dict[str, list[Path]] = {name: [] for name in tables}
        self._database = duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": str(self._unfinished / "spilled")})
        self._database.execute("SET threads = 1")  # equal rows make equal bytes
        self._database.execute(f"SET pandas_analyze_sample = {PART_ROWS}")  # a column's type is that of all its values

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                for name in self._tables:
                    self._write_part(name)
                for name, parts in self._parts.items():
                    joined, groups = ", ".join(map(_quoted, parts)), f", ROW_GROUP_SIZE {GROUP_ROWS}"
                    query = f"SELECT * FROM read_parquet([{joined}])"
                    copy_to_parquet(self._database, query, self._directory / name, options=groups)
        finally:
            self._database.close()
            shutil.rmtree(self._unfinished)

    def add(self, name: str, row: tuple[Any, ...]) -> None:
        """Add one row, with its values in the order of the columns; None is null."""
        waiting = self._waiting[name]
        waiting.append(row)
        if len(waiting) >= PART_ROWS:
            self._write_part(name)

    def _write_part(self, name: str) -> None:
        waiting, parts, columns = self._waiting[name], self._parts[name], self._tables[name]
        if not waiting and parts:
            return
        values = zip(*waiting, strict=True) if waiting else [()] * len(columns)
        batch = {column: _array(kind, found) for (column, kind), found in zip(columns.items(), values, strict=True)}
        typed = ", ".join(f'CAST("{column}" AS {kind}) AS "{column}"' for column, kind in columns.items())
        path = self._unfinished / f"{len(parts)}-{name}"
        self._database.register("batch", batch)
        copy_to_parquet(self._database, f"SELECT {typed} FROM batch", path, compression="snappy")
        self._database.unregister("batch")
        parts.append(path)
        waiting.clear()


def copy_to_parquet(
    database: "DuckDBPyConnection", query: str, path: Path, *, compression: str = "zstd", options: str = ""
) -> None:
    """Write the rows of a query to one file, in their order; `options` are further COPY options, with a leading comma."""
    database.execute(f"COPY ({query}) TO {_quoted(path)} (FORMAT parquet, COMPRESSION {compression}{options})")


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _array(kind: str, values: Any) -> np.ndarray[Any, Any]:
    """Return the (B,) values of a column; in a numeric column, null becomes NaN, which DuckDB reads as null."""
    if kind == "DOUBLE":
        return np.array(values, dtype=np.float64)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
