"""Load a mapping file (YAML) that says what each column of a shop's table means, and check it.

The check compares the map with the fields of the source events, before a row is read. example-map.yaml is an example. Start
at load_map.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import yaml
from msgspec import Struct

from schemas.errors import LogError
from schemas.events import Purchase, PurchaseLine
from schemas.topics import SOURCES

OWN = {"event_time_ms", "schema_version", "lines"}  # fields that the map cannot set


class ValueFrom(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The source of a field: a column, or a constant.

    `values` translates the column's values (others are refused), `factor` multiplies a number, `hashed` replaces a text
    by its hash, which a user id needs if it is an address or a name.
    """

    column: str | None = None
    constant: str | int | float | bool | None = None
    values: dict[str, str | None] | None = None
    factor: float = 1.0
    hashed: bool = False


class TimeFrom(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The source of a time: `format` is iso, seconds, milliseconds or a strptime format, `zone` the default time zone."""

    column: str
    format: str = "iso"
    zone: str = "UTC"


class CsvMap(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The meaning of a table's columns. `shared` are fields of every kind; a bare text as a field's source is a column.

    `kind.values` gives the kind of each row; null excludes the row.
    """

    source: str
    kind: ValueFrom
    time: TimeFrom
    kinds: dict[str, dict[str, str | ValueFrom]]
    shared: dict[str, str | ValueFrom] = {}
    delimiter: str | None = None
    encoding: str = "utf-8-sig"
    decimal: Literal[".", ","] = "."

    def fields(self, kind: str) -> dict[str, ValueFrom]:
        """Return the source of each field of a kind."""
        named = self.shared | self.kinds[kind]
        return {name: ValueFrom(column=found) if isinstance(found, str) else found for name, found in named.items()}

    def columns(self) -> set[str]:
        """Return every column that the map reads."""
        sources = [self.kind, *(source for kind in self.kinds for source in self.fields(kind).values())]
        return {source.column for source in sources if source.column is not None} | {self.time.column}


def load_map(path: Path) -> CsvMap:
    """Read a mapping file.

    Raises:
        LogError: there is no such file, it is not a mapping, or it does not fit the events; names every fault found.
    """
    try:
        found = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), CsvMap)
    except OSError as error:
        raise LogError(f"{path} cannot be read ({error.strerror}), expected a mapping file: check --map") from error
    except (yaml.YAMLError, ValueError) as error:  # also not UTF-8, no such date, or a field of another type
        raise LogError(f"{path} is not a mapping file ({error}), expected one as docs/how-to/ shows: correct it") from error
    if faults := list(_faults(found)):
        raise LogError(f"{path}: {'; '.join(faults)}: correct the map")
    return found


def settable(kind: str) -> dict[str, bool]:
    """Return the fields that a map may set for a kind, each with whether it must set it."""
    structs = (Purchase, PurchaseLine) if kind == "purchase" else (SOURCES[kind],)
    fields = {field.name: field.required for struct in structs for field in msgspec.structs.fields(struct)}
    if kind == "purchase":
        del fields["event_id"]  # rows of one order are one purchase, whose id is generated
    return {name: required for name, required in fields.items() if name not in OWN}


def _faults(found: CsvMap) -> Iterator[str]:
    if unknown := sorted(set(found.kinds) - set(SOURCES)):
        yield f"found kinds {', '.join(unknown)}, expected {', '.join(SOURCES)}"
        return
    yield from _source_faults("kind", found.kind)
    given = found.kind.values.values() if found.kind.values is not None else [found.kind.constant]
    if found.kind.column is not None and found.kind.values is None:
        yield "kind has a column but no values, expected values that give a kind for each text of the column"
    elif lost := sorted({str(kind) for kind in given if kind is not None} - set(found.kinds)):
        yield f"kind gives {', '.join(lost)}, expected one described under kinds ({', '.join(found.kinds)})"
    for kind in found.kinds:
        fields, allowed = found.fields(kind), settable(kind)
        if extra := sorted(set(fields) - set(allowed)):
            yield f"kinds.{kind} sets {', '.join(extra)}, expected only {', '.join(allowed)}"
        if missing := [name for name, required in allowed.items() if required and name not in fields]:
            yield f"kinds.{kind} lacks {', '.join(missing)}"
        for name, source in fields.items():
            yield from _source_faults(f"kinds.{kind}.{name}", source)


def _source_faults(where: str, source: ValueFrom) -> Iterator[str]:
    if (source.column is None) == (source.constant is None):
        yield f"{where} has {'neither' if source.column is None else 'both'}, expected either a column or a constant"
    if source.column is None and source.values is not None:
        yield f"{where} translates a constant, expected a column"
