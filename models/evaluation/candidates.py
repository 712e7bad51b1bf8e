"""What one scorer said of the test examples and reviews, ready to be measured: arrays, not models. Start at Candidate."""

from msgspec import Struct

from models.evaluation.bootstrap import Floats


class Candidate(Struct, frozen=True, kw_only=True):
    """The scores of one model, or of one state of it, for N examples and M reviews; None where it has no such head.

    `risk` is horizon in days → (N,) probabilities to stay away; `hazards` (N, H) are of return within bins that end at
    `horizons_days`, as in models.network.survival; `categories` (N, K) are of `labels`; `items` are the best 20 or more per
    example. Of reviews: `positive` (M,), `stars` (M, 5) and `kinds` (M, C) of `kind_labels`.
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


class Setup(Struct, frozen=True, kw_only=True):
    """How an evaluation measures: `served` names the candidate that is judged."""

    served: str
    replicates: int = 300
    seed: int = 1
    mistakes: int = 8
    grace_days: int = 30
