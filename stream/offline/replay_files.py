"""Write a replay as Parquet files: each role's outputs, the final rows, and a JSON summary.

Start at write_replay.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from models.data.parquet_files import Columns, ParquetFiles
from models.features.row_codec import decode_row, encode_row
from models.features.snapshot import snapshot
from models.features.spec import FEATURE_SPEC, SENTIMENT
from models.features.user_state import UserState
from schemas.dead_letter import DeadLetter
from schemas.errors import LogError
from schemas.scoring import ScoreRequest
from schemas.signals import AdTrigger, ChurnRisk, Decision, Interest, ReviewSentiment, Signal, Suppression
from stream.fold.records import Output, Totals
from stream.logs.event_log import LoggedEvent
from stream.offline.replay_log import Replay

if TYPE_CHECKING:
    from models.serving.scorer import Scorer

SUMMARY = "summary.json"
FEATURES = [f"feature_{re.sub('[^a-z0-9]', '_', name)}" for name in FEATURE_SPEC.names]  # columns, in the order of the spec
FEATURE_COLUMNS: Columns = dict.fromkeys(FEATURES, "DOUBLE")
SOURCE_COLUMNS: Columns = {"topic": "VARCHAR", "partition": "INTEGER", "offset": "BIGINT", "record_ms": "BIGINT"}
UNKNOWN = [None] * len(FEATURES)

SCORE_REQUESTS, SIGNALS, DECISIONS = "score_requests.parquet", "signals.parquet", "decisions.parquet"
DEAD_LETTERS, ROWS = "dead_letters.parquet", "rows.parquet"
TABLES: dict[str, Columns] = {
    SCORE_REQUESTS: {
        **dict.fromkeys(("request_id", "user_id", "event_id", "kind", "due"), "VARCHAR"),
        "event_time_ms": "BIGINT",
        **SOURCE_COLUMNS,
        **dict.fromkeys(("guard", "spec_version", "text", "review_id", "history", "categories"), "VARCHAR"),
        **FEATURE_COLUMNS,
    },
    SIGNALS: {
        **dict.fromkeys(("kind", "signal_id", "request_id", "user_id", "event_id"), "VARCHAR"),
        "event_time_ms": "BIGINT",
        **SOURCE_COLUMNS,
        **dict.fromkeys(("guard", "spec_version", "model_version"), "VARCHAR"),
        "interests": "VARCHAR",
        "horizon_days": "INTEGER",
        "probability": "DOUBLE",
        **dict.fromkeys(("horizons_days", "survival", "review_id"), "VARCHAR"),
        "sentiment": "DOUBLE",
        "unread": "VARCHAR",
    },
    DECISIONS: {
        **dict.fromkeys(("outcome", "decision_id", "user_id"), "VARCHAR"),
        "event_time_ms": "BIGINT",
        **dict.fromkeys(("campaign_id", "signal_id", "signal", "label"), "VARCHAR"),
        "score": "DOUBLE",
        "threshold": "DOUBLE",
        **dict.fromkeys(("reason", "model_version", "policy_version"), "VARCHAR"),
        "until_ms": "BIGINT",
    },
    DEAD_LETTERS: {
        **dict.fromkeys(("kind", "reason", "detail", "exception"), "VARCHAR"),
        **SOURCE_COLUMNS,
        "key": "BLOB",
        "value": "BLOB",
        "headers": 'STRUCT("name" VARCHAR, "value" BLOB)[]',
    },
    ROWS: {"user_id": "VARCHAR", "partition": "INTEGER", "row": "BLOB", **FEATURE_COLUMNS},
}


class ReplaySummary(Struct, frozen=True, kw_only=True):
    """The result of a replay: totals of the log's events, outputs by kind, dead letters by reason."""

    totals: Totals
    declared_dropped: int
    outputs: dict[str, int]
    dead_letters: dict[str, int]
    users: int
    model_version: str | None


def write_replay(replay: Replay, events: Iterable[LoggedEvent], scorer: "Scorer | None", directory: Path) -> ReplaySummary:
    """Run a replay and write its files; without a scorer it stops at the score requests.

    Raises:
        LogError: the directory is not empty.
    """
    refuse_used(directory)
    directory.mkdir(parents=True, exist_ok=True)
    outputs: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    with ParquetFiles(directory, TABLES) as files:
        for output in replay.fold(events) if scorer is None else replay.signals(events, scorer):
            outputs[output.kind] += 1
            if isinstance(output.message, DeadLetter):
                reasons[output.message.reason] += 1
            files.add(*table_row(output))
        users = _add_rows(replay, files)
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


def refuse_used(directory: Path) -> None:
    """Check that a directory is new or empty, before there is any work to lose.

    Raises:
        LogError: it is not empty, or not a directory.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise LogError(f"{directory} is not an empty directory: choose another or delete it")


def table_row(output: Output) -> tuple[str, tuple[Any, ...]]:
    """Return the name of an output's file and its row there."""
    match output.message:
        case ScoreRequest() as request:
            return SCORE_REQUESTS, _request_row(request)
        case Signal() as signal:
            return SIGNALS, _signal_row(output.kind, signal)
        case Decision() as decision:
            return DECISIONS, _decision_row(output.kind, decision)
        case DeadLetter() as letter:
            at = (letter.topic, letter.partition, letter.offset, letter.timestamp_ms)
            headers = [{"name": name, "value": value} for name, value in letter.headers]
            return DEAD_LETTERS, (
                *(output.kind.removesuffix(".dlq"), letter.reason.value, letter.detail, letter.exception),
                *(*at, letter.key, letter.value, headers),
            )
    raise TypeError(f"found an output of kind {output.kind}, expected one that a role sends")


def _request_row(request: ScoreRequest) -> tuple[Any, ...]:
    return (
        *(request.request_id, request.user_id, request.event_id, request.kind, request.due, request.event_time_ms),
        *_source(request),
        *(_json(request.guard), request.spec_version, request.text, request.review_id),
        *(_json(request.history), _json(request.categories), *request.features),
    )


def _signal_row(kind: str, signal: Signal) -> tuple[Any, ...]:
    interests = _json(signal.interests) if isinstance(signal, Interest) else None
    churn: tuple[Any, ...] = (None,) * 4
    if isinstance(signal, ChurnRisk):
        churn = (signal.horizon_days, signal.probability, _json(signal.horizons_days), _json(signal.survival))
    review: tuple[Any, ...] = (None,) * 3
    if isinstance(signal, ReviewSentiment):
        review = (signal.review_id, signal.sentiment, signal.unread and signal.unread.value)
    return (
        *(kind, signal.signal_id, signal.request_id, signal.user_id, signal.event_id, signal.event_time_ms),
        *_source(signal),
        *(_json(signal.guard), signal.spec_version, signal.model_version),
        *(interests, *churn, *review),
    )


def _decision_row(kind: str, decision: Decision) -> tuple[Any, ...]:
    match decision:
        case AdTrigger():
            name, reason, until_ms = decision.trigger_id, decision.reason, decision.expires_at_ms
        case Suppression():
            name, reason, until_ms = decision.suppression_id, decision.reason.value, decision.until_ms
        case _:
            raise TypeError(f"found a decision of kind {kind}, expected an ad trigger or a suppression")
    return (
        *(kind, name, decision.user_id, decision.event_time_ms, decision.campaign_id, decision.signal_id, decision.signal),
        *(
            decision.label,
            decision.score,
            decision.threshold,
            reason,
            decision.model_version,
            decision.policy_version,
            until_ms,
        ),
    )


def _source(message: ScoreRequest | Signal) -> tuple[str, int, int, int]:
    source = message.source
    return source.topic, source.partition, source.offset, source.timestamp_ms


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _add_rows(replay: Replay, files: ParquetFiles) -> int:
    users = 0
    for partition, rows in sorted(replay.rows.items()):
        for key, row in sorted(rows.items()):
            state = row if isinstance(row, UserState) else decode_row(row)
            known = any(topic is not None for topic in state.topics[:SENTIMENT])
            features = snapshot(state, replay.ttl_ms).features if known else UNKNOWN
            packed = row if isinstance(row, bytes) else encode_row(row)
            files.add(ROWS, (key.decode(errors="replace"), partition, packed, *features))
            users += 1
    return users
