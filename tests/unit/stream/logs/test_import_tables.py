"""Tables of any shop: found columns and dates, mapped columns, and our own events as JSON lines."""

import gzip
import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from schemas.codec import event_decoder
from schemas.errors import LogError
from schemas.topics import SOURCES
from stream.cli.main import app
from stream.logs.event_log import read_log, read_manifest
from stream.logs.importers.csv_events import import_csv
from stream.logs.importers.csv_map import load_map
from stream.logs.importers.jsonl import import_jsonl
from stream.logs.importers.transactions import TransactionOptions, choose_columns, import_transactions, read_amount
from stream.offline.replay_log import Replay
from stream.process.settings import load_settings
from tests.builders import ROOT

DECODERS = {kind: event_decoder(struct) for kind, struct in SOURCES.items()}
EXAMPLE = ROOT / "stream/logs/importers/example-map.yaml"
EXAMPLE_HEADING = "Aktion;Zeitpunkt;E-Mail;Artikel;Warengruppe;Bezeichnung;Preis;Sekunden;Bestellung;Menge;Wert"


def ms(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def decoded(imported):
    """Read all events of an import, checked as a role would, and its counts, which must account for every line."""
    events, counts = imported
    found = [DECODERS[event.kind](event.key, event.value) for event in events]
    assert counts.lines_in == sum(counts.lines_kept.values()) + sum(counts.lines_dropped.values())
    assert sum(counts.events.values()) == len(found)
    return found, counts


def transactions(tmp_path, text, **options):
    path = tmp_path / "table.csv"
    path.write_text(text)
    chosen = TransactionOptions(**{"currency": "EUR"} | options)
    return decoded(import_transactions(path, chosen, choose_columns(path, chosen), {}))


def mapped(tmp_path, *rows, mapping=EXAMPLE, heading=EXAMPLE_HEADING):
    path = tmp_path / "export.csv"
    path.write_text("\n".join((heading, *rows)) + "\n")
    samples = {}
    return *decoded(import_csv(path, load_map(mapping), samples)), samples


def json_lines(tmp_path, *lines):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    samples = {}
    return import_jsonl(path, samples), samples


@pytest.mark.parametrize(
    "text",
    [
        "customer,date,item,amount\nc-1,2020-01-02,mug,3.50\nc-1,2020-01-02,cup,2\n",
        "Client ID;Order Date;SKU;Total\nc-1;02.01.2020;mug;3,50\nc-1;02.01.2020;cup;2\n",
        "user_id\tTimestamp\tproduct_id\tprice\nc-1\t1577923200\tmug\t$3.50\nc-1\t1577923200\tcup\t2.00\n",
        'CUST_ID|DAY|Product|Revenue\nc-1|20200102|"mug"|3.5\nc-1|20200102|cup|2\n',
    ],
)
def test_a_transactions_table_needs_no_mapping(tmp_path, text):
    (visit, purchase), counts = transactions(tmp_path, text)

    assert (visit.user_id, visit.derived, visit.event_time_ms) == ("c-1", True, ms("2020-01-02"))
    assert [(line.item_id, line.unit_price) for line in purchase.lines] == [("mug", 3.5), ("cup", 2.0)]
    assert (purchase.event_time_ms, purchase.currency) == (ms("2020-01-02"), "EUR")
    assert counts.lines_kept == {"purchase": 2}


def test_customer_and_date_alone_are_enough(tmp_path):
    events, counts = transactions(tmp_path, "customer,date\n17850.0,2020-01-02 08:00\n17850.0,2020-01-03 08:00\n")

    assert [event.user_id for event in events] == ["17850"] * 4
    assert [event.lines[0].item_id for event in events[1::2]] == ["unknown", "unknown"]
    assert "every price is 0" in counts.derived[-1]


@pytest.mark.parametrize(("heading", "price"), [("Unit Price", 6.0), ("Total", 2.0)])
def test_a_price_is_of_a_piece_and_any_other_amount_of_the_line(tmp_path, heading, price):
    (_, purchase), counts = transactions(tmp_path, f"customer,date,{heading},Qty\nu,2020-01-01,6,3\nu,2020-01-01,6,-3\n")

    assert [(line.unit_price, line.quantity, line.returned) for line in purchase.lines] == [(price, 3, False), (price, 3, True)]
    assert any("by its quantity" in derived for derived in counts.derived) == (heading == "Total")


@pytest.mark.parametrize("quantity", ["0", "2.5", "many", ""])
def test_a_line_of_no_whole_number_of_pieces_is_dropped(tmp_path, quantity):
    events, counts = transactions(tmp_path, f"customer,date,quantity\nu,2020-01-01,{quantity}\n")

    assert (events, counts.lines_dropped) == ([], {"unreadable_quantity": 1})


def test_columns_can_be_named_where_their_names_say_nothing_or_are_not_there(tmp_path):
    named, _ = transactions(tmp_path, "a,b,c\n9,2020-01-02,x\n", customer="c", date="b", item="a")
    numbered, _ = transactions(tmp_path, "9,2020-01-02,x\n", customer="3", date="2", heading=False)

    assert (named[1].user_id, named[1].lines[0].item_id) == ("x", "9")
    assert [event.user_id for event in numbered] == ["x", "x"]


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        ("a,date\n1,2020-01-01\n", {}, "expected one with the customer: name it by --customer"),
        ("customer,b\n1,2020-01-01\n", {}, "expected one with the date: name it by --date"),
        ("customer,date\n1,2020-01-01\n", {"item": "sku"}, "expected 'sku' among them: correct --item"),
        ("customer,date\n1,01/02/2020\n2,03/04/2020\n", {}, "fit %d/%m/%Y and %m/%d/%Y: choose one by --date-format"),
        ("customer,date\n1,soon\n", {}, "expected a common format: name it, as in --date-format"),
        ("customer,date\n1,2020-01-01\n", {"currency": "eur"}, "found currency 'eur', expected three letters"),
        ("customer,date\n1,2020-01-01\n", {"zone": "Mars/Base"}, "found time zone 'Mars/Base'"),
        ("customer,date\n1,2020-01-01\n", {"encoding": "utf-99"}, "found encoding 'utf-99'"),
        ("customer,customer,date\n1,1,2020-01-01\n", {}, "two columns 'customer'"),
        ("", {}, "has no line"),
    ],
)
def test_a_table_that_cannot_be_understood_is_refused_with_what_to_say(tmp_path, text, options, complaint):
    with pytest.raises(LogError, match=complaint):
        transactions(tmp_path, text, **options)


def test_one_day_that_is_no_month_tells_days_from_months(tmp_path):
    events, _ = transactions(tmp_path, "customer,date\n1,01/02/2020\n2,13/02/2020\n")

    assert [event.event_time_ms for event in events[::2]] == [ms("2020-02-01"), ms("2020-02-13")]


def test_dates_are_those_of_the_zone(tmp_path):
    events, _ = transactions(tmp_path, "customer,date\n1,2020-07-01 02:00\n", zone="Europe/Berlin")

    assert events[0].event_time_ms == ms("2020-07-01T00:00")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",2020-01-01,a,1", "no_customer"),
        ("nan,2020-01-01,a,1", "no_customer"),
        ("u,someday,a,1", "unreadable_time"),
        ("u,2020-01-01,,1", "no_item"),
        ("u,2020-01-01,a,free", "unreadable_amount"),
        ("u,2020-01-01,a,9999999999", "out_of_range"),
        (f"u,2020-01-01,{'a' * 65},1", "text_too_long"),
        ("u,2020-01-01", "column_count"),
    ],
)
def test_a_transaction_that_cannot_be_read_is_dropped_and_counted(tmp_path, row, reason):
    events, counts = transactions(tmp_path, f"customer,date,item,amount\nu,2020-01-01,a,1\nu,2020-01-01,b,1\n{row}\n")

    assert len(events) == 2
    assert counts.lines_dropped == {reason: 1}


def test_a_negative_amount_takes_goods_back_and_an_address_becomes_a_hash(tmp_path):
    (_, purchase), counts = transactions(tmp_path, "email,user,date,price\nx,a@b.example,2020-01-01,-3\n")

    assert (purchase.lines[0].returned, purchase.lines[0].unit_price) == (True, 3.0)
    assert len(purchase.user_id) == 32 and "@" not in purchase.user_id
    assert counts.notes == {"lines_returned": 1, "lines_of_hashed_customers": 1}


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("3", 3.0),
        ("-3.50", -3.5),
        ("1,234.50", 1234.5),
        ("1.234,50", 1234.5),
        ("1,234", 1234.0),
        ("1.234", 1.234),
        ("0,5", 0.5),
        ("1.234.567", 1234567.0),
        ("€ 3,00", 3.0),
        ("(3.00)", -3.0),
        ("3-", -3.0),
        ("", None),
        ("nan", None),
        ("1e9", None),
        ("٣", None),
        ("1.2,3.4", None),
    ],
)
def test_amounts_are_read_as_shops_write_them(text, amount):
    assert read_amount(text) == amount


def test_a_gzipped_table_and_one_with_a_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress("\ufeffcustomer,date\n1,2020-01-01\n".encode()))

    assert choose_columns(path, TransactionOptions(currency="EUR")).customer == "customer"


def test_bytes_that_are_no_text_cost_their_line_alone(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"customer,date,item\nu,2020-01-01,a\n" + b"u,2020-01-01,caf\xe9\n")
    options = TransactionOptions(currency="EUR")

    events, counts = decoded(import_transactions(path, options, choose_columns(path, options), {}))

    assert (len(events), counts.lines_dropped) == (2, {"not_text": 1})


def test_the_example_map_reads_views_baskets_orders_and_stars(tmp_path):
    (browse, click, rating, purchase), counts, _ = mapped(
        tmp_path,
        "Ansicht;01.07.2020 02:00:00;a@b.example;A1;Becher;Blauer Becher;1.234,50;2,5;;;",
        "Korb;01.07.2020 02:00:01;a@b.example;A1;Becher;;;;;;",
        "Kauf;01.07.2020 02:00:02;a@b.example;A1;Becher;Blauer Becher;3,50;;b-1;2;",
        "Sterne;01.07.2020 02:00:03;a@b.example;A1;Becher;;;;;;gut",
        "Kauf;01.07.2020 02:00:09;a@b.example;A2;;;1;;b-1;-1;",
    )

    assert (browse.event_time_ms, browse.price, browse.dwell_ms) == (ms("2020-07-01T00:00"), 1234.5, 2500)
    assert (click.target, click.title, click.event_id) == ("cart", None, "csv-3")
    assert (rating.rating, rating.category) == (5.0, "Becher")
    assert [(line.item_id, line.quantity, line.returned) for line in purchase.lines] == [("A1", 2, False), ("A2", 1, True)]
    assert (purchase.order_id, purchase.currency, purchase.event_time_ms) == ("b-1", "EUR", click.event_time_ms + 1000)
    assert len({event.user_id for event in (browse, click, rating, purchase)}) == 1 and len(browse.user_id) == 32
    assert counts.lines_kept == {"browse": 1, "click": 1, "purchase": 2, "rating": 1}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("Werbung;01.07.2020 02:00:00;a;A1;;;;;;;", "left_out"),
        ("Tanz;01.07.2020 02:00:00;a;A1;;;;;;;", "unmapped_kind"),
        ("Ansicht;2020-07-01;a;A1;;;;;;;", "unreadable_time"),
        ("Ansicht;01.07.2020 02:00:00;;A1;;;;;;;", "missing_field"),
        ("Ansicht;01.07.2020 02:00:00;a;;;;;;;;", "missing_field"),
        ("Ansicht;01.07.2020 02:00:00;a;A1;;;viel;;;;", "unreadable_number"),
        ("Ansicht;01.07.2020 02:00:00;a;A1;;;-1;;;;", "out_of_range"),
        ("Kauf;01.07.2020 02:00:00;a;A1;;;1;;b;0;", "out_of_range"),
        ("Kauf;01.07.2020 02:00:00;a;A1;;;nan;;b;1;", "out_of_range"),
        ("Kauf;01.07.2020 02:00:00;a;A1;;;1;;b;1,5;", "wrong_type"),
        ("Sterne;01.07.2020 02:00:00;a;A1;;;;;;;toll", "unmapped_value"),
        ("Ansicht;01.07.2020 02:00:00;a", "column_count"),
    ],
)
def test_a_mapped_row_that_cannot_be_an_event_is_dropped_by_its_reason_and_shown(tmp_path, row, reason):
    events, counts, samples = mapped(tmp_path, row)

    assert events == []
    assert counts.lines_dropped == {reason: 1}
    assert samples[reason][0].startswith("line 2: found") or samples[reason][0].startswith("line 2: ")


@pytest.mark.parametrize(
    ("line", "replacement", "complaint"),
    [
        ("  browse:", "  wave:", "found kinds wave, expected visit"),
        ("    target: {constant: cart}", "    colour: Farbe", "kinds.click sets colour, expected only user_id"),
        ("    unit_price: Preis", "", "kinds.purchase lacks unit_price"),
        ("    title: Bezeichnung", "    title: {column: a, constant: b}", "kinds.browse.title has both"),
        ("    target: {constant: cart}", "    target: {}", "kinds.click.target has neither"),
        ("    target: {constant: cart}", "    target: {col: a}", "unknown field `col`"),
        ('decimal: ","', "decimals: 2", "unknown field `decimals`"),
        ("Werbung: null", "Werbung: search", "kind gives search, expected one described under kinds"),
        ("time: {", "time: [", "is not a mapping file"),
        ("    order_id: Bestellung", "    event_id: Nummer", "kinds.purchase sets event_id"),
    ],
)
def test_a_map_that_says_what_no_event_has_is_refused_before_a_row_is_read(tmp_path, line, replacement, complaint):
    text = EXAMPLE.read_text()
    assert line in text
    (tmp_path / "map.yaml").write_text(text.replace(line, replacement, 1))

    with pytest.raises(LogError, match=complaint):
        load_map(tmp_path / "map.yaml")


def test_the_map_of_the_documentation_reads_the_table_it_describes(tmp_path):
    page = (ROOT / "docs/how-to/import-your-data.md").read_text()
    (tmp_path / "map.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    rows = ["view,31.12.2020 10:00,a@b.example,p,Pot,1.5,,,", "order,31.12.2020 10:00,a@b.example,p,,,o-1,9.5,2"]

    (browse, purchase), counts, _ = mapped(
        tmp_path,
        *rows,
        "ping,,,,,,,,",
        mapping=tmp_path / "map.yaml",
        heading="action,ts,email,product,name,seconds,order,price,pieces",
    )

    assert (browse.title, browse.dwell_ms, purchase.lines[0].quantity) == ("Pot", 1500, 2)
    assert counts.lines_dropped == {"left_out": 1}


def test_a_table_without_a_mapped_column_is_refused(tmp_path):
    with pytest.raises(LogError, match="the map expects Aktion, .* too"):
        mapped(tmp_path, "1", heading="E-Mail")


def test_our_own_events_are_imported_with_their_arrival(tmp_path):
    good = {"kind": "click", "user_id": "u-1", "event_time_ms": 5, "item_id": "i", "new": 1}

    (events, counts), _ = json_lines(tmp_path, good, good | {"record_ms": 9})

    first, second = events
    assert (first.record_ms, second.record_ms, first.key) == (5, 9, b"u-1")
    assert DECODERS["click"](first.key, first.value).item_id == "i"
    assert (counts.lines_in, counts.lines_kept, counts.events) == (2, {"click": 2}, {"click": 2})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "bad_json"),
        (b"", "bad_json"),
        (b'{"kind":"click"}', "missing_field"),
        (b'{"kind":"wave","user_id":"u"}', "unknown_kind"),
        (b'{"kind":"click","user_id":"u","event_time_ms":"x","item_id":"i"}', "wrong_type"),
        (b'{"kind":"click","user_id":"u u","event_time_ms":1,"item_id":"i"}', "out_of_range"),
        (b'{"kind":"click","user_id":"u","event_time_ms":1,"item_id":"caf\xe9"}', "bad_json"),
    ],
)
def test_a_json_line_that_a_role_would_refuse_is_dropped_by_the_same_reason(tmp_path, line, reason):
    good = {"kind": "click", "user_id": "u-1", "event_time_ms": 5, "item_id": "i"}

    (events, counts), samples = json_lines(tmp_path, line, good)

    assert len(list(events)) == 1
    assert (counts.lines_in, counts.lines_dropped) == (2, {reason: 1})
    assert samples[reason][0].startswith("line 1: ")


def test_a_dry_run_counts_shows_samples_and_writes_nothing(tmp_path):
    (tmp_path / "t.csv").write_text("customer,date\nu,2020-01-01\n,2020-01-01\n" + "u,bad\n" * 5)

    result = CliRunner().invoke(app, ["import", "transactions", str(tmp_path / "t.csv"), "--dry-run", "--json"])

    facts = json.loads(result.stdout)
    assert (result.exit_code, facts["log"]) == (0, None)
    assert facts["imports"]["lines_dropped"] == {"no_customer": 1, "unreadable_time": 5}
    assert [len(lines) for lines in facts["samples"].values()] == [1, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_a_transactions_table_imported_without_a_currency_is_folded_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("FOOTFALL_REPORTING_CURRENCY", "NOK")
    (tmp_path / "t.csv").write_text("customer,date,amount\nann,2026-01-01 10:00,5\nbob,2026-01-02 10:00,6\n")

    made = CliRunner().invoke(app, ["import", "transactions", str(tmp_path / "t.csv"), "--out", str(tmp_path / "log")])

    replay = Replay(load_settings(), partitions=1)
    assert [output.kind for output in replay.fold(read_log(tmp_path / "log")) if output.kind.endswith(".dlq")] == []
    assert (made.exit_code, replay.summed().applied) == (0, 4)


def test_one_command_makes_a_log_of_a_foreign_table(tmp_path):
    (tmp_path / "t.csv").write_text("customer,date,amount\nu,2020-01-02,5\nv,2020-01-01,6\n")

    result = CliRunner().invoke(app, ["import", "transactions", str(tmp_path / "t.csv"), "--out", str(tmp_path / "log")])

    assert (result.exit_code, result.stdout) == (0, "")
    assert [(event.kind, event.key) for event in read_log(tmp_path / "log")] == [
        ("visit", b"v"),
        ("purchase", b"v"),
        ("visit", b"u"),
        ("purchase", b"u"),
    ]
    assert read_manifest(tmp_path / "log").imports.lines_kept == {"purchase": 2}


def test_a_map_is_applied_by_the_command_and_a_wrong_one_ends_with_code_two(tmp_path):
    (tmp_path / "t.csv").write_text(f"{EXAMPLE_HEADING}\nKorb;01.07.2020 02:00:01;a;A1;;;;;;;\n")
    given = ["import", "csv", str(tmp_path / "t.csv"), "--out", str(tmp_path / "log")]

    good = CliRunner().invoke(app, [*given, "--map", str(EXAMPLE)])
    bad = CliRunner().invoke(app, [*given, "--map", str(tmp_path / "t.csv")])

    assert (good.exit_code, bad.exit_code) == (0, 2)
    assert read_manifest(tmp_path / "log").events == {"click": 1}
    assert "is not a mapping file" in bad.stderr


def test_an_import_without_out_or_dry_run_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["import", "jsonl", str(tmp_path / "none.jsonl")])

    assert result.exit_code == 2
    assert "found no --out" in result.stderr


def test_the_help_names_every_format():
    result = CliRunner().invoke(app, ["import", "--help"])

    formats = ["jsonl", "csv", "transactions", "online-retail", "taobao", "yoochoose", "zh-reviews", "gift-cards", "best-buy"]
    assert [name for name in formats if name not in result.stdout] == []


def test_a_file_of_which_no_line_makes_an_event_is_refused_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "events.jsonl").write_text("no JSON\n")

    ended = CliRunner().invoke(
        app, ["import", "jsonl", str(tmp_path / "events.jsonl"), "--out", str(tmp_path / "log"), "--json"]
    )

    assert ended.exit_code == 2
    assert "1 in = 0 kept + 1 dropped {'bad_json': 1}" in ended.stderr
    assert "found no line that yields an event" in ended.stderr
    assert json.loads(ended.stdout)["log"] is None
    assert not (tmp_path / "log").exists()
