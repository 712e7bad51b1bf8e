"""Import a table of customer, date and optionally item, amount and quantity as purchases and derived visits.

No mapping file is needed: the delimiter, the columns and the date format are detected, unless an option names them. Lines of
one customer at one time become one purchase. Start at import_transactions.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
from msgspec import Struct

from schemas.codec import refusal
from schemas.errors import LineRefused, LogError
from schemas.events import PurchaseLine
from schemas.fields import USER_ID_PATTERN
from stream.logs.event_log import ImportCounts, LoggedEvent
from stream.logs.importers.baskets import Baskets
from stream.logs.importers.logged_events import Samples, logged, reject
from stream.logs.importers.tables import Table, open_table
from stream.logs.importers.times import fitting_format, time_reader

NAMES = {  # field → its usual headings, the most specific first, in lower case without spaces and punctuation
    "customer": (
        "customerid customerno customernumber customer clientid client userid user memberid member buyerid buyer shopperid "
        "shopper householdkey household accountid account cardid custid cust personid kundennummer kundennr kunde id"
    ),
    "date": (
        "datetime timestamp date invoicedate orderdate purchasedate transactiondate saledate orderedat purchasedat createdat "
        "eventtime time day dt datum"
    ),
    "item": (
        "itemid productid articleid sku stockcode asin ean upc itemcode productcode articlenumber item product article artikel "
        "description productname itemname"
    ),
    "amount": (
        "amount total totalamount totalprice linetotal sales salesvalue revenue value spend price unitprice paid sum "
        "betrag preis"
    ),
    "quantity": "quantity qty units pieces menge anzahl",
}
UNKNOWN_ITEM = "unknown"
WITH_POINT = re.compile(r"(?=.?\d)(\d*|[1-9]\d{0,2}(,\d{3})+)(\.\d*)?", re.ASCII)
WITH_COMMA = re.compile(r"(?=.?\d)(\d*|[1-9]\d{0,2}(\.\d{3})+)(,\d*)?", re.ASCII)
_is_user_id = re.compile(USER_ID_PATTERN).search


class Chosen(Struct, frozen=True):
    """The name of each field's column; None where the table has none. `unused` lists the other columns.

    An amount whose column is called a price is per piece, any other is for the whole line.
    """

    customer: str
    date: str
    item: str | None
    amount: str | None
    quantity: str | None
    date_format: str
    unused: list[str]

    @property
    def amount_is_price(self) -> bool:
        """Return whether an amount is the price of one piece."""
        return self.quantity is None or any(word in (self.amount or "").lower() for word in ("price", "preis"))


class TransactionOptions(Struct, frozen=True, kw_only=True):
    """The options that replace detection; `heading` is whether the table has a heading."""

    customer: str | None = None
    date: str | None = None
    item: str | None = None
    amount: str | None = None
    quantity: str | None = None
    date_format: str | None = None
    delimiter: str | None = None
    encoding: str = "utf-8-sig"
    heading: bool = True
    zone: str = "UTC"
    currency: str


def choose_columns(path: Path, options: TransactionOptions) -> Chosen:
    """Detect the column of each field and the date format; reads the file once.

    Raises:
        LogError: customer or date has no column, a named column is missing, or the dates fit no format or two.
    """
    with _opened(path, options) as table:
        taken: dict[str, str] = {}
        for what, known in NAMES.items():
            named = getattr(options, what)
            found = named if named is not None else _detected(table, known.split(), set(taken.values()))
            if named is not None and named not in table.columns:
                raise LogError(f"{path} has columns {table.columns}, expected {named!r} among them: correct --{what}")
            if found is None and what in ("customer", "date"):
                raise LogError(f"{path} has columns {table.columns}, expected one with the {what}: name it by --{what}")
            if found is not None:
                taken[what] = found
        at = table.columns.index(taken["date"])
        dates = (row[at] for _, row in table.rows if len(row) > at)
        form = options.date_format or fitting_format(dates, "--date-format")
        unused = [column for column in table.columns if column not in taken.values()]
    return Chosen(taken["customer"], taken["date"], taken.get("item"), taken.get("amount"), taken.get("quantity"), form, unused)


def import_transactions(
    path: Path, options: TransactionOptions, chosen: Chosen, samples: Samples
) -> tuple[Iterator[LoggedEvent], ImportCounts]:
    """Read a table; all of its lines are held in memory. The counts are complete once all events are read.

    Each purchase is preceded by a derived visit. A line without a quantity is one piece; a negative amount or quantity is
    a return. A customer that is not a valid user id is replaced by its hash.

    Raises:
        LogError: the currency is not valid.
    """
    if not re.fullmatch(r"[A-Z]{3}", options.currency):
        raise LogError(f"found currency {options.currency!r}, expected three letters such as EUR: correct --currency")
    derived = ["a visit at the time of each purchase", "lines of one customer at one time are one purchase"]
    if chosen.item is None:
        derived.append(f"the item of every line is {UNKNOWN_ITEM!r}")
    if chosen.amount is None:
        derived.append("the table has no amounts: every price is 0")
    elif not chosen.amount_is_price:
        derived.append("the price of a piece is the amount of its line divided by its quantity")
    counts = ImportCounts(derived=derived)
    return _events(path, options, chosen, counts, samples), counts


def _events(
    path: Path, options: TransactionOptions, chosen: Chosen, counts: ImportCounts, samples: Samples
) -> Iterator[LoggedEvent]:
    baskets, read_time = Baskets("tx"), time_reader(chosen.date_format, options.zone)
    with _opened(path, options) as table:
        wanted = (chosen.customer, chosen.date, chosen.item, chosen.amount, chosen.quantity)
        places = [None if name is None else table.columns.index(name) for name in wanted]
        for number, row in table.rows:
            counts.lines_in += 1
            if len(row) != len(table.columns):
                detail = f"found {len(row)} columns, expected {len(table.columns)}"
                reject(counts, samples, number, "column_count", detail)
                continue
            customer, date, item, amount, quantity = (None if place is None else row[place].strip() for place in places)
            try:
                user_id = _user_id(customer or "", counts)
                at_ms = read_time(date or "")
                if at_ms is None:
                    raise LineRefused("unreadable_time", f"found {date!r}, expected {chosen.date_format}")
                line = _line(item, amount, quantity, amount_is_price=chosen.amount_is_price)
            except LineRefused as refused:
                reject(counts, samples, number, refused.reason, str(refused))
                continue
            counts.keep("purchase")
            counts.note("lines_returned", line.returned)
            baskets.add(user_id, at_ms, at_ms, options.currency, None, line)
    for event in baskets.events(visits=True):
        yield logged(event, counts)


def _line(item: str | None, amount: str | None, quantity: str | None, *, amount_is_price: bool) -> PurchaseLine:
    if item == "":
        raise LineRefused("no_item", "found no item")
    money = 0.0 if amount is None else read_amount(amount)
    if money is None:
        raise LineRefused("unreadable_amount", f"found {amount!r}, expected a number")
    pieces = 1.0 if quantity is None else read_amount(quantity)
    if not pieces or not pieces.is_integer():
        raise LineRefused("unreadable_quantity", f"found {quantity!r}, expected a whole number other than 0")
    line = {
        "item_id": UNKNOWN_ITEM if item is None else item,
        "quantity": abs(int(pieces)),
        "unit_price": abs(money if amount_is_price else money / pieces),
        "returned": money < 0 or pieces < 0,
    }
    try:
        made = msgspec.convert(line, PurchaseLine)
        made.item_id.encode()
    except msgspec.ValidationError as error:
        raise LineRefused(refusal(error).reason, str(error)) from error
    except UnicodeEncodeError as error:
        raise LineRefused(
            "not_text", "found bytes that do not decode in the table's encoding: name it by --encoding"
        ) from error
    return made


def _user_id(customer: str, counts: ImportCounts) -> str:
    """Return the user id: the customer as written, `17850.0` as `17850`, or a hash of what cannot be an id."""
    customer = re.sub(r"^(\d+)\.0$", r"\1", customer)
    if not customer or customer.lower() in ("nan", "null", "none"):
        raise LineRefused("no_customer", "found no customer")
    if _is_user_id(customer):
        return customer
    counts.note("lines_of_hashed_customers")
    return hashlib.sha256(customer.encode(errors="surrogateescape")).hexdigest()[:32]


def read_amount(text: str) -> float | None:
    """Read `1,234.50`, `1.234,50`, `1,234`, `-€ 3` or `(3.00)`; None where it is not a number.

    A lone point is a decimal point; so is a lone comma, unless three digits follow it.
    """
    digits = re.sub(r"[\s'$£€¥]", "", text)
    negative = digits.startswith(("-", "(")) or digits.endswith("-")
    digits = digits.strip("-+()")
    if WITH_POINT.fullmatch(digits):
        plain = digits.replace(",", "")
    elif WITH_COMMA.fullmatch(digits):
        plain = digits.replace(".", "").replace(",", ".")
    else:
        return None
    return -float(plain) if negative else float(plain)


def _detected(table: Table, names: list[str], taken: set[str]) -> str | None:
    free = {re.sub(r"[^a-z0-9]", "", column.lower()): column for column in table.columns if column not in taken}
    return next((free[name] for name in names if name in free), None)


def _opened(path: Path, options: TransactionOptions) -> AbstractContextManager[Table]:
    return open_table(path, delimiter=options.delimiter, encoding=options.encoding, heading=options.heading)
