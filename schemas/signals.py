"""Define what Footfall publishes: interest, churn risk, review sentiment, ad triggers, and suppressions (triggers not sent).

The id of a signal depends on its source event alone, that of a trigger on the position of that event and the campaign. So a
consumer can drop records whose id it has already seen. Every signal names its model, its feature spec and its source event.
Start at Interest.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from schemas.fields import EventId, Id, Millis, Probability, UserId
from schemas.scoring import Guard, SourcePosition, Timings, WallMillis


class Signal(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The fields of every score: the user, the event and its record, the model, the records behind it, the times.

    `resent` says that the score's request was sent again from the dead letters, so later ones of the user may precede it.
    """

    signal_id: Id
    request_id: Id
    user_id: UserId
    event_id: EventId
    event_time_ms: Millis
    model_version: str
    spec_version: str
    source: SourcePosition
    guard: Guard
    timings: Timings
    resent: bool = False
    schema_version: int = 1


class InterestScore(Struct, frozen=True, kw_only=True, gc=False):
    """Probability that the user's next interactions include the category `label`."""

    label: str
    probability: Probability


class Interest(Signal, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What the user is interested in now: every label of the model, most probable first."""

    interests: list[InterestScore]


class ChurnRisk(Signal, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """How likely the user stays away: survival[i] = P(no return within horizons_days[i] of `event_time_ms`).

    After `e` days of silence the risk over a further H days is S(e + H) / S(e), so it needs no new score.
    `probability` is the survival at `horizon_days`, which the model's training set as the shop's definition of churn.
    """

    horizons_days: list[int]
    survival: list[Probability]
    horizon_days: int
    probability: Probability


class Unread(StrEnum):
    """Why a model cannot read a text: nothing is left of it, it has no words, or its encoder does not know its language."""

    BLANK = "blank"
    NO_WORDS = "no_words"
    UNKNOWN_TOKENS = "unknown_tokens"


class ReviewSentiment(Signal, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A review's sentiment, from -1 (negative) to 1 (positive); `event_time_ms` is the review's own time.

    It is null if the model cannot read the text, and `unread` says why.
    """

    review_id: Id
    sentiment: Annotated[float, Meta(ge=-1.0, le=1.0)] | None
    unread: Unread | None = None


class Decision(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The fields of every trigger decision: the campaign, the score that crossed its threshold, and the policy.

    `source` is the record of the event behind the score, `decided_ms` the wall clock of the worker that decided. Decisions of
    older releases lack both.
    """

    user_id: UserId
    event_time_ms: Millis
    campaign_id: Id
    signal_id: Id
    signal: str
    label: str | None = None
    score: Probability
    threshold: Probability
    model_version: str
    policy_version: str
    source: SourcePosition | None = None
    decided_ms: WallMillis = 0
    schema_version: int = 1


class AdTrigger(Decision, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A request to show `campaign_id` to this user until `expires_at_ms` (event time)."""

    trigger_id: Id
    expires_at_ms: Millis
    reason: str


class SuppressionReason(StrEnum):
    """Why a campaign did not fire although its threshold was crossed."""

    COOLDOWN = "cooldown"


class Suppression(Decision, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A trigger that was not sent, and why; the reason applies until `until_ms` (event time)."""

    suppression_id: Id
    reason: SuppressionReason
    until_ms: Millis
