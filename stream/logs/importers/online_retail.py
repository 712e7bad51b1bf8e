"""Import UCI Online Retail day files (CSV, CC BY 4.0) as visits and purchases.

Input columns: InvoiceNo, StockCode, Description, Quantity, InvoiceDate, UnitPrice, CustomerID, Country. The lines of one
customer on one invoice become a purchase at the time of the first line (read as UTC). The files have no visits, so one
is derived before each purchase, credit notes (`C…`) included. Start at import_online_retail.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import msgspec

from schemas.codec import encode_event
from schemas.errors import LogError
from schemas.events import Event, Purchase, PurchaseLine, Visit
from schemas.fields import MAX_LINES
from stream.logs.event_log import ImportCounts, LoggedEvent

SOURCE = "UCI Online Retail (CC BY 4.0), times taken as UTC"
CURRENCY = "GBP"
COLUMNS = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"]
POSTAGE_CODES = frozenset({"POST", "DOT", "C2"})
ADJUSTMENT_CODES = frozenset({"M", "D", "S", "B", "CRUK", "BANK CHARGES", "AMAZONFEE"})


class Invoice(msgspec.Struct):
    """One customer's kept lines of one invoice; `number` counts the customers of an invoice, from 1."""

    at_ms: int
    number: int
    lines: list[PurchaseLine]


def import_online_retail(directory: Path) -> tuple[list[LoggedEvent], ImportCounts]:
    """Read every day file, in order of name; all events are held in memory.

    Some unusual lines are kept and counted in the notes: lines that repeat another (real quantities), lines without a
    price (gifts and corrections, amount 0), and returned lines. Purchases of more than MAX_LINES lines are split.

    Raises:
        LogError: the directory holds no day file, or one without the expected columns.
    """
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    invoices: dict[tuple[str, str], Invoice] = {}
    customers: Counter[str] = Counter()
    seen: set[tuple[str, ...]] = set()
    lines_in = kept = 0
    for row in _rows(directory):
        lines_in += 1
        line = _purchase_line(row)
        if isinstance(line, str):
            dropped[line] += 1
            continue
        kept += 1
        notes["lines_repeating_another"] += tuple(row) in seen
        seen.add(tuple(row))
        notes["lines_at_price_zero"] += line.unit_price == 0
        notes["lines_returned"] += line.returned
        invoice_no, customer = row[0].strip(), _user_id(row[6])
        found = invoices.get((invoice_no, customer))
        if found is None:
            customers[invoice_no] += 1
            found = invoices[invoice_no, customer] = Invoice(_milliseconds(row[4]) or 0, customers[invoice_no], [])
        found.lines.append(line)
    events = [event for (invoice_no, customer), invoice in invoices.items() for event in _events(invoice_no, customer, invoice)]
    counts = ImportCounts(
        lines_in=lines_in,
        lines_kept={"purchase": kept},
        lines_dropped=dict(sorted(dropped.items())),
        events=dict(sorted(Counter(event.kind for event in events).items())),
        notes=dict(sorted(notes.items())),
    )
    return events, counts


def _rows(directory: Path) -> Iterator[list[str]]:
    """Yield the lines below the headings."""
    paths = sorted(directory.glob("*.csv"))
    if not paths:
        raise LogError(f"{directory} holds no *.csv, expected the day files of UCI Online Retail: unpack them there")
    for path in paths:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            heading = next(rows, [])
            if heading != COLUMNS:
                raise LogError(f"{path} has columns {heading}, expected {COLUMNS}: give the directory of the day files")
            try:
                yield from rows
            except (csv.Error, UnicodeDecodeError) as error:
                raise LogError(f"{path}:{rows.line_num} is not CSV in UTF-8 ({error}): unpack the data set again") from error


def _purchase_line(row: list[str]) -> PurchaseLine | str:
    """Return one line of a purchase, or the reason why it is dropped."""
    if len(row) != len(COLUMNS):
        return "malformed"
    invoice_no, stock_code, description, quantity, at, price, customer, _ = row
    if not _user_id(customer):
        return "no_customer"
    if not invoice_no.strip() or not stock_code.strip():
        return "no_invoice_or_stock_code"
    if (code := stock_code.strip().upper()) in POSTAGE_CODES:
        return "postage"
    if code in ADJUSTMENT_CODES or invoice_no.startswith("A"):
        return "adjustment"
    if _milliseconds(at) is None:
        return "unreadable_time"
    try:
        count, unit_price = int(quantity), float(price)
    except ValueError:
        return "unreadable_number"
    if count == 0:
        return "quantity_zero"
    if unit_price < 0:
        return "negative_price"
    line = {"item_id": stock_code.strip(), "quantity": abs(count), "unit_price": unit_price}
    line |= {"title": description.strip() or None, "returned": invoice_no.startswith("C") or count < 0}
    try:
        return msgspec.convert(line, PurchaseLine)
    except msgspec.ValidationError:
        return "out_of_range"


def _user_id(customer: str) -> str:
    """Strip the `.0` that the export added to customer numbers: `17850.0` is `17850`."""
    return customer.strip().removesuffix(".0")


@lru_cache(maxsize=4096)
def _milliseconds(at: str) -> int | None:
    """Read `2010-12-01 08:26:00` as UTC; None where it is not a time since 1970."""
    try:
        milliseconds = int(datetime.fromisoformat(at.strip()).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        return None
    return milliseconds if milliseconds >= 0 else None


def _events(invoice_no: str, customer: str, invoice: Invoice) -> Iterator[LoggedEvent]:
    """Yield a visit and its purchases; ids depend on the invoice alone and are never shared by two customers."""
    at_ms, suffix = invoice.at_ms, "" if invoice.number == 1 else f"-{customer}"
    visit = Visit(user_id=customer, event_time_ms=at_ms, event_id=f"visit-{invoice_no}{suffix}", derived=True)
    yield _logged("visit", visit)
    for number, first in enumerate(range(0, len(invoice.lines), MAX_LINES), start=1):
        purchase = Purchase(
            user_id=customer,
            event_time_ms=at_ms,
            event_id=f"{invoice_no}{suffix}-{number}",
            currency=CURRENCY,
            lines=invoice.lines[first : first + MAX_LINES],
            order_id=invoice_no,
        )
        yield _logged("purchase", purchase)


def _logged(kind: str, event: Event) -> LoggedEvent:
    return LoggedEvent(kind, event.event_time_ms, event.user_id.encode(), encode_event(event))
