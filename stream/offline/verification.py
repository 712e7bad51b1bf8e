"""Verify a recorded live run: write one row per score request to verification.parquet, and count the verdicts.

The log is read once and split by user into buckets, so memory does not grow with the log. Start at write_verification.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, field

from models.data.parquet_files import Columns, ParquetFiles
from schemas.codec import decode_keyed
from schemas.errors import DecodeError, LogError
from schemas.scoring import ScoreRequest
from schemas.signals import ChurnRisk, Interest, ReviewSentiment, Signal
from schemas.topics import SIGNALS, SOURCES
from stream.logs.event_log import read_log, read_manifest
from stream.offline.replay_files import refuse_used
from stream.offline.replay_log import LogRecord, Replay, settings_of_log
from stream.offline.user_buckets import Numbered, in_user_buckets
from stream.offline.verify import Checked, Ids, Span, Spans, UserFold, Verdict, plain_requests, spans_of
from stream.offline.verify_scores import BATCHES, TOLERANCE, Scored, score_differences
from stream.process.settings import Settings
from stream.roles.features_fold import FeaturesFold

if TYPE_CHECKING:
    from models.serving.scorer import Scorer

SCORED_AT_ONCE = 512
SHOWN = 20  # ids and names that a summary lists
FOLDED = (*SOURCES, "review-sentiment")
RECORDED = (*SOURCES, "score-request", *SIGNALS)
STRUCTS: dict[str, type[Interest] | type[ChurnRisk] | type[ReviewSentiment]] = {
    "interest": Interest,
    "churn-risk": ChurnRisk,
    "review-sentiment": ReviewSentiment,
}
FILE = "verification.parquet"
COLUMNS: Columns = {
    **dict.fromkeys(("request_id", "user_id", "topic"), "VARCHAR"),
    **{"partition": "INTEGER", "offset": "BIGINT"},
    **dict.fromkeys(("state_hash", "guard", "spec_version", "model_version", "verdict", "why"), "VARCHAR"),
    **{"differing": "VARCHAR[]", "signals": "INTEGER", "score_difference": "DOUBLE"},
}

Progress = Callable[[int, int], None]


class Verification(Struct, kw_only=True):
    """What a verification found; counts are of recorded score requests unless named otherwise."""

    requests: int = 0
    equal: int = 0
    mismatched: int = 0
    unverifiable: Counter[str] = field(default_factory=Counter)  # by reason
    differing: Counter[str] = field(default_factory=Counter)  # by feature or field
    repeated: int = 0  # requests with the id of an earlier one: outputs are sent at least once
    undecodable: int = 0  # records that do not decode as a request or signal
    ids_missing: int = 0
    ids_extra: int = 0
    ids_not_reached: int = 0
    ids_not_comparable: int = 0
    some_ids: list[str] = []  # the first ids missing or extra
    scored: int = 0
    unscored: int = 0  # requests without a signal in the log
    score_difference: float = 0.0
    score_tolerance: float = TOLERANCE
    batch_sizes: tuple[int, ...] = BATCHES
    model_version: str | None = None
    made_by: Counter[str] = field(default_factory=Counter)  # by model version
    orphans: int = 0  # signals whose request is not in the log
    agrees: bool = False  # no mismatch, no missing or extra id

    def count(self, verdict: Verdict, why: str, differing: Sequence[str], scored: Scored) -> None:
        """Count one request by its verdict and scores."""
        self.requests += 1
        self.equal += verdict is Verdict.EQUAL
        self.mismatched += verdict is Verdict.MISMATCH
        if verdict is Verdict.UNVERIFIABLE:
            self.unverifiable[why] += 1
        self.differing.update(differing)
        self.unscored += not scored.signals
        self.made_by.update(scored.model_versions)
        if scored.difference is not None:
            self.scored += 1
            self.score_difference = max(self.score_difference, scored.difference)


class UserRecords(Struct):
    """One user's records in one partition: `folded` by kind, requests and signals as they were sent."""

    folded: dict[str, list[LogRecord]] = {}
    requests: list[LogRecord] = []
    signals: list[tuple[str, LogRecord]] = []


def write_verification(
    log: Path, settings: Settings, scorer: "Scorer | None", directory: Path, progress: Progress = lambda done, total: None
) -> Verification:
    """Verify every score request of a recorded log and write each verdict.

    Without a scorer, features and ids are verified and scores are not.

    Raises:
        LogError: there is no log.
        LogError: the directory is not empty.
        LogError: the log is not of a live run, or the live run used other topics than the settings name.
    """
    manifest = read_manifest(log)
    counts, settings = manifest.events, settings_of_log(settings, manifest)
    refuse_used(directory)
    spans = _recorded_spans(log, counts, settings)
    directory.mkdir(parents=True, exist_ok=True)
    found, ids = Verification(model_version=None if scorer is None else scorer.model_version), Ids()
    replay = Replay(settings, partitions=settings.partition_count, topic_ids=manifest.topic_ids)
    log_records = ((place, event.kind, replay.number(event)) for place, event in enumerate(read_log(log, RECORDED)))
    with ParquetFiles(directory, {FILE: COLUMNS}) as files:
        for bucket in in_user_buckets(log_records, sum(counts.values())):
            verified: list[tuple[ScoreRequest, Checked, list[Signal]]] = []
            for key, records in _users(bucket):
                verified += verify_user(key, records, replay.features, spans, ids, found)
                if len(verified) >= SCORED_AT_ONCE:
                    _score_and_write(verified, scorer, files, found)
                    progress(found.requests, counts["score-request"])
            _score_and_write(verified, scorer, files, found)
    found.ids_missing, found.ids_extra = len(ids.missing), len(ids.extra)
    found.ids_not_reached, found.ids_not_comparable = ids.not_reached, ids.not_comparable
    found.some_ids = [*ids.missing, *ids.extra][:SHOWN]
    found.agrees = not (found.mismatched or found.ids_missing or found.ids_extra)
    return found


def verify_user(
    key: bytes, records: UserRecords, fold: FeaturesFold, spans: Spans, ids: Ids, found: Verification
) -> Iterator[tuple[ScoreRequest, Checked, list[Signal]]]:
    """Verify one user's requests in the order they were sent; yield each with the signals that answered it."""
    requests = list(_decoded(records.requests, found))
    signals: dict[tuple[str, bytes], list[Signal]] = defaultdict(list)
    for signal in _signals(records.signals, found):
        signals[_identity(signal)].append(signal)
    ids.add(requests, plain_requests(fold, records.folded), spans)
    user, seen = UserFold(fold, key, records.folded), set[str]()
    answered = set[tuple[str, bytes]]()
    for request in requests:
        found.repeated += request.request_id in seen
        seen.add(request.request_id)
        identity = _identity(request)
        answered.add(identity)
        yield request, user.check(request, spans), signals.get(identity, [])
    found.orphans += sum(len(made) for identity, made in signals.items() if identity not in answered)


def _identity(message: ScoreRequest | Signal) -> tuple[str, bytes]:
    """Return a message's request id and guard; a request sent again after a crash may have another guard."""
    return message.request_id, msgspec.json.encode(message.guard, order="sorted")


def _decoded(records: Iterable[LogRecord], found: Verification) -> Iterator[ScoreRequest]:
    for record in records:
        try:
            yield decode_keyed(ScoreRequest, record.key, record.value)
        except DecodeError:
            found.undecodable += 1


def _signals(records: Iterable[tuple[str, LogRecord]], found: Verification) -> Iterator[Signal]:
    for kind, record in records:
        try:
            yield decode_keyed(STRUCTS[kind], record.key, record.value)
        except DecodeError:
            found.undecodable += 1


def _recorded_spans(log: Path, counts: dict[str, int], settings: Settings) -> dict[tuple[str, int], Span]:
    """Check that a log records a live run of this deployment, and return the offsets that it holds."""
    if not counts.get("score-request"):
        raise LogError(
            f"{log} holds no score requests, expected those of a live run: record one with `footfall record`, "
            "or replay this log without --verify"
        )
    names = {kind: topic.name for kind, topic in settings.topics().items()}
    for event in read_log(log, ("score-request",)):
        if event.partition is None or event.offset is None:
            raise LogError(f"{log} holds score requests without offsets: record the log again")
        try:
            request = decode_keyed(ScoreRequest, event.key, event.value)
        except DecodeError:
            continue
        if request.source.topic != names[request.kind]:
            raise LogError(
                f"{log} holds a score request caused by topic {request.source.topic}, the settings name "
                f"{names[request.kind]}: verify with the topic_prefix and topic_names of the live run"
            )
        break
    if recorded := read_manifest(log).recorded:
        return {(found.kind, found.partition): Span(found.first, found.next) for found in recorded if found.kind in FOLDED}
    return spans_of(read_log(log, FOLDED))


def _users(bucket: Iterable[Numbered]) -> Iterator[tuple[bytes, UserRecords]]:
    """Yield the users of one bucket, each with all their records of one partition."""
    users: dict[tuple[int, bytes], UserRecords] = {}
    for _, kind, record in bucket:
        if record.key is None:
            continue
        user = users.get((record.partition, record.key))
        if user is None:
            user = users[record.partition, record.key] = UserRecords()
        if kind == "score-request":
            user.requests.append(record)
            continue
        if kind in STRUCTS:
            user.signals.append((kind, record))
        if kind in FOLDED:
            user.folded.setdefault(kind, []).append(record)
    for (_, key), user in users.items():
        for records in (user.requests, *user.folded.values()):
            records.sort(key=attrgetter("offset"))
        yield key, user


def _score_and_write(
    verified: list[tuple[ScoreRequest, Checked, list[Signal]]],
    scorer: "Scorer | None",
    files: ParquetFiles,
    found: Verification,
) -> None:
    """Score verified requests, write their rows, count them, and clear the list."""
    requests, checked, signals = (
        [request for request, _, _ in verified],
        [c for _, c, _ in verified],
        [s for _, _, s in verified],
    )
    for request, check, scored in zip(requests, checked, score_differences(requests, signals, scorer), strict=True):
        verdict, differing = check.verdict, check.differing
        if scored.difference is not None and scored.difference > TOLERANCE:
            verdict, differing = Verdict.MISMATCH, (*differing, "score")
        found.count(verdict, check.why, differing, scored)
        files.add(
            FILE,
            (
                *(request.request_id, request.user_id, request.source.topic, request.source.partition, request.source.offset),
                *(check.state_hash, msgspec.json.encode(request.guard).decode(), request.spec_version),
                *(" ".join(scored.model_versions) or None, verdict.value, check.why or None, list(differing)),
                *(scored.signals, scored.difference),
            ),
        )
    verified.clear()


def summary_tables(found: Verification) -> dict[str, list[tuple[str, str]]]:
    """Render a verification as tables: title → rows of name and value."""
    counts = [
        ("score requests", found.requests),
        ("equal", found.equal),
        ("mismatched", found.mismatched),
        *((f"unverifiable: {why}", count) for why, count in sorted(found.unverifiable.items())),
        ("sent again with the same id", found.repeated),
        ("ids that a replay gives and the live run lacks", found.ids_missing),
        ("ids that the live run has and a replay does not give", found.ids_extra),
        ("ids of events after the last one the live run answered", found.ids_not_reached),
        ("ids not comparable: their topic began before the log", found.ids_not_comparable),
        ("records that do not decode", found.undecodable),
    ]
    compared = [
        ("scores compared", str(found.scored)),
        (f"largest difference, batches of {' and '.join(map(str, found.batch_sizes))}", f"{found.score_difference:.2e}"),
    ]
    scores = [
        *(compared if found.model_version else [("scores compared", "none: no model was loaded")]),
        ("requests without a recorded signal", str(found.unscored)),
        ("signals without a recorded request", str(found.orphans)),
        *((f"made by model {version}", str(count)) for version, count in sorted(found.made_by.items())),
    ]
    tables = {"verification": [(name, str(count)) for name, count in counts], "scores": scores}
    if found.differing:
        tables["differing"] = [(name, str(count)) for name, count in found.differing.most_common()]
    if found.some_ids:
        tables["some ids missing or extra"] = [(name, "") for name in found.some_ids]
    return tables
