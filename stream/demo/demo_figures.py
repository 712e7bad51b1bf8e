"""Compute the figures that the demo shows, from the roles' /metrics and their output topics.

This module does no I/O. Start at Watched.see.
"""

from collections import Counter, deque
from collections.abc import Iterable

from msgspec import Struct, field
from prometheus_client.parser import text_string_to_metric_families

from schemas.codec import decode
from schemas.errors import DecodeError
from schemas.signals import AdTrigger, ChurnRisk, Interest, ReviewSentiment, Suppression

ALERT = 0.5  # churn risk from which the demo shows a user
SHOWN = 5
LATENCIES = 100_000
SEEN_KINDS = ("interest", "churn-risk", "review-sentiment", "ad-trigger", "suppression")


class RoleFigures(Struct):
    """One role's metrics: records by outcome, outputs by kind, consumer lag, and whether it is ready."""

    records: dict[str, int] = {}
    outputs: dict[str, int] = {}
    lag: int = 0
    ready: bool = False


class Watched(Struct):
    """Records consumed from the signal and decision topics; each id counts once. Times are wall-clock milliseconds."""

    ids: dict[str, set[str]] = field(default_factory=lambda: {kind: set() for kind in SEEN_KINDS})
    latencies_ms: deque[int] = field(default_factory=lambda: deque(maxlen=LATENCIES))
    recent_ms: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=5_000))  # (scored at, event to score)
    interests: Counter[str] = field(default_factory=Counter)
    alerts: deque[str] = field(default_factory=lambda: deque(maxlen=SHOWN))
    triggers: deque[str] = field(default_factory=lambda: deque(maxlen=SHOWN))
    first_seen_ms: int | None = None

    def see(self, kind: str, value: bytes | None, now_ms: int) -> None:
        """Count one record of a topic; skip a repeated id and a record that cannot be decoded."""
        try:
            match kind:
                case "interest":
                    self._see_interest(decode(Interest, value), now_ms)
                case "churn-risk":
                    self._see_churn_risk(decode(ChurnRisk, value))
                case "review-sentiment":
                    self._is_new(kind, decode(ReviewSentiment, value).signal_id)
                case "ad-trigger":
                    self._see_trigger(decode(AdTrigger, value))
                case "suppression":
                    self._is_new(kind, decode(Suppression, value).suppression_id)
        except DecodeError:
            return

    def count(self, kind: str) -> int:
        """Count the ids of a kind."""
        return len(self.ids[kind])

    def _is_new(self, kind: str, found: str) -> bool:
        ids = self.ids[kind]
        before = len(ids)
        ids.add(found)
        return len(ids) > before

    def _see_interest(self, signal: Interest, now_ms: int) -> None:
        if not self._is_new("interest", signal.signal_id):
            return
        if self.first_seen_ms is None:
            self.first_seen_ms = now_ms
        took_ms = signal.timings.scored_ms - signal.timings.sent_ms
        self.latencies_ms.append(took_ms)
        self.recent_ms.append((signal.timings.scored_ms, took_ms))
        if signal.interests:
            self.interests[signal.interests[0].label] += 1

    def _see_churn_risk(self, signal: ChurnRisk) -> None:
        if self._is_new("churn-risk", signal.signal_id) and signal.probability >= ALERT:
            self.alerts.append(f"{signal.user_id} may stay away for {signal.horizon_days} days: {signal.probability:.0%}")

    def _see_trigger(self, trigger: AdTrigger) -> None:
        if self._is_new("ad-trigger", trigger.trigger_id):
            self.triggers.append(f"{trigger.campaign_id} for {trigger.user_id}: {trigger.reason}")


def parse_metrics(text: str) -> RoleFigures:
    """Parse a role's /metrics."""
    figures = RoleFigures(records={}, outputs={})
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "footfall_records_total":
                figures.records[sample.labels["outcome"]] = int(sample.value)
            elif sample.name == "footfall_outputs_total":
                figures.outputs[sample.labels["kind"]] = int(sample.value)
            elif sample.name == "footfall_consumer_lag_records":
                figures.lag += int(sample.value)
            elif sample.name == "footfall_ready":
                figures.ready = sample.value == 1
    return figures


def percentile(values: Iterable[int], share: float) -> int | None:
    """Return the value below which this fraction of the values lies, or None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
