import json
from collections import Counter, defaultdict
from statistics import mean

import msgspec
import pytest
from typer.testing import CliRunner

from schemas.codec import event_decoder
from schemas.errors import DecodeError
from schemas.time_units import DAY_MS
from schemas.topics import SOURCES
from stream.cli.main import app
from stream.logs.event_log import read_log
from stream.logs.simulate.dirt import LATE_MS, MALFORMED, truth
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig, plan_shoppers

CLEAN = SimulatorConfig(seed=7, shoppers=150, days=60)
DIRTY = SimulatorConfig(seed=7, shoppers=150, days=60, late=0.05, duplicates=0.05, malformed=0.05)
DECODERS = {kind: event_decoder(struct) for kind, struct in SOURCES.items()}


@pytest.fixture(scope="module")
def clean():
    return [(event.logged.kind, decoded(event)) for event in simulate(CLEAN)]


@pytest.fixture(scope="module")
def dirty():
    return simulate(DIRTY)


def decoded(event):
    return DECODERS[event.logged.kind](event.logged.key, event.logged.value)


def is_malformed(event):
    return event.dirt in MALFORMED


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    small = {"shoppers": 10, "days": 20, "late": 0.1, "duplicates": 0.1, "malformed": 0.1}

    one, again = simulate(SimulatorConfig(seed=3, **small)), simulate(SimulatorConfig(seed=3, **small))
    other = simulate(SimulatorConfig(seed=4, **small))

    assert one == again
    assert one != other


def test_every_clean_event_decodes_under_the_key_it_carries(clean):
    assert len(clean) > 5_000
    assert {kind for kind, _ in clean} == set(SOURCES)


def test_event_ids_are_unique_among_clean_events(clean):
    assert len({event.event_id for _, event in clean}) == len(clean)


def test_every_malformed_record_is_refused_for_the_reason_its_label_stands_for(dirty):
    reasons = defaultdict(set)
    for event in filter(is_malformed, dirty):
        with pytest.raises(DecodeError) as refused:
            decoded(event)
        reasons[event.dirt].add(refused.value.reason)

    assert reasons == {label: {reason} for label, (reason, _) in MALFORMED.items()}


def test_dirt_leaves_the_clean_events_as_they_are(clean, dirty):
    kept = {decoded(event).event_id: decoded(event) for event in dirty if not is_malformed(event)}

    assert kept == {event.event_id: event for _, event in clean}


def test_a_late_record_arrives_as_long_after_its_event_as_its_label_says(dirty):
    for event in dirty:
        delay_ms = 0 if is_malformed(event) else event.logged.record_ms - decoded(event).event_time_ms
        shortest, longest = LATE_MS.get(event.dirt, (0, 7 * 3_600_000 if event.dirt else 500))
        assert shortest <= delay_ms <= longest + 500


def test_a_duplicate_repeats_the_bytes_of_an_earlier_record(dirty):
    seen = set()
    for event in (event for event in dirty if not is_malformed(event)):
        same = (event.logged.kind, event.logged.key, event.logged.value)
        assert (same in seen) == (event.dirt == "duplicate")
        seen.add(same)


def test_the_truth_counts_the_dirt_that_is_in_the_log(dirty, clean):
    known = truth(DIRTY, dirty)

    assert known.dirt == Counter(event.dirt for event in dirty if event.dirt)
    added = sum(count for label, count in known.dirt.items() if label not in LATE_MS)
    assert sum(known.events.values()) == len(dirty) == len(clean) + added
    assert known.dirt["duplicate"] == pytest.approx(0.05 * len(clean), rel=0.25)


def test_records_are_in_order_of_arrival(dirty):
    arrivals = [event.logged.record_ms for event in dirty]

    assert arrivals == sorted(arrivals)


def test_nobody_does_anything_at_or_after_churn_nor_outside_the_period(clean):
    planned = {shopper.user_id: shopper for shopper in plan_shoppers(CLEAN)}

    assert 20 < sum(shopper.churn_ms is not None for shopper in planned.values()) < 100
    for _, event in clean:
        shopper = planned[event.user_id]
        assert shopper.joined_ms <= event.event_time_ms < (shopper.churn_ms or CLEAN.end_ms)


def test_churners_come_less_often_during_their_decline(clean):
    before, during = [], []
    visits = Counter()
    planned = {s.user_id: s for s in plan_shoppers(CLEAN) if s.decline_from_ms is not None}
    for kind, event in clean:
        if kind == "visit" and event.user_id in planned:
            visits[event.user_id, event.event_time_ms >= planned[event.user_id].decline_from_ms] += 1
    for shopper in planned.values():
        before.append(visits[shopper.user_id, False] / (shopper.decline_from_ms - shopper.joined_ms))
        during.append(visits[shopper.user_id, True] / (shopper.churn_ms - shopper.decline_from_ms))

    assert mean(during) < 0.7 * mean(before)


def test_planted_interests_are_what_shoppers_click(clean):
    planned = {shopper.user_id: shopper for shopper in plan_shoppers(CLEAN)}
    hits = [
        event.category in planned[event.user_id].interests_at(event.event_time_ms) for kind, event in clean if kind == "click"
    ]

    assert mean(hits) > 0.85


def test_some_interests_drift_to_another_category_within_the_period():
    drifting = [shopper for shopper in plan_shoppers(CLEAN) if len(shopper.interests) > 1]

    assert len(drifting) > 20
    assert all(set(s.interests[0].weights) != set(s.interests[1].weights) for s in drifting)
    assert all(sum(phase.weights.values()) == pytest.approx(1, abs=0.001) for s in drifting for phase in s.interests)


def test_the_shape_of_the_shop_is_near_its_targets(clean):
    kinds = Counter(kind for kind, _ in clean)
    weeks = {(event.user_id, event.event_time_ms // (7 * DAY_MS)) for kind, event in clean if kind == "visit"}

    assert 1 <= kinds["visit"] / len(weeks) <= 2.2
    assert 5 <= len(clean) / kinds["visit"] <= 12
    assert 0.1 <= kinds["purchase"] / kinds["visit"] <= 0.22
    assert 0.15 <= kinds["review"] / kinds["purchase"] <= 0.35


def test_activity_and_popularity_are_uneven(clean):
    by_shopper = Counter(event.user_id for _, event in clean).most_common()
    by_item = Counter(event.item_id for kind, event in clean if kind == "browse").most_common()

    assert by_shopper[0][1] > 8 * by_shopper[len(by_shopper) // 2][1]
    assert by_item[0][1] > 5 * by_item[len(by_item) // 2][1]


def test_review_texts_vary_and_agree_with_the_stars_given_for_the_same_item(clean):
    stars = {(event.user_id, event.item_id): event.rating for kind, event in clean if kind == "rating"}
    reviews = [event for kind, event in clean if kind == "review"]
    angry = [
        r for r in reviews if any(word in r.text for word in ("Waste of money", "Awful", "regret", "Sent it straight back"))
    ]

    assert len({review.text for review in reviews}) > 0.9 * len(reviews)
    assert angry
    assert all(stars.get((review.user_id, review.item_id), 1) <= 2 for review in angry)


def test_the_catalogue_has_hundreds_of_distinct_titles_in_twelve_categories(clean):
    browses = [event for kind, event in clean if kind == "browse"]

    assert len({event.title for event in browses}) == len({event.item_id for event in browses}) >= 300
    assert len({event.category for event in browses}) == 12


@pytest.mark.parametrize("wrong", [{"late": 1.5}, {"late": float("nan")}, {"shoppers": 0}, {"items": 5}, {"currency": "gbp"}])
def test_a_configuration_out_of_range_is_refused_with_its_value(wrong):
    with pytest.raises(ValueError, match=f"found {next(iter(wrong))} "):
        SimulatorConfig(**wrong)


def test_the_command_writes_a_log_with_its_truth_beside_it(tmp_path):
    out = tmp_path / "log"
    result = CliRunner().invoke(
        app, ["simulate", "--shoppers", "5", "--days", "20", "--malformed", "0.2", "--out", str(out), "--json"]
    )

    printed, known = json.loads(result.stdout), msgspec.json.decode((out / "truth.json").read_bytes())
    records = sum(1 for _ in read_log(out))
    assert result.exit_code == 0
    assert sum(printed["manifest"]["events"].values()) == sum(known["events"].values()) == records
    assert printed["dirt"] == known["dirt"] != {}
    assert len(known["shoppers"]) == 5


@pytest.mark.parametrize("wrong", [["--late", "3"], ["--start", "yesterday"], ["--shoppers", "none"]])
def test_the_command_ends_with_code_two_on_bad_input_and_writes_nothing(tmp_path, wrong):
    result = CliRunner().invoke(app, ["simulate", "--out", str(tmp_path / "log"), *wrong])

    assert result.exit_code == 2
    assert result.stdout == ""
    assert not (tmp_path / "log").exists()
