"""Define the request that the features role sends to the scorer: one user's features, history and text at one event.

`guard` holds, per topic, the offsets of the user's first and last record from which the features were computed. Applying
the user's records in these ranges again gives the same features, bit for bit. Start at ScoreRequest.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from schemas.fields import EventId, Id, Millis, Offset, Text, UserId

EventKind = Literal["visit", "browse", "click", "search", "purchase", "review", "rating"]
Amount = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
WallMillis = Annotated[int, Meta(ge=-(2**53), le=2**53)]  # from any clock, so it may be wrong
TopicName = Annotated[str, Meta(min_length=1, max_length=249)]
TopicId = Annotated[str, Meta(max_length=64)]
Guard = Annotated[dict[Id, tuple[Offset, Offset]], Meta(max_length=16)]


class SourcePosition(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The record of the event that caused a score; `timestamp_ms` is the record's own timestamp.

    `topic_id` tells the topic from another one that had the same name before. It is empty where the broker has no topic ids.
    """

    topic: TopicName
    partition: Offset
    offset: Offset
    timestamp_ms: Millis
    topic_id: TopicId = ""


class Timings(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Wall-clock milliseconds (UTC): sent by the producer, folded by features, received and scored by the scorer.

    `sent_ms` is the record's `sent-at-ms` header if set, else the record's timestamp.
    """

    sent_ms: WallMillis
    folded_ms: WallMillis
    received_ms: WallMillis = 0
    scored_ms: WallMillis = 0


class HistoryEntry(Struct, frozen=True, gc=False, array_like=True):
    """One past event of the user, as the sequence model reads it; `amount` is dwell, money or stars, by kind."""

    event_time_ms: Millis
    kind: EventKind
    item_id: str | None
    category: str | None
    amount: Amount
    text: str | None


class ScoreRequest(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One user at one event. `features` follow the order of feature spec `spec_version`; null is unknown.

    `history` is sorted by event time; `categories` are shares of the user's decayed category weights, heaviest first.
    """

    request_id: Id
    user_id: UserId
    event_id: EventId
    event_time_ms: Millis
    kind: EventKind
    due: Id
    source: SourcePosition
    guard: Guard
    spec_version: Id
    features: list[float | None]
    history: list[HistoryEntry]
    categories: list[tuple[str, Share]]
    timings: Timings
    text: Text | None = None
    review_id: Id | None = None
    schema_version: int = 1
