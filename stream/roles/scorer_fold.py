"""A score request and its scores → the signals to publish. Start at render_signals."""

from typing import TYPE_CHECKING, Any

from schemas.ids import output_id
from schemas.scoring import ScoreRequest, Timings
from schemas.signals import CHURN_HORIZON_DAYS, ChurnRisk, Interest, InterestScore, ReviewSentiment, Signal
from stream.fold.records import Output

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
) -> list[Output]:
    """Render interest, churn risk and, for a review, its sentiment; ids depend on the source event alone."""

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
    if request.review_id is not None and scores.sentiment is not None:
        signals.append(output("review-sentiment", ReviewSentiment, review_id=request.review_id, sentiment=scores.sentiment))
    return signals
