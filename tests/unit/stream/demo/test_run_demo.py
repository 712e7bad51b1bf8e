"""The demo's events and figures, without running it."""

from itertools import islice

from schemas.codec import encode
from schemas.time_units import DAY_MS
from stream.demo.demo_events import SimulatedYear
from stream.demo.demo_figures import Watched, parse_metrics, percentile
from tests.builders import ad_trigger, churn_risk, interest, interest_score, timings

NOW_MS = 1_790_000_000_000


def test_a_made_year_is_in_order_of_arrival_and_ends_before_now() -> None:
    with SimulatedYear(1, 5, NOW_MS) as events:
        times = [event.record_ms for event in events]
    assert times == sorted(times)
    assert times[0] >= NOW_MS - 361 * DAY_MS and NOW_MS - 20 * DAY_MS < times[-1] < NOW_MS


def test_reviews_come_from_the_beginning_of_a_made_year() -> None:
    with SimulatedYear(1, 300, NOW_MS) as events:
        first = [event.kind for event in islice(events, 1000)]
    assert "review" in first


def test_equal_seeds_make_equal_years() -> None:
    with SimulatedYear(2, 3, NOW_MS) as one, SimulatedYear(2, 3, NOW_MS) as two:
        assert list(one) == list(two)


def test_a_repeated_signal_counts_once() -> None:
    watched = Watched()
    for _ in range(2):
        watched.see("interest", encode(interest()), 1)
        watched.see("churn-risk", encode(churn_risk(probability=0.75)), 1)
        watched.see("ad-trigger", encode(ad_trigger()), 1)
    assert [watched.count(kind) for kind in ("interest", "churn-risk", "ad-trigger")] == [1, 1, 1]
    assert (len(watched.latencies_ms), len(watched.alerts), len(watched.triggers)) == (1, 1, 1)


def test_latency_runs_from_the_producer_to_the_score() -> None:
    watched = Watched()
    watched.see("interest", encode(interest(timings=timings(sent_ms=5, received_ms=20, scored_ms=47))), 50)
    assert (list(watched.latencies_ms), watched.first_seen_ms) == ([42], 50)


def test_the_strongest_interest_of_each_score_is_counted() -> None:
    watched = Watched()
    scores = [interest_score(label="garden", probability=0.9), interest_score(label="pets", probability=0.1)]
    watched.see("interest", encode(interest(interests=scores)), 1)
    assert watched.interests == {"garden": 1}


def test_a_low_churn_risk_is_no_alert_and_what_is_no_signal_is_passed_over() -> None:
    watched = Watched()
    watched.see("churn-risk", encode(churn_risk(probability=0.49)), 1)
    watched.see("interest", b"?", 1)
    assert (watched.count("churn-risk"), watched.count("interest"), list(watched.alerts)) == (1, 0, [])


def test_metrics_of_a_role_are_read_by_name() -> None:
    figures = parse_metrics(
        """# TYPE footfall_records_total counter
footfall_records_total{outcome="in"} 7.0
footfall_records_total{outcome="applied"} 6.0
footfall_outputs_total{kind="score-request"} 2.0
footfall_consumer_lag_records{topic="a",partition="0"} 3.0
footfall_consumer_lag_records{topic="a",partition="1"} 4.0
footfall_ready 1.0
"""
    )
    assert (figures.records, figures.outputs) == ({"in": 7, "applied": 6}, {"score-request": 2})
    assert (figures.lag, figures.ready) == (7, True)


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile(range(100), share) for share in (0.0, 0.5, 0.99, 1.0)] == [0, 50, 99, 99]
    assert percentile([], 0.5) is None
