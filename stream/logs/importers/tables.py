"""Read the rows of a delimited text file, each with the line number at which it starts. Start at open_table."""

import csv
import gzip
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from msgspec import Struct

from schemas.errors import LogError

DELIMITERS = ",;\t|"
SNIFFED_LINES = 50
csv.field_size_limit(1 << 24)


class Table(Struct):
    """The columns of an open file, and its rows below the heading; an undecodable byte becomes a lone surrogate."""

    columns: list[str]
    rows: Iterator[tuple[int, list[str]]]


@contextmanager
def open_table(
    path: Path, *, delimiter: str | None = None, encoding: str = "utf-8-sig", heading: bool = True
) -> Iterator[Table]:
    """Open a table, gzipped or not; without a delimiter, choose the one that splits the first lines most evenly.

    Without a heading, the columns are named "1", "2" and so on.

    Raises:
        LogError: no such file, an unknown encoding, no line, two columns of one name, or not CSV in a later line.
    """
    with open_text(path, encoding=encoding) as file:
        first = [line for _, line in zip(range(SNIFFED_LINES), file, strict=False)]
        file.seek(0)
        rows = _rows(path, file, delimiter or _delimiter(first))
        number, columns = next(rows, (0, []))
        if not columns:
            raise LogError(f"{path} has no line, expected a table: choose another file")
        if not heading:
            names = [str(position) for position in range(1, len(columns) + 1)]
            yield Table(names, _with_first(number, columns, rows))
            return
        columns = [column.strip() for column in columns]
        if doubled := sorted({column for column in columns if columns.count(column) > 1}):
            raise LogError(f"{path} has two columns {', '.join(map(repr, doubled))}, expected each once: rename one")
        yield Table(columns, rows)


@contextmanager
def open_text(path: Path, *, encoding: str = "utf-8-sig") -> Iterator[IO[str]]:
    """Open a text file, gzipped or not; undecodable bytes become lone surrogates.

    Raises:
        LogError: there is no such file, or no such encoding.
    """
    if not path.is_file():
        raise LogError(f"{path} is not a file, expected one to import: check the path")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding=encoding, errors="surrogateescape", newline="") as file:
            yield file
    except LookupError as error:
        raise LogError(f"found encoding {encoding!r}, expected one such as utf-8 or cp1252: correct it") from error
    except (EOFError, gzip.BadGzipFile, UnicodeError) as error:
        raise LogError(
            f"{path} is truncated or not text in {encoding} ({error}): download it again or name its encoding"
        ) from error


def _rows(path: Path, file: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield rows that are not empty, each with the number of its first line."""
    reader = csv.reader(file, delimiter=delimiter)
    number = 1
    try:
        for row in reader:
            if row:
                yield number, row
            number = reader.line_num + 1
    except csv.Error as error:
        raise LogError(f"{path}:{reader.line_num} is not CSV ({error}): correct the line") from error


def _with_first(number: int, row: list[str], rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    yield number, row
    yield from rows


def _delimiter(lines: list[str]) -> str:
    """Choose the delimiter that gives the most lines an equal number of columns, and more than one."""

    def evenness(delimiter: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        wide = [width for width in widths if width > 1 and width == widths[0]]
        return len(wide), wide[0] if wide else 0

    return max(DELIMITERS, key=evenness)
