"""Import Amazon reviews of gift cards (JSON lines, gzipped) as reviews and ratings with real user ids.

Times have a resolution of one day, at midnight UTC; lines of one day keep their order. The summaries of reviews are not
imported: most are a default text such as "Five Stars", which the reviewer did not write. Start at import_gift_cards.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from schemas.errors import DecodeError
from schemas.events import Rating, Review
from stream.logs.event_log import ImportCounts, LoggedEvent
from stream.logs.importers.logged_events import logged_all
from stream.logs.importers.tables import open_text

SOURCE = "Amazon reviews of gift cards, to the day, midnight UTC"


class Line(Struct, frozen=True, rename={"user": "reviewerID", "item": "asin", "text": "reviewText", "at_s": "unixReviewTime"}):
    """The fields read from a line."""

    user: str
    item: str
    overall: float
    at_s: int
    text: str | None = None


def import_gift_cards(path: Path) -> tuple[Iterator[LoggedEvent], ImportCounts]:
    """Read the file; a line becomes a rating and, if it has a text, a review. A repeated line is dropped.

    Event ids come from the line number, from 1. The counts are complete once all events are read.

    Raises:
        LogError: there is no such file (when the events are read).
    """
    counts = ImportCounts()
    return _events(path, counts), counts


def _events(path: Path, counts: ImportCounts) -> Iterator[LoggedEvent]:
    decode, seen = msgspec.json.Decoder(Line).decode, set[Line]()
    with open_text(path) as file:
        for number, text in enumerate(file, start=1):
            counts.lines_in += 1
            try:
                line = decode(text)
                if line in seen:
                    counts.drop("duplicate")
                    continue
                made = _line_events(number, line, counts)
            except (msgspec.DecodeError, UnicodeEncodeError):
                counts.drop("unreadable")
                continue
            except DecodeError as error:
                counts.drop(error.reason)
                continue
            seen.add(line)
            counts.keep(made[0].kind)
            yield from made


def _line_events(number: int, line: Line, counts: ImportCounts) -> list[LoggedEvent]:
    """Return the events of a line, the review first."""
    at_ms, text = line.at_s * 1000, (line.text or "").strip()
    rating = Rating(user_id=line.user, event_time_ms=at_ms, event_id=f"rating-{number}", item_id=line.item, rating=line.overall)
    if not text:
        return logged_all([rating], counts)
    review = Review(
        user_id=line.user,
        event_time_ms=at_ms,
        event_id=f"review-{number}",
        review_id=f"review-{number}",
        item_id=line.item,
        text=text,
    )
    return logged_all([review, rating], counts)
