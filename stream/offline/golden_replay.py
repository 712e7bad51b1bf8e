"""Check a model against the stories of golden users: fold their events, score the requests, compare with expectations.

The fold and the scorer are those of production. Each story is also replayed in variants that must not change its scores: with
duplicates, among other users, topic after topic, a day later. No broker and no clock are needed. Start at check_golden.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from models.features.spec import KINDS
from models.features.user_state import BROWSE, CLICK, VISIT
from models.serving.golden_checks import Finding, TrainedOn, check_equal, check_probabilities, check_stories
from models.serving.golden_users import CURRENCY, SHOPPER, START_MS, Golden, Story, events_of
from schemas.codec import encode
from schemas.events import Event
from schemas.scoring import EventKind, ScoreRequest
from schemas.time_units import DAY_MS
from stream.fold.records import PartitionTotals
from stream.offline.replay_log import LogRecord
from stream.roles.features_fold import FeaturesFold
from stream.roles.scoring_policy import ScoringPolicy

if TYPE_CHECKING:
    from models.serving.scorer import Scorer, Scores

BATCH_TOLERANCE = 2e-3  # how much the other rows of a batch change a score
DAY_TOLERANCE = 0.02
EVERY_EVENT = ScoringPolicy(arrivals=frozenset({VISIT, BROWSE, CLICK}), pause_ms=-1, every_clicks=1, min_gap_ms=0)

Events = Sequence[tuple[EventKind, Event]]


def check_golden(scorer: "Scorer", golden: Golden) -> list[Finding]:
    """Score all stories and their variants, and compare; a `failed` finding is a reason against promotion. Takes seconds."""
    stories = {name: events_of(story) for name, story in golden.stories.items()}
    scores = _scored(scorer, {name: request_of(events) for name, events in stories.items()})
    findings = check_stories(golden, scores, trained_on(scorer, golden)) + check_probabilities(scores, scorer.horizons_days)
    variants: list[tuple[str, Callable[[Events], Events], float]] = [
        ("a duplicate changes nothing", _doubled, BATCH_TOLERANCE),
        ("another user's events change nothing", _among_others, BATCH_TOLERANCE),
        ("the order of topics changes nothing", _topic_after_topic, BATCH_TOLERANCE),
    ]
    for rule, change, tolerance in variants:
        changed = _scored(scorer, {name: request_of(change(events)) for name, events in stories.items()})
        findings += check_equal(rule, scores, changed, tolerance)
    later = {name: request_of(events_of(story, START_MS + DAY_MS)) for name, story in golden.stories.items()}
    return findings + check_equal("the same a day later gives the same", scores, _scored(scorer, later), DAY_TOLERANCE)


def request_of(events: Events) -> ScoreRequest:
    """Fold events in the order given and return the request that the shopper's newest one causes."""
    fold = FeaturesFold(topics={kind: kind for kind in (*KINDS, "review-sentiment")}, policy=EVERY_EVENT, rates={CURRENCY: 1.0})
    offsets = dict.fromkeys(KINDS, 0)
    records = []
    for kind, event in events:
        at, key = event.event_time_ms, event.user_id.encode()
        records.append(LogRecord(kind, 0, offsets[kind], at, key, encode(event)))
        offsets[kind] += 1
    outputs = fold.fold({}, PartitionTotals(), records, 0).outputs
    requests = [output.message for output in outputs if isinstance(output.message, ScoreRequest)]
    newest = max((event.event_time_ms for _, event in events if event.user_id == SHOPPER))
    return [request for request in requests if (request.user_id, request.event_time_ms) == (SHOPPER, newest)][-1]


def trained_on(scorer: "Scorer", golden: Golden) -> TrainedOn:
    """Return what a model was trained on, and which stories its encoder cannot read."""
    from models.network.readable import unread_reasons  # loads torch, as the scorer did

    def unreadable(story: Story) -> bool:
        texts = [step.text for step in story.script if step.do == "review"]
        return any(unread_reasons(scorer.encoder, texts))

    return TrainedOn(
        labels=frozenset(scorer.labels),
        horizons_days=scorer.horizons_days,
        kinds=scorer.kinds_read,
        reviews=scorer.knows_reviews,
        unreadable=frozenset(name for name, story in golden.stories.items() if unreadable(story)),
    )


def _scored(scorer: "Scorer", requests: dict[str, ScoreRequest]) -> "dict[str, Scores]":
    return dict(zip(requests, scorer.score(list(requests.values())), strict=True))


def _doubled(events: Events) -> Events:
    return [event for event in events for _ in range(2)]


def _among_others(events: Events) -> Events:
    """Add another user's copy of each event just before it and just after it."""
    others = [(kind, replace(event, user_id="neighbour")) for kind, event in events]
    return [each for pair in zip(others, events, others, strict=True) for each in pair]


def _topic_after_topic(events: Events) -> Events:
    """Order events topic after topic, the topic with the shopper's newest event last."""
    last = max(events, key=lambda event: (event[1].user_id == SHOPPER, event[1].event_time_ms))[0]
    return sorted(events, key=lambda event: (event[0] == last, -KINDS.index(event[0])))
