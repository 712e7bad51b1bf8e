"""List the topics that each role reads and writes, by topic kind. Start at ROLE_TOPICS."""

from collections.abc import Mapping
from typing import Literal

from models.features.spec import KINDS
from schemas.topics import SIGNALS, RoleTopics

Role = Literal["features", "scorer", "triggers"]
ROLE_TOPICS: Mapping[Role, RoleTopics] = {
    "features": RoleTopics(aligned=KINDS, unaligned=("review-sentiment",), sends=("score-request", "feature-spec")),
    "scorer": RoleTopics(unaligned=("score-request",), sends=SIGNALS),
    "triggers": RoleTopics(aligned=("interest", "churn-risk"), sends=("ad-trigger", "suppression")),
}
ROLES: tuple[Role, ...] = tuple(ROLE_TOPICS)
