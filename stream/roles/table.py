"""List the roles and the topics they read. Start at INPUTS."""

from typing import Literal

from models.features.spec import KINDS

Role = Literal["features", "scorer", "triggers"]
ROLES: tuple[Role, ...] = ("features", "scorer", "triggers")
INPUTS: dict[Role, tuple[tuple[str, ...], tuple[str, ...]]] = {  # aligned kinds, unaligned kinds
    "features": (KINDS, ("review-sentiment",)),
    "scorer": ((), ("score-request",)),
    "triggers": (("interest", "churn-risk"), ()),
}
