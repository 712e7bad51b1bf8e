"""Decode score requests, and render their scores as signals: role scorer without its model.

Start at decode_requests and render_signals.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from models.features.spec import FEATURE_SPEC
from schemas.codec import decode_keyed
from schemas.dead_letter import Reason
from schemas.errors import DecodeError
from schemas.ids import output_id
from schemas.scoring import ScoreRequest, Timings
from schemas.signals import CHURN_HORIZON_DAYS, ChurnRisk, Interest, InterestScore, ReviewSentiment, Signal
from stream.fold.records import Output, PartitionTotals, Record, dead_letter

if TYPE_CHECKING:  # roles that only send signals never load torch
    from models.serving.scorer import Scores


def render_signals(
    request: ScoreRequest,
    scores: "Scores",
    *,
    horizons_days: list[int],
    model_version: str,
    received_ms: int,
    scored_ms: int,
    resent: bool = False,
) -> list[Output]:
    """Render interest, churn risk and, for a review, sentiment, perhaps null; ids depend only on the source event.

    `resent` says that the request was sent again from the dead letters.
    """

    def output(kind: str, struct: type[Signal], **fields: Any) -> Output:
        signal = struct(
            signal_id=output_id(request.user_id, request.kind, request.event_id, kind),
            request_id=request.request_id,
            user_id=request.user_id,
            event_id=request.event_id,
            event_time_ms=request.event_time_ms,
            model_version=model_version,
            spec_version=request.spec_version,
            source=request.source,
            guard=request.guard,
            timings=Timings(
                sent_ms=request.timings.sent_ms,
                folded_ms=request.timings.folded_ms,
                received_ms=received_ms,
                scored_ms=scored_ms,
            ),
            resent=resent,
            **fields,
        )
        return Output(kind, request.source.partition, scored_ms, request.user_id.encode(), signal)

    signals = [
        output("interest", Interest, interests=[InterestScore(label=label, probability=p) for label, p in scores.interests]),
        output(
            "churn-risk",
            ChurnRisk,
            horizons_days=horizons_days,
            survival=scores.survival,
            horizon_days=CHURN_HORIZON_DAYS,
            probability=scores.survival[horizons_days.index(CHURN_HORIZON_DAYS)],
        ),
    ]
    if request.review_id is not None and (scores.sentiment is not None or scores.unread is not None):
        sentiment = {"sentiment": scores.sentiment, "unread": scores.unread}
        signals.append(output("review-sentiment", ReviewSentiment, review_id=request.review_id, **sentiment))
    return signals


def decode_requests(
    records: Iterable[Record], totals: PartitionTotals, received_ms: int
) -> tuple[list[tuple[Record, ScoreRequest]], list[Output]]:
    """Decode score requests and return each with its record; a record without a valid one becomes a dead letter."""
    accepted: list[tuple[Record, ScoreRequest]] = []
    dead = []
    for record in records:
        totals.events.events_in += 1
        try:
            request = decode_keyed(ScoreRequest, record.key, record.value)
            _check_request(request, record)
            accepted.append((record, request))
        except DecodeError as error:
            totals.events.dead_lettered += 1
            dead.append(dead_letter("score-request", record, error, received_ms))
    return accepted, dead


def readable_in_order(
    waiting: Sequence[tuple[Record, ScoreRequest]], spec_version: str
) -> tuple[list[tuple[Record, ScoreRequest]], list[tuple[Record, ScoreRequest]]]:
    """Split requests into those that a model of `spec_version` scores now and those that wait, each in order.

    A partition is scored in order: its first request of another feature spec holds back the later ones.
    """
    readable: list[tuple[Record, ScoreRequest]] = []
    held: list[tuple[Record, ScoreRequest]] = []
    held_partitions = set[int]()
    for record, request in waiting:
        if request.spec_version != spec_version:
            held_partitions.add(record.partition)
        (held if record.partition in held_partitions else readable).append((record, request))
    return readable, held


def first_offsets(waiting: Iterable[tuple[Record, ScoreRequest]]) -> dict[int, int]:
    """Return the offset of each partition's first waiting request."""
    first: dict[int, int] = {}
    for record, _ in waiting:
        first.setdefault(record.partition, record.offset)
    return first


def _check_request(request: ScoreRequest, record: Record) -> None:
    """Refuse a request with the wrong feature vector length, or a source partition other than the record's."""
    width = len(FEATURE_SPEC.names)
    if request.spec_version == FEATURE_SPEC.version and len(request.features) != width:
        raise DecodeError(
            Reason.SPEC_MISMATCH,
            f"found {len(request.features)} features, expected the {width} of feature spec {FEATURE_SPEC.version}",
        )
    if request.source.partition != record.partition:
        raise DecodeError(
            Reason.OUT_OF_RANGE,
            f"found source partition {request.source.partition}, expected {record.partition}, the partition of the record",
        )
