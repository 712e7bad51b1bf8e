"""Public data sets of sessions, reviews and searches: made files of their shape, and the real ones where there are any."""

import gzip
import json
import os
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from schemas.codec import event_decoder
from schemas.errors import LogError
from schemas.time_units import DAY_MS
from schemas.topics import SOURCES
from stream.logs.importers.best_buy import import_best_buy
from stream.logs.importers.gift_cards import import_gift_cards
from stream.logs.importers.online_retail import import_online_retail
from stream.logs.importers.yoochoose import import_yoochoose
from stream.logs.importers.zh_reviews import import_zh_reviews

DECODERS = {kind: event_decoder(struct) for kind, struct in SOURCES.items()}


def ms(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def decoded(imported):
    """Read all events of an import, checked as a role would, and its counts, which must account for every line."""
    events, counts = imported
    found = [DECODERS[event.kind](event.key, event.value) for event in events]
    assert counts.lines_in == sum(counts.lines_kept.values()) + sum(counts.lines_dropped.values())
    assert sum(counts.events.values()) == len(found)
    return found, counts


def sessions(tmp_path, *rows, name="day178_valid"):
    values = ", ".join(rows)
    columns = '(session_id, "item_id-count", "item_id-list_seq", "category-list_seq")'
    duckdb.execute(f"COPY (SELECT * FROM (VALUES {values}) AS t {columns}) TO '{tmp_path}/{name}.parquet' (FORMAT parquet)")
    return decoded(import_yoochoose(tmp_path))


def reviews(tmp_path, *rows):
    path = tmp_path / "reviews.csv"
    path.write_text("cat,label,review\n" + "".join(f"{row}\n" for row in rows))
    return decoded(import_zh_reviews(path))


def gift_cards(tmp_path, *lines):
    path = tmp_path / "Gift_Cards_5.json.gz"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes(gzip.compress("\n".join(texts).encode()))
    return decoded(import_gift_cards(path))


def gift(**changed):
    line = {"overall": 4.0, "reviewerID": "R1", "asin": "B1", "unixReviewTime": 1_577_836_800, "reviewText": "Nice card"}
    return line | {"summary": "Four Stars"} | changed


def queries(tmp_path, train=(), test=()):
    wrapped = {
        "train": ["user,sku,category,query,click_time,query_time", *train],
        "test": ["user,category,query,click_time,query_time", *test],
    }
    for name, lines in wrapped.items():
        (tmp_path / f"{name}.csv").write_text("".join('"' + line.replace('"', '""') + '"\n' for line in lines))
    return decoded(import_best_buy(tmp_path))


def test_a_session_is_a_user_who_clicks_its_items_in_order_after_a_derived_visit(tmp_path):
    (visit, *clicks), counts = sessions(tmp_path, "(7, 5, [11, 12, 11, 0, 0], [2, 0, 2, 0, 0])")

    assert (visit.user_id, visit.derived) == ("178-valid-7", True)
    assert [(click.item_id, click.category) for click in clicks] == [("11", "2"), ("12", None), ("11", "2")]
    times = [event.event_time_ms for event in (visit, *clicks)]
    assert times == sorted(set(times)) and {at // DAY_MS for at in times} == {ms("2014-09-26") // DAY_MS}
    assert (counts.lines_kept, counts.notes) == ({"click": 1}, {"clicks_cut_off": 2})
    assert any("time of day" in derived for derived in counts.derived)


def test_an_empty_or_nameless_session_is_dropped(tmp_path):
    events, counts = sessions(tmp_path, "(7, 0, [0, 0], [0, 0])", "(NULL, 1, [5, 0], [2, 0])")

    assert (events, counts.lines_dropped) == ([], {"no_items": 1, "no_session": 1})


def test_a_directory_without_day_files_or_with_other_columns_is_refused(tmp_path):
    with pytest.raises(LogError, match=r"holds no day\*_\*\.parquet"):
        decoded(import_yoochoose(tmp_path))
    duckdb.execute(f"COPY (SELECT 1 AS a) TO '{tmp_path}/day1_train.parquet' (FORMAT parquet)")
    with pytest.raises(LogError, match="is not a day file"):
        decoded(import_yoochoose(tmp_path))


def test_a_review_is_a_user_of_its_own_with_five_stars_or_one(tmp_path):
    events, counts = reviews(tmp_path, "书籍,1,\ufeff很好的书", "酒店,0,房间很小")

    found = {(event.category, getattr(event, "text", None) or event.rating) for event in events}
    assert found == {("书籍", "很好的书"), ("书籍", 5.0), ("酒店", "房间很小"), ("酒店", 1.0)}
    assert len({event.user_id for event in events}) == len({event.item_id for event in events}) == 2
    assert counts.events == {"review": 2, "rating": 2}


def test_a_text_that_comes_again_counts_once_and_one_with_both_labels_not_at_all(tmp_path):
    events, counts = reviews(tmp_path, "a,1,好", "a,1,好!", "b,1, 好 ", "a,1,坏", "a,0,坏。", "a,1,...", "a,2,x", "a,1")

    assert [event.text for event in events[::2]] == ["好"]
    assert counts.lines_dropped == {
        "duplicate_text": 2,
        "conflicting_labels": 2,
        "no_text": 1,
        "unknown_label": 1,
        "column_count": 1,
    }


def test_times_of_reviews_depend_on_their_texts_alone(tmp_path):
    rows = [f"a,{n % 2},review number {n}" for n in range(40)]

    one, _ = reviews(tmp_path, *rows)
    other, _ = reviews(tmp_path, *reversed(rows))

    assert one == other
    times = [event.event_time_ms for event in one[::2]]
    assert times == sorted(set(times)) and [event.text for event in one[::2]] != [f"review number {n}" for n in range(40)]
    assert 50 * DAY_MS < times[-1] - times[0] < 56 * DAY_MS


def test_a_zip_with_one_csv_is_read_and_another_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as archive:
        archive.writestr("reviews.csv", "\ufeffcat,label,review\n书籍,1,很好的书\n")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("reviews.txt", "")

    assert len(decoded(import_zh_reviews(tmp_path / "good.zip"))[0]) == 2
    with pytest.raises(LogError, match="expected one CSV"):
        decoded(import_zh_reviews(tmp_path / "bad.zip"))
    (tmp_path / "no.zip").write_text("no")
    with pytest.raises(LogError, match="is not a readable zip file"):
        decoded(import_zh_reviews(tmp_path / "no.zip"))


def test_a_gift_card_line_is_a_review_and_a_rating_of_its_user_without_the_summary(tmp_path):
    (review, rating), counts = gift_cards(tmp_path, gift())

    assert (review.user_id, review.item_id, review.text, review.event_time_ms) == ("R1", "B1", "Nice card", ms("2020-01-01"))
    assert (rating.rating, rating.event_time_ms) == (4.0, ms("2020-01-01"))
    assert counts.lines_kept == {"review": 1}


def test_a_gift_card_line_without_text_is_a_rating_alone_and_a_repeated_one_counts_once(tmp_path):
    events, counts = gift_cards(
        tmp_path, gift(reviewText=None), gift(), gift(), gift(overall=9.0), gift(reviewText="x" * 2001), "{"
    )

    assert [type(event).__name__ for event in events] == ["Rating", "Review", "Rating"]
    assert counts.lines_kept == {"rating": 1, "review": 1}
    assert counts.lines_dropped == {"duplicate": 1, "out_of_range": 1, "text_too_long": 1, "unreadable": 1}


def test_a_query_line_is_a_search_and_its_click_at_their_own_times(tmp_path):
    (search, click), counts = queries(tmp_path, ['u1,55,cat,"tv, 50 ""","2011-09-01 23:44:52.533","2011-09-01 23:43:59.75"'])

    assert (search.query, search.event_time_ms) == ('tv, 50 "', ms("2011-09-01 23:43:59.750"))
    assert (click.item_id, click.category, click.event_time_ms) == ("55", "cat", ms("2011-09-01 23:44:52.533"))
    assert counts.lines_kept == {"click": 1}


def test_clicks_of_one_search_share_it_and_a_line_without_sku_is_its_search(tmp_path):
    events, counts = queries(
        tmp_path,
        ["u1,1,cat,tv,2011-09-01 10:00:09,2011-09-01 10:00:00", "u1,2,cat,tv,2011-09-01 10:00:19,2011-09-01 10:00:00"],
        ["u2,cat,xm,2011-09-02 10:00:09,2011-09-02 10:00:00", "u2,cat,xm,soon,2011-09-02 10:00:00", "u2,cat"],
    )

    assert [type(event).__name__ for event in events] == ["Search", "Click", "Click", "Search"]
    assert counts.lines_kept == {"click": 2, "search": 1}
    assert counts.lines_dropped == {"unreadable_time": 1, "column_count": 1}
    assert counts.notes == {"lines_of_a_known_search": 1}


@pytest.fixture
def real_logs():
    if not (found := os.environ.get("FOOTFALL_LOGS")):
        pytest.skip("FOOTFALL_LOGS is not set: no public event logs here")
    return Path(found)


@pytest.mark.logs
@pytest.mark.parametrize(
    ("read", "path", "lines", "events"),
    [
        (import_yoochoose, "yoochoose_t4rec", 106_246, {"visit": 106_246, "click": 436_486}),
        (import_zh_reviews, "zh_reviews/online_shopping_10_cats.zip", 62_774, {"review": 62_504, "rating": 62_504}),
        (import_gift_cards, "amazon_gift_cards/Gift_Cards_5.json.gz", 2_972, {"review": 2_963, "rating": 2_969}),
        (import_best_buy, "bestbuy_acm_sample", 1_998, {"search": 1_637, "click": 999}),
    ],
)
def test_every_line_of_a_real_set_is_accounted_for(real_logs, read, path, lines, events):
    found, counts = decoded(read(real_logs / path))

    assert (counts.lines_in, counts.events) == (lines, events)
    ids = {(type(event), event.user_id, event.event_id) for event in found}
    assert len(ids) == len(found)


@pytest.mark.logs
def test_items_of_real_purchases_keep_their_stock_code_and_title(real_logs):
    events, _ = decoded(import_online_retail(real_logs / "online_retail_uci" / "by-day"))

    lines = [line for event in events for line in getattr(event, "lines", ())]
    assert any(line.item_id[:-1].isdigit() and line.item_id[-1].isalpha() for line in lines)
    assert sum(line.title is None for line in lines) < 0.01 * len(lines)
