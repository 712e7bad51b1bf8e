"""What the features role asks of the scorer: one user's features, recent history and text at one event.

Start at ScoreRequest. `guard` names, per source topic, the first and last offset of this user's records that the
features rest on: fold exactly those and the features come out bit for bit the same.
"""

from msgspec import Struct

from schemas.fields import EventId, Id, Millis, Offset, Text, UserId

Guard = dict[str, tuple[int, int]]


class SourcePosition(Struct, frozen=True, kw_only=True, gc=False):
    """Where the event that caused a score lies; `timestamp_ms` is its record's own timestamp."""

    topic: str
    partition: Offset
    offset: Offset
    timestamp_ms: Millis


class Timings(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Wall-clock milliseconds (UTC): sent by the producer, folded by features, received and scored by the scorer.

    `sent_ms` is the record's `sent-at-ms` header where one is set, else its timestamp.
    """

    sent_ms: int
    folded_ms: int
    received_ms: int = 0
    scored_ms: int = 0


class HistoryEntry(Struct, frozen=True, gc=False, array_like=True):
    """One past event of the user, as the sequence model sees it; `amount` is dwell, money or stars, by kind."""

    event_time_ms: int
    kind: str
    item_id: str | None
    category: str | None
    amount: int
    text: str | None


class ScoreRequest(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One user at one event. `features` follow the order of the feature spec named by `spec_version`; null is unknown.

    `history` is sorted by event time; `categories` are the user's, heaviest first, as shares of decayed weight.
    """

    request_id: Id
    user_id: UserId
    event_id: EventId
    event_time_ms: Millis
    kind: str
    due: str
    source: SourcePosition
    guard: Guard
    spec_version: str
    features: list[float | None]
    history: list[HistoryEntry]
    categories: list[tuple[str, float]]
    timings: Timings
    text: Text | None = None
    review_id: Id | None = None
    schema_version: int = 1
