"""Plan the ground truth of a simulated shop: each shopper's interests, rhythm, satisfaction and churn.

A configuration becomes one Shopper per person. What a model should learn is decided here, before any event is drawn. Start
at plan_shoppers.
"""

from bisect import bisect_right
from random import Random

from msgspec import Struct

from schemas.time_units import DAY_MS
from stream.logs.simulate.shop_texts import CATEGORIES, titles

EXPLORING = 0.12  # share of categories drawn uniformly, whatever the shopper's interests
LOYAL_SHARE = 0.35  # share of shoppers without a churn hazard
CHURN_SHARE = 0.6  # share of the others that churns within the period at an average hazard
SESSIONS_PER_WEEK = 1.5
MIN_SESSIONS_PER_WEEK = 0.4
DECLINE_SHARE = 0.6  # a decline takes at most this share of a shopper's time


class SimulatorConfig(Struct, frozen=True, kw_only=True):
    """The configuration of a simulation; equal configurations give equal bytes.

    `late`, `duplicates` and `malformed` are fractions of the clean events. The Zipf exponents are of shoppers by
    activity (hot users) and of items by popularity within their category.
    """

    seed: int = 1
    shoppers: int = 300
    days: int = 60
    start_ms: int = 1_767_225_600_000
    late: float = 0.0
    duplicates: float = 0.0
    malformed: float = 0.0
    items: int = 480
    user_exponent: float = 0.6
    item_exponent: float = 1.05
    currency: str = "GBP"

    def __post_init__(self) -> None:
        most = len(CATEGORIES) * min(map(titles, CATEGORIES))
        for name, low, high in (
            ("seed", 0, 2**63 - 1),
            ("shoppers", 1, 1_000_000),
            ("days", 1, 3_650),
            ("start_ms", 0, 3_700_000_000_000),
            ("late", 0, 1),
            ("duplicates", 0, 1),
            ("malformed", 0, 1),
            ("items", len(CATEGORIES), most),
            ("user_exponent", 0, 0.95),
            ("item_exponent", 0, 5),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"found {name} {getattr(self, name)}, expected {low} to {high}: correct this value")
        if not (len(self.currency) == 3 and self.currency.isascii() and self.currency.isalpha() and self.currency.isupper()):
            raise ValueError(f"found currency {self.currency!r}, expected an ISO 4217 code such as GBP: correct it")

    @property
    def end_ms(self) -> int:
        """The first millisecond after the period."""
        return self.start_ms + self.days * DAY_MS


class Interests(Struct, frozen=True, gc=False):
    """Planned weights of categories from `from_ms` on, summing to 1; uniform draws (EXPLORING) come in addition."""

    from_ms: int
    weights: dict[str, float]


class Shopper(Struct, frozen=True, kw_only=True, gc=False):
    """One person's ground truth; times are milliseconds since 1970 (UTC), `satisfaction` is 0 to 1.

    There are no events at or after `churn_ms`. From `decline_from_ms` to `churn_ms`, sessions and purchases become rarer
    and ratings fall. Both are None for a shopper who stays to the end of the period. The means are those before the decline.
    """

    user_id: str
    joined_ms: int
    churn_ms: int | None
    decline_from_ms: int | None
    hazard_per_day: float
    satisfaction: float
    interests: list[Interests]
    mean_session_gap_days: float
    session_regularity: float
    mean_purchase_gap_days: float
    purchase_regularity: float
    usual_hour: float

    def interests_at(self, at_ms: int) -> dict[str, float]:
        """Return the planned weights at a time; before the first phase, those of the first."""
        return self.interests[max(0, bisect_right(self.interests, at_ms, key=lambda phase: phase.from_ms) - 1)].weights

    def decline_at(self, at_ms: int) -> float:
        """Return the progress of the decline, 0 before it and 1 at churn."""
        if self.churn_ms is None or self.decline_from_ms is None or at_ms <= self.decline_from_ms:
            return 0.0
        return min(1.0, (at_ms - self.decline_from_ms) / (self.churn_ms - self.decline_from_ms))


def plan_shoppers(config: SimulatorConfig) -> list[Shopper]:
    """Plan all shoppers; their order is independent of their activity."""
    ranks = list(range(1, config.shoppers + 1))
    Random(f"{config.seed}:ranks").shuffle(ranks)
    weights = [rank**-config.user_exponent for rank in ranks]
    mean = sum(weights) / len(weights)
    return [_plan(config, number, weight / mean) for number, weight in enumerate(weights)]


def _plan(config: SimulatorConfig, number: int, activity: float) -> Shopper:
    """Plan one shopper; `activity` is relative to the mean of all."""
    rng = Random(f"{config.seed}:plan:{number}")
    gap_days = 7 / max(MIN_SESSIONS_PER_WEEK, SESSIONS_PER_WEEK * activity)
    span_ms = config.days * DAY_MS
    joined_ms = config.start_ms + int(rng.random() * (min(gap_days * DAY_MS, span_ms) if rng.random() < 0.7 else span_ms / 2))
    satisfaction = rng.betavariate(5, 2)
    hazard = 0.0
    if rng.random() >= LOYAL_SHARE:
        base = 1 - (1 - CHURN_SHARE) ** (1 / config.days)
        hazard = min(0.5, base * 2.2 ** (4 * (0.71 - satisfaction)))
    churn_ms = _draw_churn(rng, config, joined_ms, hazard)
    decline_from_ms = None
    if churn_ms is not None:
        decline_ms = min(max(7.0, 4 * gap_days) * DAY_MS, DECLINE_SHARE * (churn_ms - joined_ms))
        decline_from_ms = churn_ms - int(decline_ms)
    return Shopper(
        user_id=f"shopper-{number:05d}",
        joined_ms=joined_ms,
        churn_ms=churn_ms,
        decline_from_ms=decline_from_ms,
        hazard_per_day=hazard,
        satisfaction=satisfaction,
        interests=_plan_interests(rng, config, joined_ms),
        mean_session_gap_days=gap_days,
        session_regularity=rng.uniform(1.5, 6.0),
        mean_purchase_gap_days=gap_days / 0.17 * rng.lognormvariate(0.0, 0.35),
        purchase_regularity=rng.uniform(3.0, 12.0),
        usual_hour=rng.choice((8.0, 12.5, 18.0, 20.5)),
    )


def _draw_churn(rng: Random, config: SimulatorConfig, joined_ms: int, hazard_per_day: float) -> int | None:
    """Draw a churn time from a daily hazard; None if the period ends first."""
    at_ms = joined_ms + 2 * DAY_MS
    while hazard_per_day > 0 and at_ms < config.end_ms:
        if rng.random() < hazard_per_day:
            churn_ms = at_ms + int(rng.random() * DAY_MS)
            return churn_ms if churn_ms < config.end_ms else None
        at_ms += DAY_MS
    return None


def _plan_interests(rng: Random, config: SimulatorConfig, joined_ms: int) -> list[Interests]:
    """Draw weights for one to three categories; a third of shoppers later swap one category for another."""
    chosen = rng.sample(CATEGORIES, rng.choice((1, 2, 2, 3)))
    shares = [rng.uniform(0.4, 1.0) for _ in chosen]
    phases = [Interests(joined_ms, _normalised(chosen, shares))]
    if rng.random() < 1 / 3:
        chosen = list(chosen)
        chosen[rng.randrange(len(chosen))] = rng.choice([category for category in CATEGORIES if category not in chosen])
        drift_ms = joined_ms + int(rng.uniform(0.3, 0.7) * (config.end_ms - joined_ms))
        phases.append(Interests(drift_ms, _normalised(chosen, shares)))
    return phases


def _normalised(categories: list[str], shares: list[float]) -> dict[str, float]:
    total = sum(shares)
    return {category: round(share / total, 4) for category, share in zip(categories, shares, strict=True)}
