"""What the order of reading a backlog of a day can change, and what it cannot."""

from collections import Counter
from random import Random

import pytest

from schemas.time_units import DAY_MS
from stream.logs.event_log import LoggedEvent
from stream.offline.replay_log import Replay
from stream.process.settings import load_settings
from tests.backlog import RATES, backlog, behind, differing, late, requests_of, topic_after_topic
from tests.builders import NOW_MS
from tests.harness import folded_rows

TEN_MINUTES_MS = 600_000


@pytest.fixture(scope="module")
def events() -> list[LoggedEvent]:
    return backlog(20_000, end_ms=NOW_MS, random=Random(3), users=500)


def replay() -> Replay:
    return Replay(load_settings(), partitions=4)


def test_a_backlog_covers_a_day_in_seven_topics_of_very_different_rates(events: list[LoggedEvent]) -> None:
    counts = Counter(event.kind for event in events)
    assert counts.keys() == RATES.keys()
    assert counts["click"] > 500 * counts["review"]
    assert events[-1].record_ms - events[0].record_ms > 0.99 * DAY_MS
    assert len(events) * 0.005 < late(events) < len(events) * 0.02


def test_read_topic_after_topic_most_events_come_long_behind_others_and_in_order_of_time_none_does(
    events: list[LoggedEvent],
) -> None:
    assert behind(replay(), events, more_than_ms=TEN_MINUTES_MS) == 0
    assert behind(replay(), topic_after_topic(events), more_than_ms=TEN_MINUTES_MS) > len(events) * 0.9


def test_no_order_of_reading_makes_an_event_late_or_a_row_another_but_most_requests(events: list[LoggedEvent]) -> None:
    as_it_happened, as_read = replay(), replay()
    wanted = requests_of(as_it_happened, events)
    found = requests_of(as_read, topic_after_topic(events))

    assert as_read.summed() == as_it_happened.summed()
    assert as_it_happened.summed().late_dropped == late(events)
    assert folded_rows(as_read) == folded_rows(as_it_happened)
    assert found.keys() == wanted.keys()
    assert len(differing(found, wanted)) > len(wanted) / 2
