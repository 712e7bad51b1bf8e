"""Decode score requests, and render their scores as signals: role scorer without its model.

Start at decode_requests and render_signals.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from models.features.spec import FEATURE_SPEC
from schemas.codec import decode_keyed
from schemas.dead_letter import Reason
from schemas.errors import DecodeError
from schemas.ids import output_id
from schemas.scoring import ScoreRequest, Timings
from schemas.signals import ChurnRisk, Interest, InterestScore, ReviewSentiment, Signal
from stream.fold.records import Output, PartitionTotals, Record, dead_letter

if TYPE_CHECKING:  # roles that only send signals never load torch
    from models.serving.scorer import Scorer, Scores


def render_signals(
    request: ScoreRequest,
    scores: "Scores",
    *,
    scorer: "Scorer",
    received_ms: int,
    scored_ms: int,
    resent: bool = False,
) -> list[Output]:
    """Render interest, churn risk and, for a review, sentiment, perhaps null; ids depend only on the source event.

    `scorer` made the scores. `resent` says that the request was sent again from the dead letters.
    """

    def output(kind: str, struct: type[Signal], **fields: Any) -> Output:
        signal = struct(
            signal_id=output_id(request.user_id, request.kind, request.event_id, kind),
            request_id=request.request_id,
            user_id=request.user_id,
            event_id=request.event_id,
            event_time_ms=request.event_time_ms,
            model_version=scorer.model_version,
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

    horizons_days = list(scorer.horizons_days)
    signals = [
        output("interest", Interest, interests=[InterestScore(label=label, probability=p) for label, p in scores.interests]),
        output(
            "churn-risk",
            ChurnRisk,
            horizons_days=horizons_days,
            survival=scores.survival,
            horizon_days=scorer.churn_days,
            probability=scores.survival[horizons_days.index(scorer.churn_days)],
        ),
    ]
    if request.review_id is not None and (scores.sentiment is not None or scores.unread is not None):
        sentiment = {"sentiment": scores.sentiment, "unread": scores.unread}
        signals.append(output("review-sentiment", ReviewSentiment, review_id=request.review_id, **sentiment))
    return signals


class Asked(Struct, frozen=True):
    """Hold one record of the request topic: its request, or the dead letter of a record that is none."""

    record: Record
    request: ScoreRequest | None
    letter: Output | None = None


def decode_requests(records: Iterable[Record], totals: PartitionTotals, received_ms: int) -> list[Asked]:
    """Decode records of score requests, in order; a record without a valid request gets a dead letter."""
    asked = []
    for record in records:
        totals.events.events_in += 1
        try:
            request = decode_keyed(ScoreRequest, record.key, record.value)
            _check_request(request, record)
            asked.append(Asked(record, request))
        except DecodeError as error:
            totals.events.dead_lettered += 1
            asked.append(Asked(record, None, dead_letter("score-request", record, error, received_ms)))
    return asked


def places_of(scorer: "Scorer", references: Sequence[str]) -> list[int] | None:
    """Return where the features that a model reads are in a vector of these features; None if one is missing."""
    at = {reference: place for place, reference in enumerate(references)}
    places = [at.get(reference) for reference in scorer.features]
    return None if None in places else places  # type: ignore[return-value]


def as_read(request: ScoreRequest, scorer: "Scorer", places: Sequence[int]) -> ScoreRequest:
    """Return a request with only the features that a model reads, in the model's order."""
    return replace(request, features=[request.features[place] for place in places], spec_version=scorer.spec_version)


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
