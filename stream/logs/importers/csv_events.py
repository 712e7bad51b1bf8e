"""Import any shop's table as an event log, by a map of its columns.

A row that cannot become an event is dropped and counted by reason. The reason is that of its dead letter, or one of:
column_count, unmapped_kind, left_out (excluded by the map), unmapped_value, unreadable_time, unreadable_number. Start at
import_csv.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from schemas.codec import encode_event, refusal
from schemas.errors import DecodeError, LineRefused, LogError
from schemas.events import Event, Purchase, PurchaseLine
from schemas.topics import SOURCES
from stream.logs.event_log import ImportCounts, LoggedEvent
from stream.logs.importers.baskets import Baskets
from stream.logs.importers.csv_map import CsvMap, ValueFrom
from stream.logs.importers.logged_events import Samples, logged, reject
from stream.logs.importers.tables import open_table
from stream.logs.importers.times import time_reader

NUMBERS = {"price", "unit_price", "rating", "quantity", "dwell_ms", "result_count"}
LINE_FIELDS = {field.name for field in msgspec.structs.fields(PurchaseLine)}

E = TypeVar("E", bound=Event)
Row = dict[str, str]  # column → text


def import_csv(path: Path, mapping: CsvMap, samples: Samples) -> tuple[Iterator[LoggedEvent], ImportCounts]:
    """Read a table row by row; only purchases are held in memory, to group the rows of an order.

    Purchase rows with the same user and `order_id` are one purchase; without an `order_id` each row is one. A negative
    quantity is a return. The counts are complete once all events are read.

    Raises:
        LogError: the table lacks a column of the map, a format or zone is invalid, or it is not CSV.
    """
    counts = ImportCounts()
    return _Reader(mapping, counts, samples).events(path), counts


class _Reader:
    """Reads a table; holds its time format and the orders so far."""

    def __init__(self, mapping: CsvMap, counts: ImportCounts, samples: Samples) -> None:
        self._map, self._counts, self._samples = mapping, counts, samples
        self._fields = {kind: mapping.fields(kind) for kind in mapping.kinds}
        self._time = time_reader(mapping.time.format, mapping.time.zone)
        self._orders = Baskets("csv-order")

    def events(self, path: Path) -> Iterator[LoggedEvent]:
        with open_table(path, delimiter=self._map.delimiter, encoding=self._map.encoding) as table:
            if missing := sorted(self._map.columns() - set(table.columns)):
                raise LogError(f"{path} has columns {table.columns}, the map expects {', '.join(missing)} too: correct the map")
            for number, cells in table.rows:
                self._counts.lines_in += 1
                try:
                    if len(cells) != len(table.columns):
                        raise LineRefused("column_count", f"found {len(cells)} columns, expected {len(table.columns)}")
                    made = self._row_event(number, dict(zip(table.columns, cells, strict=True)))
                except (LineRefused, DecodeError) as error:
                    reject(self._counts, self._samples, number, error.reason, str(error))
                    continue
                if made is not None:
                    yield made
        for purchase in self._orders.events(visits=False):
            yield logged(purchase, self._counts)

    def _row_event(self, number: int, row: Row) -> LoggedEvent | None:
        """Return the event of a row; None for a purchase row, which is added to its order."""
        kind = _kind(self._map.kind, row)
        text = row[self._map.time.column]
        if (at_ms := self._time(text)) is None:
            raise LineRefused("unreadable_time", f"found {text[:80]!r}, expected {self._map.time.format}")
        found = {name: self._value(name, source, row) for name, source in self._fields[kind].items()}
        fields = {name: value for name, value in found.items() if value is not None} | {"event_time_ms": at_ms}
        if kind == "purchase":
            self._join_order(number, fields)
            made = None
        else:
            made = logged(_event(SOURCES[kind], {"event_id": f"csv-{number}"} | fields), self._counts)
        self._counts.keep(kind)
        return made

    def _join_order(self, number: int, fields: dict[str, Any]) -> None:
        if isinstance(quantity := fields.get("quantity"), int | float) and quantity < 0:
            fields |= {"quantity": -quantity, "returned": True}
        line = {name: fields.pop(name) for name in LINE_FIELDS & set(fields)}
        alone = _event(Purchase, fields | {"lines": [line]})
        encode_event(alone)  # raises here, before a bad line is added to the order
        order = number if alone.order_id is None else alone.order_id
        self._counts.note("lines_returned", alone.lines[0].returned)
        self._orders.add(alone.user_id, order, alone.event_time_ms, alone.currency, alone.order_id, alone.lines[0])

    def _value(self, name: str, source: ValueFrom, row: Row) -> str | int | float | bool | None:
        """Read a field of a row; None where it is empty."""
        if source.column is None:
            return source.constant
        text: str | None = row[source.column].strip()
        if source.values is not None:
            if text not in source.values:
                raise LineRefused("unmapped_value", f"found {source.column} {text!r}, expected {', '.join(source.values)}")
            text = source.values[text]
        if not text:
            return None
        if source.hashed:
            return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
        return self._number(source, text) if name in NUMBERS else text

    def _number(self, source: ValueFrom, text: str) -> int | float:
        plain = text.replace(" ", "")
        if self._map.decimal == ",":
            plain = plain.replace(".", "").replace(",", ".")
        try:
            number = float(plain)
            scaled = number if source.factor == 1 else round(number * source.factor, 6)
            return int(scaled) if scaled.is_integer() else scaled
        except (ValueError, OverflowError) as error:
            raise LineRefused("unreadable_number", f"found {source.column} {text!r}, expected a number") from error


def _kind(source: ValueFrom, row: Row) -> str:
    if source.column is None:
        return str(source.constant)
    values, text = source.values or {}, row[source.column].strip()
    if text not in values:
        raise LineRefused("unmapped_kind", f"found {source.column} {text!r}, expected {', '.join(values)}")
    if (kind := values[text]) is None:
        raise LineRefused("left_out", f"found {source.column} {text!r}, which the map excludes")
    return kind


def _event(struct: type[E], fields: dict[str, Any]) -> E:
    try:
        return msgspec.convert(fields, struct, strict=False)
    except msgspec.ValidationError as error:
        raise refusal(error) from error
