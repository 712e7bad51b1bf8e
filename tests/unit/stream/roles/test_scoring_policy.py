"""Which events deserve a score, and which scores an advertisement."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from models.features.spec import KINDS
from models.features.user_state import BROWSE, CLICK, PURCHASE, RATING, REVIEW, SEARCH, VISIT, TopicState, new_topic
from schemas.errors import SettingsError
from schemas.events import Event
from schemas.signals import AdTrigger, Suppression, SuppressionReason
from schemas.time_units import HOUR_MS, MINUTE_MS
from stream.process.settings import load_settings
from stream.roles.scoring_policy import ScoringPolicy
from stream.roles.trigger_policy import Campaign, TriggerPolicy, load_trigger_policy
from tests.builders import (
    NOW_MS,
    browse,
    churn_risk,
    click,
    interest,
    interest_score,
    purchase,
    rating,
    review,
    search,
    visit,
)

SECOND_MS = 1000
EVENTS = [visit(), browse(), click(), search(), purchase(), review(), rating()]
POLICY = ScoringPolicy()


def past_of(kind: int, *, events: int = 1, ago_ms: int = 0, due_ago_ms: int | None = None) -> TopicState:
    """Make what `events` earlier events of a topic left, the newest `ago_ms` ago, the last scored `due_ago_ms` ago."""
    topic = new_topic(kind, 0, NOW_MS - ago_ms)
    for offset in range(events):
        topic.apply(kind, replace(EVENTS[kind], event_time_ms=NOW_MS - ago_ms), offset, {"EUR": 1.0})
    topic.due_ms = 0 if due_ago_ms is None else NOW_MS - due_ago_ms
    return topic


def due(kind: int, past: TopicState | None, *, policy: ScoringPolicy = POLICY, delay_ms: int = 0) -> str | None:
    event: Event = EVENTS[kind]
    return policy.is_due(kind, event, event.event_time_ms + delay_ms, past)


# ------------------------------------------------------------------------------------------------------------ scoring


@pytest.mark.parametrize("kind", [SEARCH, PURCHASE, REVIEW])
def test_every_search_purchase_and_review_is_scored_even_within_the_gap(kind: int) -> None:
    assert due(kind, None) == KINDS[kind]
    assert due(kind, past_of(kind, due_ago_ms=1)) == KINDS[kind]


@pytest.mark.parametrize("kind", [BROWSE, CLICK, RATING])
def test_a_first_browse_click_or_rating_is_not_scored(kind: int) -> None:
    assert due(kind, None) is None


def test_the_first_visit_is_scored() -> None:
    assert due(VISIT, None) == "first"


def test_a_visit_after_the_pause_is_scored_and_one_within_it_is_not() -> None:
    assert due(VISIT, past_of(VISIT, ago_ms=30 * MINUTE_MS)) is None
    assert due(VISIT, past_of(VISIT, ago_ms=30 * MINUTE_MS + 1)) == "return"


def test_a_visit_that_arrives_out_of_order_is_no_return() -> None:
    assert due(VISIT, past_of(VISIT, ago_ms=-HOUR_MS)) is None


def test_a_shop_without_visits_may_name_other_arrivals() -> None:
    policy = ScoringPolicy(arrivals=frozenset({BROWSE, CLICK}))

    assert [due(kind, None, policy=policy) for kind in (VISIT, BROWSE, CLICK)] == [None, "first", "first"]
    assert due(BROWSE, past_of(BROWSE, ago_ms=HOUR_MS), policy=policy) == "return"


@pytest.mark.parametrize(("before", "expected"), [(18, None), (19, "clicks"), (20, None), (39, "clicks")])
def test_every_twentieth_click_is_scored(before: int, expected: str | None) -> None:
    assert due(CLICK, past_of(CLICK, events=before)) == expected


def test_with_every_click_asked_for_the_second_is_scored_but_the_first_has_no_past_to_count() -> None:
    assert due(CLICK, past_of(CLICK), policy=ScoringPolicy(every_clicks=1)) == "clicks"


def test_with_every_click_asked_for_the_first_is_scored_too() -> None:
    assert due(CLICK, None, policy=ScoringPolicy(every_clicks=1)) == "clicks"


@pytest.mark.parametrize(("gap_ms", "expected"), [(MINUTE_MS - 1, None), (MINUTE_MS, "clicks")])
def test_two_scores_that_clicks_cause_are_a_minute_apart(gap_ms: int, expected: str | None) -> None:
    assert due(CLICK, past_of(CLICK, events=19, due_ago_ms=gap_ms)) == expected


def test_a_click_older_than_the_last_one_scored_is_not_scored() -> None:
    assert due(CLICK, past_of(CLICK, events=19, due_ago_ms=-HOUR_MS)) is None


def test_a_gap_holds_for_visits_as_well() -> None:
    policy = ScoringPolicy(pause_ms=SECOND_MS)

    assert due(VISIT, past_of(VISIT, ago_ms=30 * SECOND_MS, due_ago_ms=30 * SECOND_MS), policy=policy) is None
    assert due(VISIT, past_of(VISIT, ago_ms=60 * SECOND_MS, due_ago_ms=60 * SECOND_MS), policy=policy) == "return"


@pytest.mark.parametrize("kind", [VISIT, SEARCH, PURCHASE, REVIEW])
def test_an_event_that_arrives_more_than_ten_minutes_late_is_not_scored(kind: int) -> None:
    assert due(kind, None, delay_ms=10 * MINUTE_MS) is not None
    assert due(kind, None, delay_ms=10 * MINUTE_MS + 1) is None


def test_an_event_from_the_allowed_future_is_scored() -> None:
    assert due(VISIT, None, delay_ms=-5 * MINUTE_MS) == "first"


def test_a_decision_sees_one_event_its_arrival_and_its_own_topics_past_and_nothing_else() -> None:
    assert list(inspect.signature(ScoringPolicy.is_due).parameters) == ["self", "kind", "event", "record_ms", "past"]


def test_deciding_leaves_the_past_as_it_was() -> None:
    past, same = past_of(CLICK, events=19), past_of(CLICK, events=19)

    due(CLICK, past)

    assert past == same


# ------------------------------------------------------------------------------------------------------------ triggers


def policy_of(**changes: Any) -> TriggerPolicy:
    campaign = {"id": "spring-mugs", "signal": "interest", "threshold": 0.5, "label": "kitchen", "cooldown_hours": 24.0}
    return TriggerPolicy(version="policy-1", campaigns=[Campaign(**campaign | changes)])


def interests(**scores: float) -> Any:
    return interest(interests=[interest_score(label=label, probability=p) for label, p in scores.items()])


def test_a_score_at_the_threshold_fires_and_one_below_does_not() -> None:
    assert policy_of().decide(interests(kitchen=0.4999), {}, NOW_MS) == []
    [fired] = policy_of().decide(interests(kitchen=0.5), {}, NOW_MS)

    assert isinstance(fired, AdTrigger)
    assert (fired.label, fired.score, fired.threshold) == ("kitchen", 0.5, 0.5)


def test_a_trigger_names_the_signal_model_policy_and_campaign_and_says_why() -> None:
    signal = interests(kitchen=0.75)

    [fired] = policy_of(expires_minutes=45).decide(signal, {}, NOW_MS)

    assert isinstance(fired, AdTrigger)
    assert (fired.user_id, fired.event_time_ms, fired.signal_id) == (signal.user_id, signal.event_time_ms, signal.signal_id)
    assert (fired.campaign_id, fired.signal, fired.model_version) == ("spring-mugs", "interest", "model-1")
    assert (fired.policy_version, fired.expires_at_ms) == ("policy-1", signal.event_time_ms + 45 * MINUTE_MS)
    assert fired.reason == "interest in kitchen 0.75 reached 0.50"


def test_a_campaign_for_one_label_ignores_stronger_interests_in_others() -> None:
    [fired] = policy_of().decide(interests(garden=0.9, kitchen=0.6), {}, NOW_MS)

    assert (fired.label, fired.score) == ("kitchen", 0.6)


def test_a_campaign_for_a_label_that_is_not_scored_does_not_fire() -> None:
    assert policy_of(label="toys").decide(interests(garden=0.9, kitchen=0.6), {}, NOW_MS) == []


def test_a_star_stands_for_the_strongest_interest() -> None:
    [fired] = policy_of(label="*").decide(interests(garden=0.9, kitchen=0.6), {}, NOW_MS)

    assert (fired.label, fired.score) == ("garden", 0.9)


def test_a_signal_without_any_interest_decides_nothing() -> None:
    assert policy_of(label="*").decide(interests(), {}, NOW_MS) == []


def test_a_churn_campaign_fires_on_churn_risk_alone_and_has_no_label() -> None:
    policy = policy_of(id="win-back", signal="churn-risk", label="*")

    [fired] = policy.decide(churn_risk(probability=0.5), {}, NOW_MS)

    assert isinstance(fired, AdTrigger)
    assert (fired.signal, fired.label, fired.reason) == ("churn-risk", None, "churn-risk 0.50 reached 0.50")
    assert policy.decide(churn_risk(probability=0.4999), {}, NOW_MS) == []
    assert policy.decide(interests(kitchen=0.9), {}, NOW_MS) == []


def test_an_interest_campaign_ignores_churn_risk() -> None:
    assert policy_of(label="*").decide(churn_risk(probability=1.0), {}, NOW_MS) == []


def test_a_campaign_on_cooldown_is_suppressed_with_the_reason_and_its_end() -> None:
    policy, fired_ms = policy_of(), {"spring-mugs": NOW_MS - HOUR_MS}

    [held] = policy.decide(interests(kitchen=0.75), fired_ms, NOW_MS)

    assert isinstance(held, Suppression)
    assert (held.reason, held.until_ms) == (SuppressionReason.COOLDOWN, NOW_MS + 23 * HOUR_MS)
    assert (held.campaign_id, held.score, held.label) == ("spring-mugs", 0.75, "kitchen")
    assert fired_ms == {"spring-mugs": NOW_MS - HOUR_MS}  # a suppression does not prolong the cooldown


@pytest.mark.parametrize(
    ("since_ms", "expected"), [(0, Suppression), (24 * HOUR_MS - 1, Suppression), (24 * HOUR_MS, AdTrigger)]
)
def test_a_cooldown_ends_exactly_when_its_hours_have_passed(since_ms: int, expected: type) -> None:
    [decision] = policy_of().decide(interests(kitchen=0.75), {"spring-mugs": NOW_MS - since_ms}, NOW_MS)

    assert type(decision) is expected


def test_a_fire_starts_the_cooldown_at_the_events_own_time() -> None:
    fired_ms: dict[str, int] = {}

    policy_of().decide(interests(kitchen=0.75), fired_ms, NOW_MS)

    assert fired_ms == {"spring-mugs": NOW_MS}


def test_a_signal_older_than_the_last_fire_is_suppressed() -> None:
    [held] = policy_of().decide(interests(kitchen=0.75), {"spring-mugs": NOW_MS + HOUR_MS}, NOW_MS)

    assert isinstance(held, Suppression)
    assert held.until_ms == NOW_MS + 25 * HOUR_MS


def test_without_a_cooldown_every_crossing_in_order_fires() -> None:
    policy, fired_ms = policy_of(cooldown_hours=0.0), dict[str, int]()

    decisions = [policy.decide(interests(kitchen=0.75), fired_ms, NOW_MS) for _ in range(2)]

    assert [type(decision) for [decision] in decisions] == [AdTrigger, AdTrigger]


def test_campaigns_cool_down_each_by_itself_and_are_decided_in_the_order_of_the_file() -> None:
    both = TriggerPolicy(version="policy-1", campaigns=policy_of(label="*").campaigns + policy_of(id="second").campaigns)

    decisions = both.decide(interests(kitchen=0.75), {"second": NOW_MS}, NOW_MS)

    assert [(d.campaign_id, type(d)) for d in decisions] == [("spring-mugs", AdTrigger), ("second", Suppression)]


def test_ids_depend_on_signal_campaign_and_outcome_alone() -> None:
    [one], [again] = (policy_of().decide(interests(kitchen=0.75), {}, NOW_MS) for _ in range(2))
    [other] = policy_of(id="other").decide(interests(kitchen=0.75), {}, NOW_MS)
    [held] = policy_of().decide(interests(kitchen=0.75), {"spring-mugs": NOW_MS}, NOW_MS)

    assert isinstance(one, AdTrigger)
    assert isinstance(other, AdTrigger)
    assert isinstance(held, Suppression)
    assert one == again
    assert len({one.trigger_id, other.trigger_id, held.suppression_id}) == 3


# --------------------------------------------------------------------------------------------------------- policy files

GOOD = {"id": "a", "signal": "interest", "threshold": "0.5", "cooldown_hours": "24", "expires_minutes": "30"}


def policy_file(folder: Path, **changes: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text("version: v1\ncampaigns:\n  - {" + ", ".join(f"{k}: {v}" for k, v in (GOOD | changes).items()) + "}\n")
    return path


def test_a_good_policy_file_loads_with_its_defaults(tmp_path: Path) -> None:
    policy = load_trigger_policy(policy_file(tmp_path))

    assert policy == TriggerPolicy(version="v1", campaigns=[Campaign(id="a", signal="interest", threshold=0.5)])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", "0"),
        ("threshold", "1.01"),
        ("threshold", ".nan"),
        ("threshold", "high"),
        ("threshold", "true"),
        ("cooldown_hours", "-1"),
        ("cooldown_hours", ".nan"),
        ("expires_minutes", "0"),
        ("expires_minutes", ".nan"),
        ("signal", "sentiment"),
        ("label", '""'),
        ("id", '""'),
        ("id", "7"),
    ],
)
def test_a_policy_file_with_a_bad_field_is_refused_and_the_field_and_file_are_named(
    tmp_path: Path, field: str, value: str
) -> None:
    path = policy_file(tmp_path, **{field: value})

    with pytest.raises(SettingsError, match=rf"campaigns\[0\]\.{field}") as refused:
        load_trigger_policy(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("field", ["cooldown_hours", "expires_minutes"])
def test_a_policy_file_with_an_infinite_time_is_refused(tmp_path: Path, field: str) -> None:
    with pytest.raises(SettingsError, match=field):
        load_trigger_policy(policy_file(tmp_path, **{field: ".inf"}))


def test_a_policy_file_with_an_unknown_field_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown field `thresholds`"):
        load_trigger_policy(policy_file(tmp_path, thresholds="0.5"))


@pytest.mark.parametrize("field", ["id", "signal", "threshold"])
def test_a_policy_file_without_a_required_field_is_refused_by_its_name(tmp_path: Path, field: str) -> None:
    path = policy_file(tmp_path)
    path.write_text(path.read_text().replace(f"{field}: {GOOD[field]}, ", ""))

    with pytest.raises(SettingsError, match=f"missing required field `{field}`"):
        load_trigger_policy(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "campaigns: []",
        "version: v1",
        "a: [",
        "\x00",
        "version: 1\ncampaigns: []",
        "version: 2020-13-45",
        "a: " + 5000 * "9",
    ],
)
def test_a_file_that_is_no_policy_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)

    with pytest.raises(SettingsError, match=f"setting trigger_policy: {path}"):
        load_trigger_policy(path)


def test_a_missing_policy_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml"):
        load_trigger_policy(tmp_path / "none.yaml")


def test_a_campaign_listed_twice_is_refused_by_its_id(tmp_path: Path) -> None:
    path = policy_file(tmp_path)
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")

    with pytest.raises(SettingsError, match="found campaign a twice"):
        load_trigger_policy(path)


def test_the_shipped_policy_file_loads_and_has_campaigns_of_both_signals() -> None:
    policy = load_trigger_policy(load_settings().trigger_policy)

    assert {campaign.signal for campaign in policy.campaigns} == {"interest", "churn-risk"}
