"""Define each number of a feature vector (name, unit, window, when it is unknown) and one hash over all definitions.

The hash is the version of the feature spec: it changes when a definition changes. Each feature also has a reference, its name
with a hash of its own definition. A model names the references that it reads, so a spec that only adds features stops no
model. Start at FEATURE_SPEC.
"""

import hashlib
import json
from collections.abc import Iterator

from msgspec import Struct, to_builtins

from models.features.windows import WINDOWS
from schemas.scoring import EventKind

KINDS: tuple[EventKind, ...] = ("visit", "browse", "click", "search", "purchase", "review", "rating")
SENTIMENT = len(KINDS)  # the index of the feedback topic, after the source topics
LIFETIME = "life"
WINDOW_NAMES = (*(window.name for window in WINDOWS), LIFETIME)

SEMANTICS = 1  # increment it when a feature's computation changes but its description does not
HISTORY_EVENTS, HISTORY_EVENTS_PER_KIND, HISTORY_TEXT_CHARS = 50, 12, 48
MAX_ITEMS_PER_DAY, MAX_CATEGORIES, MAX_PURCHASE_TIMES, RECENT_IDS = 16, 10, 32, 256
TOP_CATEGORIES = 5
HALF_LIFE_DAYS = 7
SESSION_SLOT_MS = 1_800_000
KIND_WEIGHTS = {"browse": 1, "click": 2, "purchase": 5, "review": 3, "rating": 3}


class Feature(Struct, frozen=True):
    """One number: `window` is a rolling window's name or "life"; `null` states when the number is unknown."""

    name: str
    unit: str
    window: str
    null: str = "never"


class FeatureSpec(Struct, frozen=True):
    """The ordered features of a vector, and a hash of their order and definitions as `version`.

    `references` name each feature with a hash of its definition and of what all definitions share, as `name@hash`.
    """

    features: tuple[Feature, ...]
    names: tuple[str, ...]
    version: str
    references: tuple[str, ...]


def _features() -> Iterator[Feature]:
    for kind in KINDS:
        yield from (Feature(f"{kind}.count.{w}", "events", w) for w in WINDOW_NAMES)
    for measure, unit in (
        ("browse.dwell_ms", "ms"),
        ("purchase.amount", "minor units of the reporting currency"),
        ("purchase.returned_lines", "lines"),
        ("purchase.returned_amount", "minor units of the reporting currency"),
    ):
        yield from (Feature(f"{measure}.{w}", unit, w) for w in WINDOW_NAMES)
    for w in ("30d", LIFETIME):
        yield Feature(f"rating.mean.{w}", "stars", w, "no rating in the window")
        yield Feature(f"review.sentiment_mean.{w}", "-1 to 1", w, "no scored review in the window")
    for w in ("7d", "30d"):
        yield Feature(f"items.distinct.{w}", f"items, at most {MAX_ITEMS_PER_DAY} a day and kind", w)
        yield Feature(f"categories.distinct.{w}", f"categories, at most {MAX_CATEGORIES} per kind", w)
    for kind in KINDS:
        yield Feature(f"{kind}.recency_ms", "ms", LIFETIME, "no event of the kind")
    yield Feature("user.tenure_ms", "ms", LIFETIME)
    yield Feature("purchase.gap_mean_hours", "hours", LIFETIME, "fewer than 2 purchases")
    yield Feature("purchase.gap_variance_hours2", "hours squared", LIFETIME, "fewer than 3 purchases")
    yield from (Feature(f"sessions.count.{w}", "sessions", w) for w in ("24h", "7d", "30d"))
    for measure in ("activity", "purchase"):
        yield Feature(f"{measure}.trend.24h_7d", "ratio of daily rates", "7d", "no event in 7d")
        yield Feature(f"{measure}.trend.7d_30d", "ratio of daily rates", "30d", "no event in 30d")
    for hour in range(0, 24, 3):
        yield Feature(f"hours.{hour:02d}-{hour + 3:02d}.share", "share of active half-hours", "30d", "never")
    for rank in range(1, TOP_CATEGORIES + 1):
        yield Feature(f"categories.top{rank}.share", "share of decayed weight", "30d", "fewer categories")


def make_spec(features: tuple[Feature, ...]) -> FeatureSpec:
    """Return the spec of these features, in this order."""
    shared = {
        "windows": to_builtins(WINDOWS),
        "history": [HISTORY_EVENTS, HISTORY_EVENTS_PER_KIND, HISTORY_TEXT_CHARS],
        "bounds": [MAX_ITEMS_PER_DAY, MAX_CATEGORIES, MAX_PURCHASE_TIMES, RECENT_IDS],
        "decay": [HALF_LIFE_DAYS, KIND_WEIGHTS],
        "session_slot_ms": SESSION_SLOT_MS,
        "semantics": SEMANTICS,
    }
    references = tuple(f"{one.name}@{_digest({'feature': to_builtins(one)} | shared)[:8]}" for one in features)
    version = _digest({"features": to_builtins(features)} | shared)[:16]
    return FeatureSpec(features, tuple(feature.name for feature in features), version, references)


def _digest(definition: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


FEATURE_SPEC = make_spec(tuple(_features()))
