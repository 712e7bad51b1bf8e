"""Turn a record on which our code raises into a dead letter, and rebuild its row without that record.

For speed, the fold changes rows in place, so an error can leave a row half-changed. The row is rebuilt from its last encoded
bytes and the good records folded since. Role scorer has no rows: it refuses only the request that raises. Start at
fold_guarded and score_isolating_errors.
"""

import hashlib
import re
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

NO_REQUESTS_FAULT = (FloatingPointError, MemoryError, OSError)
DEVICE_ERRORS = frozenset({"AcceleratorError", "OutOfMemoryError", "DeferredCudaCallError"})  # torch's; it is not imported here
DEVICE_WORDS = re.compile(r"\b(CUDA|cuDNN|cuBLAS\w*|NCCL|HIP|MPS|XPU)\b|out of memory|can't allocate memory", re.IGNORECASE)

log = structlog.get_logger()


def fold_guarded(
    fold: Fold,
    rows: Rows,
    totals: PartitionTotals,
    undo: Undo,
    records: Sequence[Record],
    folded_ms: int,
) -> Folded:
    """Fold a chunk; a record on which our code raises becomes a dead letter and changes nothing else.

    Raises:
        RowVersionError: a row has an unknown version, which is no record's fault.
        MemoryError: the process is out of memory, which is no record's fault either.
    """
    folded, rest = Folded(), iter(records)
    while True:
        try:
            fold.fold(rows, totals, rest, folded_ms, folded)
        except (RowVersionError, MemoryError):
            raise
        except Exception as error:  # any bug in our code: only the current record is refused
            before = len(records) - length_hint(rest) - 1
            _dead_letter_and_restore(fold, rows, totals, undo, records[:before], records[before], folded, folded_ms, error)
        else:
            undo.records.append(records)
            return folded


def _dead_letter_and_restore(
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
    kind, key = fold.kind_and_key(record)
    counts = totals.feedback if kind == "review-sentiment" else totals.events
    if counts.unaccounted != 1:  # the record already had an outcome when it raised: only a restart can repair the counts
        raise error
    undo.failed.add((record.topic, record.offset))
    if key is not None and key in rows:
        _restore_row(fold, rows, undo, before, key, folded, folded_ms)
    folded.outputs.append(dead_letter_of_error(kind, record, error, folded_ms))
    counts.dead_lettered += 1
    totals.count_output("dead-letter")
    log_once(record, error, undo.logged)


def _restore_row(
    fold: Fold,
    rows: Rows,
    undo: Undo,
    before: Sequence[Record],
    key: bytes,
    folded: Folded,
    folded_ms: int,
) -> None:
    """Restore a row to its state before the current record; `before` holds the chunk's records before it."""

    def key_of(record: Record) -> bytes | None:
        return fold.kind_and_key(record)[1]

    since = [*undo.of_row(key, key_of), *(record for record in before if key_of(record) == key)]
    good = [record for record in since if (record.topic, record.offset) not in undo.failed]
    last = rows.last(key)
    refolded: dict[bytes, Any] = {} if last is None else {key: last}
    changed = fold.fold(refolded, PartitionTotals(), good, folded_ms).dirty
    if key in changed:
        rows[key] = folded.dirty[key] = refolded[key]  # replaces the half-changed row that is due to be written
    elif last is None:
        del rows[key]
    else:
        rows[key] = last


def score_isolating_errors(scorer: "Scorer", requests: Sequence[ScoreRequest]) -> list["Scores | Exception"]:
    """Score requests; if one raises, score each alone and return the error in place of its scores.

    Blocks as Scorer.score does. Errors of a broken device or of missing memory are no request's fault and are raised.
    """
    try:
        return list(scorer.score(requests))
    except NO_REQUESTS_FAULT:
        raise
    except Exception as error:  # any bug that one request triggers: the others are scored
        if is_device_fault(error):
            raise
        if len(requests) == 1:
            return [error]
        return [score for request in requests for score in score_isolating_errors(scorer, [request])]


def is_device_fault(error: Exception) -> bool:
    """Return whether a RuntimeError reports a broken device or missing memory.

    torch raises RuntimeError for these and for a bug that one request triggers, such as tensors of unequal shapes. Newer
    faults have classes of their own; older ones are told by their text.
    """
    if not isinstance(error, RuntimeError):
        return False
    return bool(DEVICE_ERRORS & {found.__name__ for found in type(error).__mro__} or DEVICE_WORDS.search(str(error)))


def dead_letter_of_error(kind: str, record: Record, error: Exception, folded_ms: int) -> Output:
    """Render a record on which our code raised as a dead letter, with the place of the error."""
    code, places = code_of(error)
    refused = DecodeError(Reason.HANDLER_ERROR, f"code {code}: {error}")
    return dead_letter(kind, record, refused, folded_ms, exception=type(error).__name__, stacktrace="\n".join(places))


def log_once(record: Record, error: Exception, logged: set[str]) -> None:
    """Log the error of a record, unless its code is in `logged`."""
    code, places = code_of(error)
    if code not in logged:
        logged.add(code)
        log.error(
            "handler_error",
            error_code=code,
            exception_type=type(error).__name__,
            at=places[0],
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            action="sending the record to its dead-letter topic; more with this error_code may follow without a log line",
        )


def code_of(error: BaseException) -> tuple[str, list[str]]:
    """Return a short hash that identifies a bug, and the stack of its places, innermost first."""
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    places = [f"{'/'.join(Path(code.co_filename).parts[-2:])}:{line} {code.co_qualname}" for code, line in reversed(frames)]
    digest = hashlib.sha256("\n".join([type(error).__name__, *places]).encode()).hexdigest()
    return digest[:8], places
