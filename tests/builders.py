"""Build valid sample structs of every kind; a test names only the fields it needs: `click(item_id="mug-1")`.

Every builder takes changed fields of its struct. SAMPLES holds one struct per topic kind, except dead letters.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from schemas.dead_letter import DeadLetter, Reason
from schemas.events import Browse, Click, Purchase, PurchaseLine, Rating, Review, Search, Visit
from schemas.feature_spec import PublishedSpec, SpecFeature
from schemas.scoring import HistoryEntry, ScoreRequest, SourcePosition, Timings
from schemas.signals import AdTrigger, ChurnRisk, Interest, InterestScore, ReviewSentiment, Suppression, SuppressionReason
from schemas.time_units import DAY_MS

ROOT = Path(__file__).parents[1]  # of the checkout
USER = "u-1"
NOW_MS = 1_790_000_000_000  # an instant in September 2026, on a whole second


def visit(**changes: Any) -> Visit:
    return Visit(**{"user_id": USER, "event_time_ms": NOW_MS, "event_id": "visit-1", "page": "/"} | changes)


def browse(**changes: Any) -> Browse:
    fields = {"user_id": USER, "event_time_ms": NOW_MS, "event_id": "browse-1", "item_id": "mug-1", "dwell_ms": 1_500}
    return Browse(**fields | {"category": "kitchen", "title": "Blue mug", "price": 7.5} | changes)


def click(**changes: Any) -> Click:
    fields = {"user_id": USER, "event_time_ms": NOW_MS, "event_id": "click-1", "item_id": "mug-1"}
    return Click(**fields | {"category": "kitchen", "title": "Blue mug", "target": "cart"} | changes)


def search(**changes: Any) -> Search:
    fields = {"user_id": USER, "event_time_ms": NOW_MS, "event_id": "search-1", "query": "blue mug", "result_count": 3}
    return Search(**fields | changes)


def purchase_line(**changes: Any) -> PurchaseLine:
    fields = {"item_id": "mug-1", "quantity": 2, "unit_price": 7.5, "category": "kitchen", "title": "Blue mug"}
    return PurchaseLine(**fields | changes)


def purchase(**changes: Any) -> Purchase:
    fields = {"user_id": USER, "event_time_ms": NOW_MS, "event_id": "purchase-1", "order_id": "order-1"}
    return Purchase(**fields | {"currency": "EUR", "lines": [purchase_line()]} | changes)


def review(**changes: Any) -> Review:
    fields = {"user_id": USER, "event_time_ms": NOW_MS, "event_id": "review-event-1", "review_id": "review-1"}
    return Review(**fields | {"item_id": "mug-1", "text": "A lovely mug.", "category": "kitchen"} | changes)


def rating(**changes: Any) -> Rating:
    fields = {"user_id": USER, "event_time_ms": NOW_MS, "event_id": "rating-1", "item_id": "mug-1", "rating": 4.5}
    return Rating(**fields | {"category": "kitchen"} | changes)


def source_position(**changes: Any) -> SourcePosition:
    fields = {"topic": "shop.clicks.v1", "partition": 3, "offset": 41, "timestamp_ms": NOW_MS}
    return SourcePosition(**fields | changes)


def timings(**changes: Any) -> Timings:
    return Timings(**{"sent_ms": NOW_MS, "folded_ms": NOW_MS + 2} | changes)


def history_entry(**changes: Any) -> HistoryEntry:
    fields = {"event_time_ms": NOW_MS, "kind": "click", "item_id": "mug-1", "category": "kitchen"}
    return HistoryEntry(**fields | {"amount": 0, "text": "Blue mug"} | changes)


def score_request(**changes: Any) -> ScoreRequest:
    fields = {"request_id": "request-1", "user_id": USER, "event_id": "click-1", "event_time_ms": NOW_MS, "kind": "click"}
    position = {"due": "count", "source": source_position(), "guard": {"shop.clicks.v1": (7, 41)}, "timings": timings()}
    evidence = {"spec_version": "spec-1", "features": [1.0, None, 0.25], "history": [history_entry()]}
    evidence |= {"categories": [("kitchen", 0.75), ("garden", 0.25)]}
    return ScoreRequest(**fields | position | evidence | changes)


def published_spec(**changes: Any) -> PublishedSpec:
    feature = SpecFeature(name="click.count.7d", unit="events", window="7d", null="never", reference="click.count.7d@0123abcd")
    return PublishedSpec(**{"version": "spec-1", "features": [feature]} | changes)


def _signal_fields(signal_id: str) -> dict[str, Any]:
    return {
        "signal_id": signal_id,
        "request_id": "request-1",
        "user_id": USER,
        "event_id": "click-1",
        "event_time_ms": NOW_MS,
        "model_version": "model-1",
        "spec_version": "spec-1",
        "source": source_position(),
        "guard": {"shop.clicks.v1": (7, 41)},
        "timings": timings(received_ms=NOW_MS + 3, scored_ms=NOW_MS + 9),
    }


def interest_score(**changes: Any) -> InterestScore:
    return InterestScore(**{"label": "kitchen", "probability": 0.75} | changes)


def interest(**changes: Any) -> Interest:
    scores = [interest_score(), interest_score(label="garden", probability=0.125)]
    return Interest(**_signal_fields("interest-1") | {"interests": scores} | changes)


def churn_risk(**changes: Any) -> ChurnRisk:
    curve = {"horizons_days": [1, 7, 30], "survival": [0.9, 0.6, 0.25], "horizon_days": 30, "probability": 0.25}
    return ChurnRisk(**_signal_fields("churn-risk-1") | curve | changes)


def review_sentiment(**changes: Any) -> ReviewSentiment:
    return ReviewSentiment(**_signal_fields("review-sentiment-1") | {"review_id": "review-1", "sentiment": 0.5} | changes)


def _decision_fields() -> dict[str, Any]:
    return {
        "user_id": USER,
        "event_time_ms": NOW_MS,
        "campaign_id": "spring-mugs",
        "signal_id": "interest-1",
        "signal": "interest",
        "label": "kitchen",
        "score": 0.75,
        "threshold": 0.5,
        "model_version": "model-1",
        "policy_version": "policy-1",
    }


def ad_trigger(**changes: Any) -> AdTrigger:
    fields = {"trigger_id": "trigger-1", "expires_at_ms": NOW_MS + DAY_MS, "reason": "interest over its threshold"}
    return AdTrigger(**_decision_fields() | fields | changes)


def suppression(**changes: Any) -> Suppression:
    fields = {"suppression_id": "suppression-1", "reason": SuppressionReason.COOLDOWN, "until_ms": NOW_MS + DAY_MS}
    return Suppression(**_decision_fields() | fields | changes)


def dead_letter(**changes: Any) -> DeadLetter:
    why = {"reason": Reason.BAD_JSON, "detail": "JSON is malformed: invalid character (byte 0)"}
    where = {"topic": "shop.clicks.v1", "partition": 3, "offset": 41, "timestamp_ms": NOW_MS}
    return DeadLetter(**why | where | {"key": USER.encode(), "value": b"?"} | changes)


SAMPLES: Mapping[str, Callable[..., Struct]] = {
    "visit": visit,
    "browse": browse,
    "click": click,
    "search": search,
    "purchase": purchase,
    "review": review,
    "rating": rating,
    "score-request": score_request,
    "feature-spec": published_spec,
    "interest": interest,
    "churn-risk": churn_risk,
    "review-sentiment": review_sentiment,
    "ad-trigger": ad_trigger,
    "suppression": suppression,
}
