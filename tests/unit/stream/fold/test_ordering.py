"""Records of a partition keep their offset order, and topics meet at the time at which their records arrived."""

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import LogError
from schemas.time_units import HOUR_MS, MINUTE_MS
from stream.fold.ordering import AHEAD_MS, CONFIRMING, ArrivalTimes, aligned
from stream.logs.event_log import LoggedEvent

MS = st.integers(0, 90 * MINUTE_MS)


def recorded(kind: str, offset: int, at: int, partition: int = 0) -> LoggedEvent:
    return LoggedEvent(kind, at, b"u-1", b"{}", partition, offset)


def places(events: Iterable[LoggedEvent]) -> list[tuple[str, int | None]]:
    return [(event.kind, event.offset) for event in events]


def arrivals(*times: int) -> list[int]:
    return ArrivalTimes().add(list(times))


def test_a_record_stamped_behind_arrives_with_the_one_before_it() -> None:
    assert arrivals(10, 30, 20, 25, 40) == [10, 30, 30, 30, 40]


@pytest.mark.parametrize("place", range(12))
def test_one_timestamp_far_ahead_moves_only_its_own_record(place: int) -> None:
    times = [number * MINUTE_MS for number in range(20)]
    ahead = [*times]
    ahead[place] += 59 * MINUTE_MS

    found = arrivals(*ahead)

    assert found == [*times[:place], times[place + 1], *times[place + 1 :]]


def test_a_few_timestamps_far_ahead_in_a_row_move_only_their_own_records() -> None:
    times = [0, 1, *[HOUR_MS] * (CONFIRMING // 2), *range(2, 2 + 2 * CONFIRMING)]

    assert max(arrivals(*times)) < AHEAD_MS


def test_a_record_stamped_far_behind_does_not_cast_doubt_on_the_ones_before_it() -> None:
    times = [0, *range(HOUR_MS, HOUR_MS + 8), 0, *range(HOUR_MS + 8, HOUR_MS + 16)]

    assert arrivals(*times) == [0, *range(HOUR_MS, HOUR_MS + 8), HOUR_MS + 7, *range(HOUR_MS + 8, HOUR_MS + 16)]


def test_after_a_silent_night_records_arrive_when_they_say() -> None:
    morning = [8 * HOUR_MS + number for number in range(20)]

    assert arrivals(0, *morning) == [0, *morning]


def test_a_jump_of_time_bounds_other_topics_only_once_the_next_records_confirm_it() -> None:
    times, bounds = ArrivalTimes(), []
    for number in range(CONFIRMING + 1):
        times.add([0] * 10 if not number else [HOUR_MS + number])
        bounds.append(times.bound_ms)
    times.add([HOUR_MS + CONFIRMING + 1])

    assert bounds == [0] * (CONFIRMING + 1)
    assert times.bound_ms == HOUR_MS + CONFIRMING + 1


@settings(max_examples=300, deadline=None)
@given(st.lists(MS, min_size=1, max_size=60), st.integers(0, 2**32))
def test_arrival_times_ascend_and_do_not_depend_on_the_fetches(stamps: list[int], seed: int) -> None:
    random, times, found = Random(seed), ArrivalTimes(), list[int]()
    rest = stamps
    while rest:
        size = random.randint(1, 9)
        revised = times.unsettled
        told = times.add(rest[:size])
        assert times.bound_ms <= told[-1]
        found[len(found) - revised :] = told
        rest = rest[size:]

    assert found == arrivals(*stamps) == sorted(found)
    assert set(found) <= set(stamps)


# -------------------------------------------------------------------------------------------------- events of a list


def test_a_record_stamped_ahead_is_folded_before_its_successors() -> None:
    clicks = [recorded("click", 0, 15 * MINUTE_MS), recorded("click", 1, 1000), recorded("click", 2, 2000)]
    visits = [recorded("visit", minute, minute * MINUTE_MS) for minute in range(20)]

    found = places(aligned(sorted([*clicks, *visits], key=lambda event: event.record_ms)))

    assert [place for place in found if place[0] == "click"] == [("click", 0), ("click", 1), ("click", 2)]


def test_records_after_gaps_of_offsets_are_not_delayed() -> None:
    clicks = [recorded("click", 2 * minute, minute * MINUTE_MS) for minute in range(30)]
    visits = [recorded("visit", minute, minute * MINUTE_MS + 1) for minute in range(30)]
    log = sorted([*clicks, *visits], key=lambda event: event.record_ms)

    assert list(aligned(log)) == list(aligned(iter(log))) == log


def test_one_record_stamped_an_hour_ahead_leaves_all_others_in_order_of_time() -> None:
    ahead = recorded("click", 0, 59 * MINUTE_MS)
    clicks = [recorded("click", number, number * 6000) for number in range(1, 300)]
    visits = [recorded("visit", number, number * 6000 + 1) for number in range(600)]
    others = sorted([*clicks, *visits], key=lambda event: event.record_ms)

    found = list(aligned(sorted([ahead, *others], key=lambda event: event.record_ms)))

    assert [event for event in found if event is not ahead] == others
    assert found.index(ahead) < found.index(clicks[0])


def test_topics_meet_at_the_running_maximum_of_their_timestamps_then_by_rank() -> None:
    log = [recorded("click", 1, 10), recorded("click", 0, 12), recorded("visit", 0, 12), recorded("click", 2, 13)]

    assert places(aligned(log)) == [("visit", 0), ("click", 0), ("click", 1), ("click", 2)]


def test_events_without_offsets_keep_the_order_given_beside_recorded_ones() -> None:
    imported = [LoggedEvent("visit", at, b"u-1", b"%d" % at) for at in (5, 15, 25)]
    log = [recorded("click", 1, 10), recorded("click", 0, 20), *imported]

    assert list(aligned(log)) == [imported[0], imported[1], log[1], log[0], imported[2]]


def test_an_iterator_that_goes_back_in_a_partition_is_refused() -> None:
    log = [recorded("click", 1, 10), recorded("click", 0, 12)]

    with pytest.raises(LogError, match=r"found offset 0 of click/0 after 1, expected .*: give a list or a log"):
        list(aligned(iter(log)))
