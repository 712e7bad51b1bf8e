"""An error of our own code in one record → that record's dead letter, and its row as if the record had never come.

The fold changes rows in place and copies none, so that it is fast. What gives a half changed row back is what is there
anyway: the bytes it was last read from or written as, and the records since. They are folded again, the bad record left
out. Start at fold_guarded.
"""

import hashlib
import traceback
from collections.abc import Sequence
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from schemas.dead_letter import Reason
from schemas.errors import DecodeError, RowVersionError
from schemas.scoring import ScoreRequest
from stream.fold.records import Fold, Folded, Output, PartitionTotals, Record, dead_letter
from stream.fold.rows import Rows
from stream.fold.undo import Undo

if TYPE_CHECKING:  # only role scorer loads torch
    from models.serving.scorer import Scorer, Scores

NO_REQUESTS_FAULT = (FloatingPointError, MemoryError, OSError, RuntimeError)  # torch raises RuntimeErrors for its devices

log = structlog.get_logger()


def fold_guarded(
    fold: Fold,
    rows: Rows,
    totals: PartitionTotals,
    undo: Undo,
    records: Sequence[Record],
    folded_ms: int,
) -> Folded:
    """Fold a chunk; a record that meets an error of the code becomes a dead letter and leaves no other trace.

    Raises:
        RowVersionError: a row cannot be read: no record is at fault.
    """
    folded, rest = Folded(), iter(records)
    while True:
        try:
            fold.fold(rows, totals, rest, folded_ms, folded)
        except (RowVersionError, MemoryError):
            raise
        except Exception as error:  # whatever the code has wrong: the record at hand is set aside
            before = len(records) - length_hint(rest) - 1
            _set_aside(fold, rows, totals, undo, records[:before], records[before], folded, folded_ms, error)
        else:
            undo.records.append(records)
            return folded


def _set_aside(
    fold: Fold,
    rows: Rows,
    totals: PartitionTotals,
    undo: Undo,
    before: Sequence[Record],
    record: Record,
    folded: Folded,
    folded_ms: int,
    error: Exception,
) -> None:
    kind, key = fold.place(record)
    counts = totals.feedback if kind == "review-sentiment" else totals.events
    if counts.unaccounted != 1:  # it was counted as something before it failed: only a restart can put that right
        raise error
    undo.failed.add((record.topic, record.offset))
    if key is not None and key in rows:
        _restore(fold, rows, undo, before, key, folded, folded_ms)
    folded.outputs.append(dead_letter_of_error(kind, record, error, folded_ms))
    counts.dead_lettered += 1
    totals.count_output("dead-letter")
    tell_once(record, error, undo.logged)


def _restore(
    fold: Fold,
    rows: Rows,
    undo: Undo,
    before: Sequence[Record],
    key: bytes,
    folded: Folded,
    folded_ms: int,
) -> None:
    """Put a row back as it was before the record at hand; `before` are the chunk's records before it."""

    def key_of(record: Record) -> bytes | None:
        return fold.place(record)[1]

    since = [*undo.of_row(key, key_of), *(record for record in before if key_of(record) == key)]
    good = [record for record in since if (record.topic, record.offset) not in undo.failed]
    last = rows.last(key)
    again: dict[bytes, Any] = {} if last is None else {key: last}
    changed = fold.fold(again, PartitionTotals(), good, folded_ms).dirty
    if key in changed:
        rows[key] = folded.dirty[key] = again[key]  # in place of the half changed row that waits to be written
    elif last is None:
        del rows[key]
    else:
        rows[key] = last


def score_apart(scorer: "Scorer", requests: Sequence[ScoreRequest]) -> list["Scores | Exception"]:
    """Score requests; where one of them meets an error of the code, score each alone and return the error in its place.

    Blocks as Scorer.score does. What a broken device or a lack of memory raises is no request's fault and is let out.
    """
    try:
        return list(scorer.score(requests))
    except NO_REQUESTS_FAULT:
        raise
    except Exception as error:  # whatever the code has wrong with one request: the others are scored
        if len(requests) == 1:
            return [error]
        return [score for request in requests for score in score_apart(scorer, [request])]


def dead_letter_of_error(kind: str, record: Record, error: Exception, folded_ms: int) -> Output:
    """Turn a record that met an error of the code into a dead letter that says where the code raised it."""
    code, places = code_of(error)
    refused = DecodeError(Reason.HANDLER_ERROR, f"code {code}: {error}")
    return dead_letter(kind, record, refused, folded_ms, exception=type(error).__name__, stacktrace="\n".join(places))


def tell_once(record: Record, error: Exception, told: set[str]) -> None:
    """Log the error of a record unless `told` has its code already."""
    code, places = code_of(error)
    if code not in told:
        told.add(code)
        log.error(
            "handler_error",
            code=code,
            exception_type=type(error).__name__,
            at=places[0],
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            action="the record is a dead letter; later ones of this code are not logged",
        )


def code_of(error: BaseException) -> tuple[str, list[str]]:
    """Return a short hash that tells one bug from another, and the places it was raised through, innermost first."""
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    places = [f"{'/'.join(Path(code.co_filename).parts[-2:])}:{line} {code.co_qualname}" for code, line in reversed(frames)]
    digest = hashlib.sha256("\n".join([type(error).__name__, *places]).encode()).hexdigest()
    return digest[:8], places
