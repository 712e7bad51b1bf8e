"""Define all topics of events, score requests, signals, triggers and dead letters in one table.

A row gives a topic's name, key, partitions, retention, cleanup policy and struct. Roles, tools, documents and topic creation
read the table. Its names, partitions and retentions are defaults: `named_topics` applies a deployment's own values, once
at startup. The changelogs of the roles are not in the table. Start at TABLE.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from schemas.dead_letter import DeadLetter
from schemas.events import Browse, Click, Event, Purchase, Rating, Review, Search, Visit
from schemas.feature_spec import PublishedSpec
from schemas.scoring import ScoreRequest
from schemas.signals import AdTrigger, ChurnRisk, Interest, ReviewSentiment, Suppression
from schemas.time_units import DAY_MS


class Topic(Struct, frozen=True, kw_only=True):
    """One row of the table; `kind` is the stable name in the code, `name` the topic's name on the broker.

    The broker stamps what Footfall sends (LogAppendTime), so that a worker's wrong clock cannot make retention delete it.
    Records of source topics keep their producers' timestamps.
    """

    kind: str
    name: str
    struct: type[Struct]
    key: str = "user_id"
    partitions: int = 12
    retention_ms: int = 7 * DAY_MS
    cleanup: str = "delete"
    timestamps: Literal["CreateTime", "LogAppendTime"] = "LogAppendTime"


class RoleTopics(Struct, frozen=True, kw_only=True):
    """The topic kinds that one role reads and sends; it also sends the dead letters of what it reads.

    Records of `aligned` topics are merged by time; those of `unaligned` topics are taken as they arrive.
    """

    aligned: tuple[str, ...] = ()
    unaligned: tuple[str, ...] = ()
    sends: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """Return all kinds that the role reads."""
        return self.aligned + self.unaligned


SOURCES: Mapping[str, type[Event]] = {
    "visit": Visit,
    "browse": Browse,
    "click": Click,
    "search": Search,
    "purchase": Purchase,
    "review": Review,
    "rating": Rating,
}
SIGNALS = ("interest", "churn-risk", "review-sentiment")

_MAIN = (
    Topic(kind="visit", name="shop.visits.v1", struct=Visit, timestamps="CreateTime"),
    Topic(kind="browse", name="shop.browses.v1", struct=Browse, timestamps="CreateTime"),
    Topic(kind="click", name="shop.clicks.v1", struct=Click, timestamps="CreateTime"),
    Topic(kind="search", name="shop.searches.v1", struct=Search, timestamps="CreateTime"),
    Topic(kind="purchase", name="shop.purchases.v1", struct=Purchase, timestamps="CreateTime"),
    Topic(kind="review", name="shop.reviews.v1", struct=Review, timestamps="CreateTime"),
    Topic(kind="rating", name="shop.ratings.v1", struct=Rating, timestamps="CreateTime"),
    Topic(kind="score-request", name="footfall.score-requests.v1", struct=ScoreRequest, retention_ms=DAY_MS),
    Topic(kind="feature-spec", name="footfall.feature-specs.v1", struct=PublishedSpec, key="version", cleanup="compact"),
    Topic(kind="interest", name="footfall.interest.v1", struct=Interest),
    Topic(kind="churn-risk", name="footfall.churn-risk.v1", struct=ChurnRisk),
    Topic(kind="review-sentiment", name="footfall.review-sentiment.v1", struct=ReviewSentiment),
    Topic(kind="ad-trigger", name="footfall.ad-triggers.v1", struct=AdTrigger),
    Topic(kind="suppression", name="footfall.suppressions.v1", struct=Suppression),
)
DEAD_LETTERED = (*SOURCES, "score-request", *SIGNALS)


def dlq(kind: str) -> str:
    """Return the kind of a topic's dead-letter topic."""
    return f"{kind}.dlq"


TABLE: Mapping[str, Topic] = {topic.kind: topic for topic in _MAIN} | {
    dlq(topic.kind): Topic(kind=dlq(topic.kind), name=f"{topic.name}.dlq", struct=DeadLetter, key="original key")
    for topic in _MAIN
    if topic.kind in DEAD_LETTERED
}


def named_topics(
    *, prefix: str = "", names: Mapping[str, str] | None = None, partitions: int | None = None, retention_ms: int | None = None
) -> dict[str, Topic]:
    """Apply a deployment's prefix, names, partition count and retention to the table.

    `names` maps a kind to its topic's full name and overrides `prefix`. The dead-letter topic of a renamed topic is renamed
    with it, unless `names` has it too. `retention_ms` -1 keeps records for ever, as a replayed log needs.

    Raises:
        ValueError: `names` has a kind that the table lacks, or gives two kinds the same name.
    """
    names = dict(names or {})
    if unknown := sorted(set(names) - set(TABLE)):
        raise ValueError(f"found no topic of kind {', '.join(unknown)}, expected one of {', '.join(TABLE)}")
    topics: dict[str, Topic] = {}
    for kind, topic in TABLE.items():
        base = kind.removesuffix(".dlq")
        default = f"{topics[base].name}.dlq" if base != kind else prefix + topic.name
        topics[kind] = Topic(
            kind=kind,
            name=names.get(kind, default),
            struct=topic.struct,
            key=topic.key,
            partitions=topic.partitions if partitions is None else partitions,
            retention_ms=topic.retention_ms if retention_ms is None else retention_ms,
            cleanup=topic.cleanup,
            timestamps=topic.timestamps,
        )
    used = [topic.name for topic in topics.values()]
    if doubled := sorted({name for name in used if used.count(name) > 1}):
        raise ValueError(f"found topic name {', '.join(doubled)} for two kinds, expected one name per kind: rename one")
    return topics
