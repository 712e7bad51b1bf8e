"""Fold a log as the live role does, user after user or in the order of the log. Start at LiveFold and numbered."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from models.data.examples import LANDMARK
from models.features.spec import KINDS
from models.features.user_state import UserState
from schemas.codec import event_decoder
from schemas.dead_letter import DeadLetter
from schemas.events import Event
from schemas.scoring import ScoreRequest
from schemas.topics import SOURCES
from stream.fold.records import PartitionTotals
from stream.logs.event_log import LoggedEvent
from stream.offline.log_order import in_fold_order
from stream.offline.replay_log import LogRecord, Replay
from stream.process.settings import Settings
from stream.roles.features_fold import FeaturesFold


class FoldedRecord(NamedTuple):
    """The result of one fold: the event unless refused or repeated, whether the rows include it, the requests caused."""

    event: Event | None
    applied: bool = False
    requests: Sequence[ScoreRequest] = ()


class LiveFold:
    """Folds a log's records one by one, and keeps each user's row and newest event until `forget_users`."""

    def __init__(self, fold: FeaturesFold) -> None:
        """Start without rows."""
        self._fold, self._totals = fold, PartitionTotals()
        self._rows: dict[int, dict[bytes, bytes | UserState]] = defaultdict(dict)  # by partition: a split user has two rows
        self._newest: dict[bytes, tuple[int, Event, LogRecord]] = {}
        self._decoders = {kind: event_decoder(struct) for kind, struct in SOURCES.items()}
        self.refused: Counter[str] = Counter()

    def fold(self, kind: str, record: LogRecord) -> FoldedRecord:
        """Fold one record; a late event is returned although the rows do not include it."""
        count = self._totals.events
        applied, late = count.applied, count.late_dropped
        outputs = self._fold.fold(self._rows[record.partition], self._totals, [record], record.timestamp).outputs
        if count.applied == applied and count.late_dropped == late:
            self.refused.update(output.message.reason for output in outputs if isinstance(output.message, DeadLetter))
            return FoldedRecord(None)
        event = self._decoders[kind](record.key, record.value)
        if count.applied > applied and record.key is not None:
            newest = self._newest.get(record.key)
            if newest is None or event.event_time_ms >= newest[1].event_time_ms:
                self._newest[record.key] = KINDS.index(kind), event, record
        return FoldedRecord(
            event, count.applied > applied, [output.message for output in outputs if isinstance(output.message, ScoreRequest)]
        )

    def forget_users(self) -> None:
        """Drop all users' rows; the counts of refused events stay."""
        self._rows.clear()
        self._newest.clear()

    def snapshot(self, key: bytes) -> ScoreRequest | None:
        """Return the request that a user's newest event would cause now; None before their first event."""
        if key not in self._newest:
            return None
        kind, event, record = self._newest[key]
        state = self._rows[record.partition][key]
        assert isinstance(state, UserState)  # these rows are never encoded
        return self._fold.request(kind, event, record, state, LANDMARK, record.timestamp)


def numbered(
    events: Iterable[LoggedEvent], settings: Settings, digest: "hashlib._Hash | None" = None
) -> Iterator[tuple[str, LogRecord]]:
    """Yield a log's records in replay order: each kind, and the record with its partition and offset in the replay."""
    replay = Replay(settings, partitions=settings.partition_count)
    for event in in_fold_order(events):
        if digest is not None:
            digest.update(repr((event.kind, event.record_ms, event.key, event.value)).encode())
        yield event.kind, replay.number(event)
