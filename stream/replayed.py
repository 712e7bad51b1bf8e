"""A replay → files: what each role would have sent, the rows it would have left, and a summary. Start at write_replay."""

from base64 import b64encode
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec
from msgspec import Struct

from models.features.user_state import UserState, encode_row
from schemas.codec import encode
from schemas.dead_letter import DeadLetter
from schemas.scoring import ScoreRequest
from schemas.signals import AdTrigger, Signal, Suppression
from stream.event_log import LoggedEvent
from stream.records import Output, Totals
from stream.replay import Replay

if TYPE_CHECKING:
    from models.scorer import Scorer

FILES = ("signals.jsonl", "score-requests.jsonl", "decisions.jsonl", "dead-letters.jsonl")
ROWS, SUMMARY = "rows.jsonl", "summary.json"


class ReplayError(ValueError):
    """A replay that cannot be written: the text says what was found and what to do."""


class ReplaySummary(Struct, frozen=True, kw_only=True):
    """What a replay did: totals of the log's events, outputs by kind, dead letters by reason."""

    totals: Totals
    declared_dropped: int
    outputs: dict[str, int]
    dead_letters: dict[str, int]
    users: int
    model_version: str | None


def write_replay(replay: Replay, events: Iterable[LoggedEvent], scorer: "Scorer | None", directory: Path) -> ReplaySummary:
    """Run a replay and write its files; without a scorer it ends at the score requests.

    Raises:
        ReplayError: the directory is in use.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ReplayError(f"{directory} is not an empty directory: choose another or delete it")
    directory.mkdir(parents=True, exist_ok=True)
    outputs: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    with ExitStack() as stack:
        files = {name: stack.enter_context((directory / name).open("xb")) for name in FILES}
        for output in replay.fold(events) if scorer is None else replay.signals(events, scorer):
            outputs[output.kind] += 1
            if isinstance(output.message, DeadLetter):
                reasons[output.message.reason] += 1
            files[_file(output)].write(_line(output))
        with (directory / ROWS).open("xb") as rows:
            users = _write_rows(replay, rows)
    totals = replay.summed()
    summary = ReplaySummary(
        totals=totals,
        declared_dropped=totals.declared_dropped,
        outputs=dict(sorted(outputs.items())),
        dead_letters=dict(sorted(reasons.items())),
        users=users,
        model_version=None if scorer is None else scorer.model_version,
    )
    (directory / SUMMARY).write_bytes(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
    return summary


def _file(output: Output) -> str:
    match output.message:
        case Signal():
            return "signals.jsonl"
        case ScoreRequest():
            return "score-requests.jsonl"
        case AdTrigger() | Suppression():
            return "decisions.jsonl"
    return "dead-letters.jsonl"


def _line(output: Output) -> bytes:
    if isinstance(output.message, DeadLetter):
        return msgspec.json.encode(output.message) + b"\n"
    return encode(output.message) + b"\n"


def _write_rows(replay: Replay, file: IO[bytes]) -> int:
    users = 0
    for partition, rows in sorted(replay.rows.items()):
        for key, row in sorted(rows.items()):
            packed = encode_row(row) if isinstance(row, UserState) else row
            line = {"partition": partition, "user_id": key.decode(errors="replace"), "row_b64": b64encode(packed).decode()}
            file.write(msgspec.json.encode(line) + b"\n")
            users += 1
    return users
