"""Verify a recorded score request: fold the events that its guard names again, and compare the resulting request.

The guard names, per topic, the first and the last offset folded into the user's row. The live role's code folds these records
here topic after topic. If the requests are equal, the interleaving of topics did not matter either. This module does no I/O.
Start at UserFold.check.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import numpy as np
import xxhash
from msgspec import Struct
from numpy.typing import NDArray

from models.features.row_codec import encode_row
from models.features.spec import FEATURE_SPEC, KINDS
from models.features.user_state import UserState
from models.features.windows import WINDOW_DAYS
from schemas.scoring import ScoreRequest
from schemas.time_units import DAY_MS
from stream.fold.records import Output, PartitionTotals, Record
from stream.logs.event_log import LoggedEvent
from stream.roles.features_fold import FeaturesFold

NOT_COMPARED = ("features", "timings")  # features are compared by name; timings depend on the clock
NO_REQUEST = "request"  # named as differing where the events give no request at all
COMPARED = [name for name in ScoreRequest.__struct_fields__ if name not in NOT_COMPARED]


class Verdict(StrEnum):
    """The result for one recorded request."""

    EQUAL = "equal"
    MISMATCH = "mismatch"
    UNVERIFIABLE = "unverifiable"


class Span(Struct):
    """The offsets of one partition that a log holds, from `first` up to, but not including, `next`."""

    first: int
    next: int


Spans = Mapping[tuple[str, int], Span]  # (kind, partition) → offsets


class Checked(Struct, frozen=True):
    """One request's verdict: `differing` names features and fields; `why` says why it cannot be verified."""

    verdict: Verdict
    differing: tuple[str, ...] = ()
    why: str = ""
    state_hash: str | None = None


class UserFold:
    """Folds one user's records of one partition up to guard after guard; starts over if a guard is behind the last."""

    def __init__(self, fold: FeaturesFold, key: bytes, records: Mapping[str, Sequence[Record]]) -> None:
        """Start without rows; `records` maps each kind to its records in order of offset."""
        self._fold, self._key, self._records = fold, key, records
        self._offsets = {kind: [record.offset for record in found] for kind, found in records.items()}
        self._rows: dict[bytes, bytes | UserState] = {}
        self._folded: dict[str, tuple[int, int, int]] = {}  # kind → since and last offset folded, records passed

    def check(self, request: ScoreRequest, spans: Spans) -> Checked:
        """Compare a request with the events that its guard names; `spans` are the offsets that the log holds."""
        if why := unverifiable(request, spans):
            return Checked(Verdict.UNVERIFIABLE, why=why)
        refolded = self.refold(request)
        state = self._rows.get(self._key)
        hashed = xxhash.xxh3_128_hexdigest(encode_row(state)) if isinstance(state, UserState) else None
        differing = (NO_REQUEST,) if refolded is None else tuple(differences(request, refolded))
        return Checked(Verdict.MISMATCH if differing else Verdict.EQUAL, differing, state_hash=hashed)

    def refold(self, request: ScoreRequest) -> ScoreRequest | None:
        """Fold exactly the events in a request's guard, and return the request that its own event causes."""
        guard = request.guard
        if request.kind not in guard:
            return None
        if not self._extends(request):
            self._rows.clear()
            self._folded.clear()
        outputs: list[Output] = []
        for kind in sorted(guard, key=lambda kind: kind == request.kind):  # the kind of the request's own event last
            outputs = self._fold_to(kind, *guard[kind])
        found = [output.message for output in outputs if isinstance(output.message, ScoreRequest)]
        return found[0] if found else None

    def _extends(self, request: ScoreRequest) -> bool:
        """Return whether the guard includes all that is folded, and the request's own event is not yet folded."""
        for kind, (since, last, _) in self._folded.items():
            new_since, new_last = request.guard.get(kind, (-1, -1))
            if since != new_since or last > new_last or (kind == request.kind and last == new_last):
                return False
        return True

    def _fold_to(self, kind: str, since: int, last: int) -> list[Output]:
        """Fold a kind's next records up to the offset `last`, and return the outputs of the last one."""
        offsets, records = self._offsets.get(kind, []), self._records.get(kind, ())
        start = self._folded[kind][2] if kind in self._folded else bisect_left(offsets, since)
        end = bisect_right(offsets, last)
        self._folded[kind] = (since, last, end)
        totals, outputs = PartitionTotals(), list[Output]()
        for record in records[start:end]:
            outputs = self._fold.fold(self._rows, totals, [record], record.timestamp).outputs
        return outputs


def unverifiable(request: ScoreRequest, spans: Spans) -> str:
    """Return why a log cannot verify a request; empty where it can."""
    if request.spec_version != FEATURE_SPEC.version:
        return f"made by feature spec {request.spec_version}"
    newest_ms = request.history[-1].event_time_ms if request.history else 0
    if request.kind not in request.guard and newest_ms - request.event_time_ms > WINDOW_DAYS * DAY_MS:  # any ttl is longer
        return "its own topic had been silent for longer than the ttl"
    for kind, (since, last) in request.guard.items():
        span = spans.get((kind, request.source.partition))
        if span is None or since < span.first:
            return "its row began before the log"
        if last >= span.next:
            return "the log ends before its last event"
    return ""


def differences(recorded: ScoreRequest, refolded: ScoreRequest) -> list[str]:
    """List the features that differ in any bit, then the fields that differ."""
    if len(recorded.features) != len(refolded.features):
        differing = ["features"]
    else:
        unequal = _bits(recorded.features) != _bits(refolded.features)
        differing = [FEATURE_SPEC.names[i] for i in np.flatnonzero(unequal)]
    return differing + [name for name in COMPARED if getattr(recorded, name) != getattr(refolded, name)]


def _bits(features: list[float | None]) -> NDArray[np.uint64]:
    """Return (F,) the bits of each number; null has bits that no number has."""
    return np.array(features, dtype=np.float64).view(np.uint64)


def spans_of(events: Iterable[LoggedEvent]) -> dict[tuple[str, int], Span]:
    """Return the offsets of each partition that recorded events span."""
    spans: dict[tuple[str, int], Span] = {}
    for event in events:
        if event.partition is None or event.offset is None:
            continue
        span = spans.setdefault((event.kind, event.partition), Span(event.offset, event.offset + 1))
        span.first, span.next = min(span.first, event.offset), max(span.next, event.offset + 1)
    return spans


class Ids(Struct):
    """Compares the request ids of the live run with those of a replay of the same events.

    `extra` ids are not in the replay, `missing` ids are not in the live run. `not_reached` ids were caused by events after
    the last one that the live run answered. `not_comparable` ids were caused by topics of which the log lacks the first
    records, so that it cannot know which requests were due.
    """

    extra: list[str] = []
    not_comparable: int = 0
    unanswered: list[tuple[str, int, int, str]] = []  # kind, partition, offset, id
    reached: dict[tuple[str, int], int] = {}  # (kind, partition) → offset of the last event answered

    @property
    def missing(self) -> list[str]:
        """List the ids of requests that the live run should have sent and did not."""
        return [name for kind, partition, offset, name in self.unanswered if offset < self.reached.get((kind, partition), -1)]

    @property
    def not_reached(self) -> int:
        """Count the requests caused by events after the last one that the live run answered."""
        return len(self.unanswered) - len(self.missing)

    def add(self, recorded: Iterable[ScoreRequest], replayed: Iterable[ScoreRequest], spans: Spans) -> None:
        """Compare one user's requests."""
        found = {request.request_id: request for request in replayed if _is_whole(request, spans)}
        sent = set[str]()
        for request in recorded:
            place = (request.kind, request.source.partition)
            self.reached[place] = max(self.reached.get(place, -1), request.source.offset)
            sent.add(request.request_id)
            if not _is_whole(request, spans):
                self.not_comparable += 1
            elif request.request_id not in found:
                self.extra.append(request.request_id)
        for name, request in found.items():
            if name not in sent:
                source = request.source
                self.unanswered.append((request.kind, source.partition, source.offset, name))


def _is_whole(request: ScoreRequest, spans: Spans) -> bool:
    """Return whether a log holds the request's source partition from its first record on."""
    span = spans.get((request.kind, request.source.partition))
    return span is not None and span.first == 0


def plain_requests(fold: FeaturesFold, records: Mapping[str, Sequence[Record]]) -> list[ScoreRequest]:
    """Return every request that one user's events cause; it does not depend on how topics interleave."""
    rows: dict[bytes, bytes | UserState] = {}
    outputs: list[Output] = []
    for kind in KINDS:
        outputs += fold.fold(rows, PartitionTotals(), records.get(kind, ()), 0).outputs
    return [output.message for output in outputs if isinstance(output.message, ScoreRequest)]
