"""Hold one scorer's predictions for the test examples and reviews, as arrays. Start at Candidate."""

from collections.abc import Sequence

from msgspec import Struct

from models.evaluation.bootstrap import Floats
from schemas.signals import Unread


class Candidate(Struct, frozen=True, kw_only=True):
    """Predictions of one model, or of one variant of it, for N examples and M reviews; None for a missing head.

    `risk` maps a horizon in days to (N,) churn probabilities. `hazards` (N, H) are hazards of return in the bins that end
    at `horizons_days`, as in models.network.survival. `categories` (N, K) score `labels`; `items` are the best 20 or more
    per example. For reviews: `positive` (M,), `stars` (M, 5) and `kinds` (M, C) of `kind_labels`. `unread` (M,) says why a
    review has no sentiment when served; empty if all have.
    """

    risk: dict[int, Floats] = {}
    hazards: Floats | None = None
    horizons_days: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    categories: Floats | None = None
    items: list[list[str]] | None = None
    positive: Floats | None = None
    stars: Floats | None = None
    kind_labels: tuple[str, ...] = ()
    kinds: Floats | None = None
    unread: Sequence[Unread | None] = ()


class Setup(Struct, frozen=True, kw_only=True):
    """Settings of an evaluation; `served` names the candidate that is judged."""

    served: str
    replicates: int = 300
    seed: int = 1
    mistakes: int = 8
    grace_days: int = 30
