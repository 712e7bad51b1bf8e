"""Import Chinese shopping reviews of ten categories (CSV: cat, label, review) as reviews and ratings.

The file has no users, items or times. Each review gets a user and an item of its own. A positive label is five stars, a
negative one is one star. Times are made up from a hash of the text, so that a split by time is a random split that never
changes. Start at import_zh_reviews.
"""

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path

import xxhash
from msgspec import Struct

from schemas.errors import DecodeError, LogError
from schemas.events import Rating, Review
from schemas.time_units import DAY_MS
from stream.logs.event_log import ImportCounts, LoggedEvent
from stream.logs.importers.logged_events import logged_all
from stream.logs.importers.tables import open_text

SOURCE = "Chinese reviews of ten categories (online_shopping_10_cats); users, items and times made up"
DERIVED = [
    "each review is a user and an item of its own",
    "stars: 5 for a positive label, 1 for a negative one",
    "times: reviews in the order of a hash of their text, evenly spread over eight weeks from 2018-01-01",
]
COLUMNS = ["cat", "label", "review"]
STARS = {"1": 5.0, "0": 1.0}
START_MS, SPAN_MS = 1_514_764_800_000, 56 * DAY_MS


class Labelled(Struct):
    """All lines with the same text: the first of them, every label found, and the number of `lines`."""

    name: str
    text: str
    category: str
    labels: set[str]
    lines: int = 1


def import_zh_reviews(path: Path) -> tuple[Iterator[LoggedEvent], ImportCounts]:
    """Read the file, or the only CSV of a zip; all texts are held in memory.

    A repeated text is kept once; a text with both labels is dropped. Texts are equal if they differ only in spaces,
    punctuation and case. The counts are complete once all events are read.

    Raises:
        LogError: there is no such file, or it has other columns (when the events are read).
    """
    counts = ImportCounts(derived=DERIVED)
    return _events(path, counts), counts


def _events(path: Path, counts: ImportCounts) -> Iterator[LoggedEvent]:
    texts: dict[str, Labelled] = {}
    for row in _rows(path):
        counts.lines_in += 1
        if len(row) != len(COLUMNS):
            counts.drop("column_count")
        elif not (normalised := re.sub(r"\W+", "", row[2]).lower()):
            counts.drop("no_text")
        elif row[1] not in STARS:
            counts.drop("unknown_label")
        elif normalised in texts:
            texts[normalised].labels.add(row[1])
            texts[normalised].lines += 1
        else:
            name = f"zh-{xxhash.xxh64_hexdigest(normalised.encode(errors='surrogateescape'))}"
            texts[normalised] = Labelled(name, row[2].replace("\ufeff", "").strip(), row[0].strip(), {row[1]})
    _count_dropped(texts, counts)
    agreed = [labelled for labelled in texts.values() if len(labelled.labels) == 1]
    for number, labelled in enumerate(sorted(agreed, key=attrgetter("name"))):
        at_ms = START_MS + number * (SPAN_MS // len(agreed))
        try:
            made = _review_and_rating(labelled, at_ms, counts)
        except DecodeError as error:
            counts.drop(error.reason)
            continue
        counts.keep("review")
        yield from made


def _review_and_rating(labelled: Labelled, at_ms: int, counts: ImportCounts) -> list[LoggedEvent]:
    [label] = labelled.labels
    name, text, category = labelled.name, labelled.text, labelled.category or None
    review = Review(
        user_id=name, event_time_ms=at_ms, event_id="review", review_id=name, item_id=name, text=text, category=category
    )
    rating = Rating(user_id=name, event_time_ms=at_ms, event_id="rating", item_id=name, rating=STARS[label], category=category)
    return logged_all([review, rating], counts)


def _count_dropped(texts: dict[str, Labelled], counts: ImportCounts) -> None:
    for labelled in texts.values():
        conflicting = len(labelled.labels) > 1
        for _ in range(labelled.lines if conflicting else labelled.lines - 1):
            counts.drop("conflicting_labels" if conflicting else "duplicate_text")


def _rows(path: Path) -> Iterator[list[str]]:
    with _opened(path) as file:
        rows = csv.reader(file)
        try:
            if (heading := next(rows, [])) != COLUMNS:
                raise LogError(f"{path} has columns {heading}, expected {COLUMNS}: give online_shopping_10_cats")
            yield from rows
        except csv.Error as error:
            raise LogError(f"{path}:{rows.line_num} is not CSV ({error}): unpack the data set again") from error


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[str]]:
    if path.suffix != ".zip":
        with open_text(path) as file:
            yield file
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".csv")]
            if len(names) != 1:
                raise LogError(f"{path} holds {names}, expected one CSV: unpack it and name the file")
            with archive.open(names[0]) as raw:
                yield io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
    except (OSError, zipfile.BadZipFile) as error:
        raise LogError(f"{path} is not a readable zip file ({error}): check the path") from error
