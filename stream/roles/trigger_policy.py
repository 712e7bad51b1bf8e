"""Decide which signals trigger an advertisement of a shop's campaigns, on event time and without a clock.

TriggerPolicy reads only a signal and the last firing of each campaign for that user. Start at TriggerPolicy.decide.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from schemas.errors import SettingsError
from schemas.fields import Category, Id
from schemas.ids import trigger_id
from schemas.scoring import SourcePosition
from schemas.signals import AdTrigger, ChurnRisk, Decision, Interest, Suppression, SuppressionReason
from schemas.time_units import DAY_MS, HOUR_MS, MINUTE_MS

AHEAD_MS = DAY_MS  # beyond what clocks of producers differ by


class Campaign(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Configure one advertisement: fire when `signal` reaches `threshold`; `label` selects an interest, "*" any of them."""

    id: Id
    signal: Literal["interest", "churn-risk"]
    threshold: Annotated[float, Meta(gt=0.0, le=1.0)]
    label: Category = "*"
    cooldown_hours: Annotated[float, Meta(ge=0.0, le=87_600.0)] = 24.0
    expires_minutes: Annotated[float, Meta(gt=0.0, le=525_600.0)] = 30.0


class TriggerPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hold the campaigns of a shop, as in its policy file; every decision carries `version`."""

    version: str
    campaigns: list[Campaign]

    def decide(
        self, signal: Interest | ChurnRisk, last_fired_ms: dict[str, int], arrived_ms: int, decided_ms: int = 0
    ) -> list[AdTrigger | Suppression]:
        """Decide every campaign on one signal; update `last_fired_ms` (campaign → event time) of those that fire.

        A firing more than AHEAD_MS after `arrived_ms`, the arrival of the signal, came from a wrong clock: it silences nothing.
        `decided_ms`, the wall clock, only stamps the decisions.
        """
        decisions: list[AdTrigger | Suppression] = []
        for campaign in self.campaigns:
            crossed = crossing(campaign, signal)
            if crossed is None:
                continue
            label, score = crossed
            at = signal.event_time_ms
            cooldown_ms = round(campaign.cooldown_hours * HOUR_MS)
            fired_ms = last_fired_ms.get(campaign.id)
            shared = Decision(
                user_id=signal.user_id,
                event_time_ms=at,
                campaign_id=campaign.id,
                signal_id=signal.signal_id,
                signal=campaign.signal,
                label=label,
                score=score,
                threshold=campaign.threshold,
                model_version=signal.model_version,
                policy_version=self.version,
                source=signal.source,
                decided_ms=decided_ms,
            )
            if cooldown_ms and fired_ms is not None and at < fired_ms + cooldown_ms and fired_ms <= arrived_ms + AHEAD_MS:
                decisions.append(_suppress(shared, signal.source, SuppressionReason.COOLDOWN, fired_ms + cooldown_ms))
            else:
                last_fired_ms[campaign.id] = at
                decisions.append(_fire(shared, signal.source, at + round(campaign.expires_minutes * MINUTE_MS)))
        return decisions


def crossing(campaign: Campaign, signal: Interest | ChurnRisk) -> tuple[str | None, float] | None:
    """Return the label and score that reach a campaign's threshold, or None if none does."""
    if isinstance(signal, ChurnRisk):
        reached = campaign.signal == "churn-risk" and signal.probability >= campaign.threshold
        return (None, signal.probability) if reached else None
    if campaign.signal != "interest":
        return None
    for score in signal.interests:  # most probable first
        if score.probability < campaign.threshold:
            return None
        if campaign.label in ("*", score.label):
            return score.label, score.probability
    return None


def _id(decision: Decision, source: SourcePosition, outcome: str) -> str:
    return trigger_id(source.topic, source.partition, source.offset, decision.campaign_id, outcome)


def _fire(decision: Decision, source: SourcePosition, expires_at_ms: int) -> AdTrigger:
    what = decision.signal if decision.label is None else f"{decision.signal} in {decision.label}"
    return AdTrigger(
        **msgspec.structs.asdict(decision),
        trigger_id=_id(decision, source, "trigger"),
        expires_at_ms=expires_at_ms,
        reason=f"{what} {decision.score:.2f} reached {decision.threshold:.2f}",
    )


def _suppress(decision: Decision, source: SourcePosition, reason: SuppressionReason, until_ms: int) -> Suppression:
    return Suppression(
        **msgspec.structs.asdict(decision),
        suppression_id=_id(decision, source, "suppression"),
        reason=reason,
        until_ms=until_ms,
    )


def load_trigger_policy(path: Path) -> TriggerPolicy:
    """Read a policy file (YAML).

    Raises:
        SettingsError: the file is missing or not a valid policy; the text names file, field and expected value.
    """
    try:
        policy = msgspec.yaml.decode(path.read_bytes(), type=TriggerPolicy)
    except (OSError, msgspec.DecodeError, ValueError, RecursionError) as error:  # the YAML parser raises the last two
        raise SettingsError(f"setting trigger_policy: {path}: {error}") from error
    ids = [campaign.id for campaign in policy.campaigns]
    if doubled := sorted({name for name in ids if ids.count(name) > 1}):
        raise SettingsError(f"setting trigger_policy: {path}: found campaign {', '.join(doubled)} twice, expected each id once")
    return policy
