"""Build the folds of roles features and triggers from the settings. Start at features_fold."""

from collections.abc import Mapping

from models.features.spec import KINDS
from schemas.time_units import DAY_MS, HOUR_MS, MINUTE_MS
from stream.fold.placement import Placement
from stream.process.settings import Settings
from stream.roles.features_fold import FeaturesFold
from stream.roles.scoring_policy import ScoringPolicy
from stream.roles.trigger_policy import AHEAD_MS, load_trigger_policy
from stream.roles.triggers_fold import TriggersFold


def features_fold(settings: Settings, partitions: int, topic_ids: Mapping[str, str] | None = None) -> FeaturesFold:
    """Build the fold of role features, for topics with `partitions` partitions; requests carry the `topic_ids` (name → id)."""
    return FeaturesFold(
        topics={kind: topic.name for kind, topic in settings.topics().items()},
        policy=ScoringPolicy(
            arrivals=frozenset(KINDS.index(kind) for kind in settings.arrival_kinds),
            pause_ms=round(settings.pause_minutes * MINUTE_MS),
            every_clicks=settings.every_clicks,
            min_gap_ms=round(settings.min_gap_seconds * 1000),
            score_lateness_ms=round(settings.score_lateness_minutes * MINUTE_MS),
        ),
        rates=settings.rates,
        lateness_ms=round(settings.lateness_hours * HOUR_MS),
        ttl_ms=round(settings.ttl_days * DAY_MS),
        placement=placement(settings, partitions),
        topic_ids=topic_ids,
    )


def placement(settings: Settings, partitions: int) -> Placement:
    """Return where keys belong in topics with `partitions` partitions."""
    return Placement(settings.partitioner, partitions, settings.misplaced_keys == "accept")


def triggers_fold(settings: Settings, partitions: int) -> TriggersFold:
    """Build the fold of role triggers, with the campaigns of the policy file, for topics with `partitions` partitions.

    Raises:
        SettingsError: the policy file is missing or invalid.
    """
    topics = {kind: topic.name for kind, topic in settings.topics().items()}
    policy = load_trigger_policy(settings.trigger_policy)
    ahead_ms = max(AHEAD_MS, round(settings.source_ahead_minutes * MINUTE_MS))
    return TriggersFold(topics=topics, policy=policy, placement=placement(settings, partitions), ahead_ms=ahead_ms)
