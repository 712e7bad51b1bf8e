import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from schemas.codec import event_decoder
from schemas.errors import LogError
from schemas.topics import SOURCES
from stream.cli.main import app
from stream.logs.event_log import read_log, read_manifest, write_log
from stream.logs.importers.online_retail import import_online_retail
from stream.logs.importers.taobao import import_taobao

HEADING = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
NINE_MS = 1_577_869_200_000  # 2020-01-01 09:00 UTC
DECODERS = {kind: event_decoder(struct) for kind, struct in SOURCES.items()}


def retail(tmp_path, *lines):
    (tmp_path / "2020-01-01.csv").write_text("\n".join((HEADING, *lines)) + "\n")
    events, counts = import_online_retail(tmp_path)
    assert counts.lines_in == sum(counts.lines_kept.values()) + sum(counts.lines_dropped.values())
    return [DECODERS[event.kind](event.key, event.value) for event in events], counts


def taobao(tmp_path, text):
    path = tmp_path / "UserBehavior.csv"
    path.write_text(text)
    events, counts = import_taobao(path)
    assert counts.lines_in == sum(counts.lines_kept.values()) + sum(counts.lines_dropped.values())
    return [DECODERS[event.kind](event.key, event.value) for event in events], counts


def line(invoice="1001", code="A1", title="BLUE MUG", quantity="2", at="2020-01-01 09:00:00", price="3.50", customer="77.0"):
    return f"{invoice},{code},{title},{quantity},{at},{price},{customer},Nowhere"


def test_an_invoice_becomes_a_derived_visit_and_one_purchase_at_its_minute(tmp_path):
    (visit, purchase), counts = retail(tmp_path, line(title=" BLUE MUG "), line(code="B2", title="", price="1"))

    assert (visit.event_id, visit.derived, visit.event_time_ms) == ("visit-1001", True, NINE_MS)
    assert (purchase.event_id, purchase.user_id, purchase.currency, purchase.order_id) == ("1001-1", "77", "GBP", "1001")
    assert [(x.item_id, x.title, x.quantity, x.unit_price) for x in purchase.lines] == [
        ("A1", "BLUE MUG", 2, 3.5),
        ("B2", None, 2, 1.0),
    ]
    assert (counts.lines_kept, counts.events) == ({"purchase": 2}, {"purchase": 1, "visit": 1})


def test_a_credit_note_and_a_negative_quantity_are_returned_lines(tmp_path):
    events, counts = retail(tmp_path, line("C1002", quantity="-3"), line("1003", quantity="-1"), line("1004"))

    lines = [event.lines[0] for event in events if event.event_id.endswith("-1")]
    assert [(x.returned, x.quantity) for x in lines] == [(True, 3), (True, 1), (False, 2)]
    assert counts.notes["lines_returned"] == 2


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (line(customer=""), "no_customer"),
        (line(code=" "), "no_invoice_or_stock_code"),
        (line(code="POST"), "postage"),
        (line(code="M"), "adjustment"),
        (line("A1009"), "adjustment"),
        (line(at="yesterday"), "unreadable_time"),
        (line(quantity="two"), "unreadable_number"),
        (line(quantity="0"), "quantity_zero"),
        (line(price="-1"), "negative_price"),
        (line(price="nan"), "out_of_range"),
        (line(quantity="9999999"), "out_of_range"),
        ("1001,A1", "malformed"),
    ],
)
def test_a_line_that_cannot_be_represented_is_dropped_and_counted(tmp_path, bad, reason):
    events, counts = retail(tmp_path, bad)

    assert events == []
    assert counts.lines_dropped == {reason: 1}


def test_repeated_lines_and_lines_without_a_price_are_kept_and_noted(tmp_path):
    (_, purchase), counts = retail(tmp_path, line(), line(), line(price="0"))

    assert len(purchase.lines) == 3
    assert (counts.notes["lines_repeating_another"], counts.notes["lines_at_price_zero"]) == (1, 1)


def test_a_purchase_over_the_line_limit_is_split_in_order(tmp_path):
    events, _ = retail(tmp_path, *(line(code=f"A{number}") for number in range(401)))

    assert [(event.event_id, len(event.lines)) for event in events[1:]] == [("1001-1", 200), ("1001-2", 200), ("1001-3", 1)]
    assert [x.item_id for event in events[1:] for x in event.lines] == [f"A{number}" for number in range(401)]


def test_two_customers_on_one_invoice_never_share_an_event_id(tmp_path):
    events, _ = retail(tmp_path, line(), line(customer="88.0"), line())

    assert len({event.event_id for event in events}) == len(events) == 4
    assert [len(event.lines) for event in events if event.event_id.endswith("-1")] == [2, 1]


def test_a_directory_without_day_files_or_with_other_columns_is_refused(tmp_path):
    with pytest.raises(LogError, match=r"holds no \*\.csv"):
        import_online_retail(tmp_path)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LogError, match="has columns"):
        import_online_retail(tmp_path)


def test_behaviours_become_browses_clicks_and_purchases_without_a_price(tmp_path):
    text = "1,10,5,pv,1577869200\n1,10,5,cart,1577869201\n1,10,5,fav,1577869202\n1,10,5,buy,1577869203\n"

    (browse, cart, favourite, purchase), counts = taobao(tmp_path, text)

    assert (browse.item_id, browse.category, browse.event_time_ms, browse.event_id) == ("10", "5", NINE_MS, "tb-1")
    assert (cart.target, favourite.target) == ("cart", "favourite")
    assert (purchase.currency, purchase.lines[0].unit_price, purchase.lines[0].quantity) == ("CNY", 0.0, 1)
    assert counts.lines_kept == {"browse": 1, "click": 2, "purchase": 1}
    assert counts.notes == {"purchases_without_price": 1}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("1,10,5,pv,15", "truncated"),
        ("1,10,5", "truncated"),
        ("1,10,5\n", "malformed"),
        ("1,10,5,pv,soon\n", "unreadable_time"),
        ("1,10,5,wave,1577869200\n", "unknown_behaviour"),
        (",10,5,pv,1577869200\n", "out_of_range"),
        ("1,10,5,pv,99999999999\n", "out_of_range"),
    ],
)
def test_a_behaviour_line_that_cannot_be_read_is_dropped_and_counted(tmp_path, bad, reason):
    events, counts = taobao(tmp_path, "1,10,5,pv,1577869200\n" + bad)

    assert [event.event_id for event in events] == ["tb-1"]
    assert counts.lines_dropped == {reason: 1}


def test_the_import_command_writes_a_log_whose_manifest_carries_the_counts(tmp_path):
    retail(tmp_path, line(), line(customer=""))

    result = CliRunner().invoke(app, ["import", "online-retail", str(tmp_path), "--out", str(tmp_path / "log")])

    assert (result.exit_code, result.stdout) == (0, "")
    assert read_manifest(tmp_path / "log").imports.lines_dropped == {"no_customer": 1}
    assert [event.kind for event in read_log(tmp_path / "log")] == ["visit", "purchase"]


def test_the_import_command_ends_with_code_two_where_there_is_nothing_to_read(tmp_path):
    result = CliRunner().invoke(app, ["import", "taobao", str(tmp_path / "none.csv"), "--out", str(tmp_path / "log")])

    assert result.exit_code == 2
    assert "is not a file" in result.stderr


@pytest.fixture
def real_logs():
    if not (found := os.environ.get("FOOTFALL_LOGS")):
        pytest.skip("FOOTFALL_LOGS is not set: no public event logs here")
    return Path(found)


@pytest.mark.logs
def test_every_line_of_the_real_online_retail_files_is_accounted_for(real_logs, tmp_path):
    events, counts = import_online_retail(real_logs / "online_retail_uci" / "by-day")

    write_log(tmp_path, events, source="test", imports=counts)

    assert counts.lines_in == 541_909 == sum(counts.lines_kept.values()) + sum(counts.lines_dropped.values())
    assert counts.lines_dropped["no_customer"] == 135_080
    decoded = [DECODERS[event.kind](event.key, event.value) for event in read_log(tmp_path)]
    assert (
        sum(len(event.lines) for event in decoded if not event.event_id.startswith("visit-")) == counts.lines_kept["purchase"]
    )
    assert len({event.event_id for event in decoded}) == len(decoded) == sum(counts.events.values())


@pytest.mark.logs
def test_every_line_of_the_real_taobao_file_is_accounted_for(real_logs):
    events, counts = import_taobao(real_logs / "taobao_ub_rdav27" / "UserBehavior.csv")

    assert counts.lines_in == sum(counts.lines_kept.values()) + sum(counts.lines_dropped.values())
    assert counts.lines_kept == {"browse": 85_773, "click": 5_292 + 2_959, "purchase": 2_144}
    assert counts.lines_dropped == {"truncated": 1}
    assert len(events) == 96_168
