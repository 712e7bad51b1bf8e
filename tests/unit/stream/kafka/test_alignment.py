"""Records of several topics pass in one order of time, and only once nothing earlier can come."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.time_units import DAY_MS, HOUR_MS, MINUTE_MS
from stream.fold import ordering
from stream.kafka.alignment import Alignment, Chunk, Limits, TopicPartition
from stream.logs.event_log import LoggedEvent
from stream.offline.replay_log import LogRecord
from tests.fakes import FakeClock

VISITS, CLICKS, FEEDBACK = "visits", "clicks", "sentiment"
ORDER = {VISITS: 0, CLICKS: 1}


def tp(topic: str, partition: int = 0) -> TopicPartition:
    return TopicPartition(topic, partition)


def records(topic: str, *times: int, first: int = 0, partition: int = 0) -> list[LogRecord]:
    return [LogRecord(topic, partition, first + n, at, None, b"12345") for n, at in enumerate(times)]


def alignment(clock: Callable[[], float] | None = None, **limits: Any) -> Alignment:
    bounds = Limits(**{"chunk_records": 100, "buffer_records": 100} | limits)
    return Alignment(ORDER, [FEEDBACK], bounds, monotonic=clock or FakeClock())


def released(
    aligned: Alignment, *, ended: Iterable[str] = (), topics: Iterable[str] = ORDER, partitions: int = 1, **limit: int
) -> list[Chunk]:
    """Release with the topics of `ended` read to their end, of `topics` assigned."""
    assigned = [tp(topic, partition) for topic in topics for partition in range(partitions)]
    return list(aligned.release(assigned, lambda found: found.topic in set(ended), **limit))


def passed(chunks: Iterable[Chunk]) -> list[tuple[str, int, int]]:
    return [(record.topic, record.offset, record.timestamp) for chunk in chunks for record in chunk.records]


def test_records_pass_by_time_then_topic_rank_then_offset() -> None:
    aligned = alignment()
    aligned.add(tp(CLICKS), records(CLICKS, 10, 20, 20))
    aligned.add(tp(VISITS), records(VISITS, 20, 30))

    found = passed(released(aligned, ended=ORDER))

    assert found == [(CLICKS, 0, 10), (VISITS, 0, 20), (CLICKS, 1, 20), (CLICKS, 2, 20), (VISITS, 1, 30)]


def test_a_topic_with_more_on_the_broker_lets_only_strictly_earlier_records_pass() -> None:
    aligned = alignment()
    aligned.add(tp(CLICKS), records(CLICKS, 10, 20, 30))
    aligned.add(tp(VISITS), records(VISITS, 5, 20))

    assert passed(released(aligned, ended=[CLICKS])) == [(VISITS, 0, 5), (CLICKS, 0, 10)]


def test_a_topic_that_has_brought_nothing_yet_holds_everything() -> None:
    aligned = alignment()
    aligned.add(tp(CLICKS), records(CLICKS, 10))

    assert released(aligned, ended=[CLICKS]) == []


def test_a_topic_read_to_its_end_bounds_nothing() -> None:
    aligned = alignment()
    aligned.add(tp(CLICKS), records(CLICKS, 10))

    assert passed(released(aligned, ended=ORDER)) == [(CLICKS, 0, 10)]


def test_a_topic_of_another_partition_or_not_assigned_bounds_nothing() -> None:
    aligned = alignment()
    aligned.add(tp(CLICKS, 1), records(CLICKS, 10, partition=1))

    chunks = list(aligned.release([tp(CLICKS, 1), tp(VISITS, 0)], lambda found: found.topic == CLICKS))

    assert passed(chunks) == [(CLICKS, 0, 10)]


def test_what_was_held_passes_when_the_other_topic_has_gone_further() -> None:
    aligned = alignment()
    aligned.add(tp(CLICKS), records(CLICKS, 10, 20))
    aligned.add(tp(VISITS), records(VISITS, 10))
    before = passed(released(aligned, ended=[CLICKS]))

    aligned.add(tp(VISITS), records(VISITS, 21, first=1))

    assert before == []
    assert passed(released(aligned, ended=[CLICKS])) == [(VISITS, 0, 10), (CLICKS, 0, 10), (CLICKS, 1, 20)]


def test_with_idle_seconds_a_topic_read_to_its_end_holds_until_it_has_been_quiet_for_them() -> None:
    clock = FakeClock()
    aligned = alignment(clock, idle_seconds=2.0)
    clock.now += 10
    aligned.add(tp(CLICKS), records(CLICKS, 10, 20))
    aligned.add(tp(VISITS), records(VISITS, 15))
    held, waited = passed(released(aligned, ended=ORDER)), aligned.waiting()
    clock.now += 1.9
    still_held = passed(released(aligned, ended=ORDER))
    clock.now += 0.1

    assert (held, waited) == ([(CLICKS, 0, 10)], True)
    assert still_held == []
    assert passed(released(aligned, ended=ORDER)) == [(VISITS, 0, 15), (CLICKS, 1, 20)]
    assert not aligned.waiting()


def test_with_idle_seconds_a_topic_long_quiet_holds_what_begins_to_wait_for_as_long() -> None:
    clock = FakeClock()
    aligned = alignment(clock, idle_seconds=2.0)
    clock.now += 60.0
    aligned.add(tp(CLICKS), records(CLICKS, 10))
    assert released(aligned, ended=ORDER) == []

    clock.now += 1.0
    aligned.add(tp(VISITS), records(VISITS, 5))
    assert released(aligned, ended=ORDER) == []
    clock.now += 2.0

    assert passed(released(aligned, ended=ORDER)) == [(VISITS, 0, 5), (CLICKS, 0, 10)]


def test_an_unreachable_topic_stops_holding_after_the_timeout_and_is_counted() -> None:
    clock = FakeClock()
    aligned = alignment(clock, timeout_seconds=30.0)
    aligned.add(tp(CLICKS), records(CLICKS, 10))
    held = []
    for _ in range(29):  # a role asks at least once a second
        clock.now += 1
        held += released(aligned, ended=[CLICKS])
    counted_before = aligned.unreachable
    clock.now += 1

    assert (held, counted_before) == ([], 0)
    assert passed(released(aligned, ended=[CLICKS])) == [(CLICKS, 0, 10)]
    assert aligned.unreachable == 1


def test_an_unreachable_partition_is_named_until_it_brings_records_again() -> None:
    clock = FakeClock()
    aligned = alignment(clock, timeout_seconds=2.0)
    aligned.add(tp(CLICKS), records(CLICKS, 10))
    for _ in range(3):
        clock.now += 1
        released(aligned, ended=[CLICKS])
    named = aligned.unreachable_partitions()
    aligned.add(tp(VISITS), records(VISITS, 5))

    assert (named, aligned.unreachable_partitions()) == ([tp(VISITS)], [])
    assert aligned.chunks == 1


def test_a_time_in_which_nobody_asked_for_a_partition_counts_for_no_timeout() -> None:
    clock = FakeClock()
    aligned = alignment(clock, timeout_seconds=2.0)
    aligned.add(tp(CLICKS), records(CLICKS, 10))
    aligned.fetching([])  # the role waits for its barrier
    held = []
    for _ in range(10):
        clock.now += 1
        held += released(aligned, ended=[CLICKS])
    aligned.fetching([tp(VISITS)])
    clock.now += 1
    held += released(aligned, ended=[CLICKS])
    clock.now += 1

    assert (held, aligned.unreachable) == ([], 0)
    assert passed(released(aligned, ended=[CLICKS])) == [(CLICKS, 0, 10)]


def test_a_topic_that_became_unreachable_in_the_middle_of_its_backlog_stops_holding_after_the_timeout() -> None:
    clock = FakeClock()
    aligned = alignment(clock, timeout_seconds=30.0)
    aligned.add(tp(VISITS), records(VISITS, 10, 15))
    aligned.add(tp(CLICKS), records(CLICKS, 12, 20))
    early = passed(released(aligned, ended=[CLICKS]))
    found = []
    for _ in range(31):
        clock.now += 1
        found += passed(released(aligned, ended=[CLICKS]))

    assert early == [(VISITS, 0, 10), (CLICKS, 0, 12)]
    assert found == [(VISITS, 1, 15), (CLICKS, 1, 20)]


def test_a_time_in_which_the_role_was_too_busy_to_ask_counts_for_no_timeout() -> None:
    clock = FakeClock()
    aligned = alignment(clock, timeout_seconds=30.0)
    aligned.add(tp(VISITS), records(VISITS, 10, 15))
    aligned.add(tp(CLICKS), records(CLICKS, 12, 20))
    released(aligned, ended=[CLICKS])
    clock.now += 3600

    assert released(aligned, ended=[CLICKS]) == []
    assert aligned.unreachable == 0


def test_skew_is_how_far_a_topic_lies_behind_the_newest_and_held_what_waits() -> None:
    aligned = alignment()
    aligned.add(tp(CLICKS), records(CLICKS, 10, 5000))
    aligned.add(tp(VISITS), records(VISITS, 2000))
    aligned.add(tp(VISITS, 1), records(VISITS, 100, partition=1))

    assert aligned.skew_ms() == {CLICKS: 0, VISITS: 3000}
    assert aligned.held() == {CLICKS: 2, VISITS: 2}
    released(aligned, ended=ORDER, partitions=2)
    assert aligned.held() == {CLICKS: 0, VISITS: 0}
    aligned.clear()
    assert aligned.skew_ms() == {CLICKS: 0, VISITS: 0}


def test_a_full_buffer_is_reported_until_some_of_it_has_passed() -> None:
    aligned = alignment(buffer_records=2)
    aligned.add(tp(CLICKS), records(CLICKS, 10, 20))
    full = aligned.full()
    aligned.add(tp(VISITS), records(VISITS, 15))

    released(aligned, ended=[VISITS])

    assert full == {tp(CLICKS)}
    assert aligned.full() == set()


def test_full_buffers_never_deadlock_although_all_records_share_one_time() -> None:
    aligned = alignment(buffer_records=3)
    aligned.add(tp(CLICKS), records(CLICKS, 7, 7, 7))
    aligned.add(tp(VISITS), records(VISITS, 7, 7, 7))

    found = passed(released(aligned))

    assert found == [(VISITS, n, 7) for n in range(3)] + [(CLICKS, n, 7) for n in range(3)]


def test_a_full_buffer_waits_only_for_topics_that_can_still_be_fetched() -> None:
    aligned = alignment(buffer_records=3)
    aligned.add(tp(CLICKS), records(CLICKS, 7, 7, 7))
    aligned.add(tp(VISITS), records(VISITS, 7))

    assert released(aligned) == []
    assert aligned.full() == {tp(CLICKS)}  # visits are still fetched, so this ends


def test_unaligned_topics_pass_at_once_whatever_the_others_do() -> None:
    aligned = alignment()
    aligned.add(tp(CLICKS), records(CLICKS, 10))
    aligned.add(tp(FEEDBACK), records(FEEDBACK, 99, 1))

    assert passed(released(aligned)) == [(FEEDBACK, 0, 99), (FEEDBACK, 1, 1)]


def test_at_most_the_chunks_asked_for_of_unaligned_topics_pass_and_partitions_take_turns() -> None:
    aligned = alignment(chunk_records=2)
    for partition in (0, 1):
        times = range(3)
        aligned.add(tp(FEEDBACK, partition), records(FEEDBACK, *times, partition=partition))
    turns = [released(aligned, unaligned_chunks=limit) for limit in (0, 1, 1, 2)]

    found = [[(chunk.records[0].partition, len(chunk.records)) for chunk in turn] for turn in turns]

    assert found == [[], [(0, 2)], [(1, 2)], [(0, 2)]]  # the last holds the third record of each partition
    assert not aligned.waiting()


def test_records_that_wait_for_a_turn_keep_the_fetch_short_and_stop_it_when_there_are_many() -> None:
    aligned = alignment(buffer_records=3)
    aligned.add(tp(FEEDBACK), records(FEEDBACK, 1, 2, 3))

    released(aligned, unaligned_chunks=0)

    assert aligned.waiting()
    assert aligned.full() == {tp(FEEDBACK)}


def test_a_chunk_has_at_most_the_records_of_the_limit_and_knows_its_bytes() -> None:
    aligned = alignment(chunk_records=2)
    aligned.add(tp(CLICKS), records(CLICKS, 1, 2, 3, 4, 5))

    chunks = released(aligned, ended=ORDER)

    assert [len(chunk.records) for chunk in chunks] == [2, 2, 1]
    assert [chunk.size_bytes for chunk in chunks] == [10, 10, 5]


def test_a_tombstone_counts_no_bytes() -> None:
    aligned = alignment()
    aligned.add(tp(CLICKS), [LogRecord(CLICKS, 0, 0, 1, b"k", None)])

    [chunk] = released(aligned, ended=ORDER)

    assert chunk.size_bytes == 0


def test_starts_and_ends_are_contiguous_over_gaps_in_the_log() -> None:
    aligned = alignment(chunk_records=2)
    aligned.add(tp(CLICKS), records(CLICKS, 1, 2, first=40) + records(CLICKS, 3, first=45))
    aligned.add(tp(VISITS), records(VISITS, 4, first=7))

    chunks = released(aligned, ended=ORDER)

    assert [chunk.starts for chunk in chunks] == [{tp(CLICKS): 40}, {tp(CLICKS): 42, tp(VISITS): 7}]
    assert [chunk.ends for chunk in chunks] == [{tp(CLICKS): 42}, {tp(CLICKS): 46, tp(VISITS): 8}]


def test_a_clear_forgets_records_times_and_positions() -> None:
    aligned = alignment()
    aligned.add(tp(CLICKS), records(CLICKS, 100, first=50))
    aligned.add(tp(FEEDBACK), records(FEEDBACK, 100))

    aligned.clear()
    nothing = released(aligned, ended=ORDER)
    aligned.add(tp(CLICKS), records(CLICKS, 10, first=20))
    [chunk] = released(aligned, ended=ORDER)

    assert nothing == []
    assert (passed([chunk]), chunk.starts) == ([(CLICKS, 20, 10)], {tp(CLICKS): 20})


def test_a_clear_restarts_the_timeout() -> None:
    clock = FakeClock()
    aligned = alignment(clock, timeout_seconds=30.0)
    clock.now += 60
    aligned.clear()
    aligned.add(tp(CLICKS), records(CLICKS, 10))

    assert released(aligned, ended=[CLICKS]) == []
    assert aligned.unreachable == 0


def test_a_clear_between_two_chunks_ends_the_release() -> None:
    aligned = alignment(chunk_records=1)
    aligned.add(tp(CLICKS), records(CLICKS, 1, 2, 3))
    chunks = aligned.release([tp(CLICKS)], lambda found: True)
    first = next(chunks)

    aligned.clear()

    assert passed([first]) == [(CLICKS, 0, 1)]
    assert list(chunks) == []


def test_times_that_go_backwards_keep_their_topics_offset_order() -> None:
    aligned = alignment()
    aligned.add(tp(CLICKS), records(CLICKS, 30, 10, 20, 40))
    aligned.add(tp(VISITS), records(VISITS, 25, 35))

    found = passed(released(aligned, ended=ORDER))

    assert found == [(VISITS, 0, 25), (CLICKS, 0, 30), (CLICKS, 1, 10), (CLICKS, 2, 20), (VISITS, 1, 35), (CLICKS, 3, 40)]


def test_one_record_stamped_an_hour_ahead_lets_no_other_topic_run_ahead_in_a_backlog() -> None:
    aligned, found = alignment(chunk_records=10_000, buffer_records=20_000), list[tuple[str, int, int]]()
    minutes = [number * MINUTE_MS // 10 for number in range(600)]
    aligned.add(tp(CLICKS), records(CLICKS, 59 * MINUTE_MS, *minutes[1:300]))

    for first in range(0, 600, 100):
        aligned.add(tp(VISITS), records(VISITS, *minutes[first : first + 100], first=first))
        found += passed(released(aligned))

    as_stamped = [place for place in found if place != (CLICKS, 0, 59 * MINUTE_MS)]
    assert as_stamped == sorted(as_stamped, key=lambda place: (place[2], ORDER[place[0]]))
    assert max(at for topic, _, at in as_stamped if topic == VISITS) <= minutes[299]
    assert sum(topic == CLICKS for topic, _, _ in found) == 299, "all but the newest, which may still have equals"


def test_a_record_stamped_an_hour_ahead_at_the_end_of_a_fetch_waits_for_the_next_ones() -> None:
    aligned = alignment()
    aligned.add(tp(CLICKS), records(CLICKS, *range(10), 59 * MINUTE_MS))
    aligned.add(tp(VISITS), records(VISITS, 5, 20, MINUTE_MS))
    first = passed(released(aligned, ended=[VISITS]))

    aligned.add(tp(CLICKS), records(CLICKS, 30, 40, first=11))
    then = passed(released(aligned, ended=[VISITS]))

    assert first[-1] == (CLICKS, 8, 8)
    assert then == [(CLICKS, 9, 9), (VISITS, 1, 20), (CLICKS, 10, 59 * MINUTE_MS), (CLICKS, 11, 30)]


def test_after_a_silent_night_a_full_buffer_is_released_although_nothing_confirms_the_new_time() -> None:
    aligned = alignment(buffer_records=2)
    for topic in (CLICKS, VISITS):
        aligned.add(tp(topic), records(topic, 0))
        released(aligned)
        aligned.add(tp(topic), records(topic, DAY_MS, first=1))

    found = passed(released(aligned))
    for topic in (CLICKS, VISITS):
        aligned.add(tp(topic), records(topic, DAY_MS + 1, first=2))

    assert found == [(VISITS, 0, 0), (CLICKS, 0, 0)]
    assert aligned.full() == {tp(CLICKS), tp(VISITS)}
    assert passed(released(aligned)) == [(VISITS, 1, DAY_MS), (CLICKS, 1, DAY_MS)]


def test_records_without_a_time_pass_when_nothing_bounds_them() -> None:
    aligned = alignment()
    aligned.add(tp(CLICKS), records(CLICKS, -1, -1))

    assert passed(released(aligned, ended=ORDER)) == [(CLICKS, 0, -1), (CLICKS, 1, -1)]


def test_partitions_are_independent() -> None:
    aligned = alignment()
    for partition in (0, 1):
        aligned.add(tp(CLICKS, partition), records(CLICKS, 10, partition=partition))
    ended = {tp(CLICKS, 0), tp(CLICKS, 1), tp(VISITS, 1)}

    chunks = list(aligned.release([tp(t, p) for t in ORDER for p in (0, 1)], lambda found: found in ended))

    assert [chunk.records[0].partition for chunk in chunks] == [1]


# ------------------------------------------------------------------------------------------------------- random logs

LOGS = st.dictionaries(
    st.tuples(st.sampled_from((VISITS, CLICKS, FEEDBACK)), st.integers(0, 1)),
    st.lists(st.integers(0, 20) | st.integers(0, 2 * HOUR_MS), min_size=1, max_size=25),
    min_size=1,
)


@settings(max_examples=200, deadline=None)
@given(LOGS, st.integers(1, 8), st.integers(1, 6), st.booleans(), st.integers(0, 2**32))
def test_whatever_the_fetches_all_records_pass_once_in_offset_order_and_sorted_logs_in_order_of_time(
    logs: dict[tuple[str, int], list[int]], buffer_records: int, chunk_records: int, in_order: bool, seed: int
) -> None:
    rng = Random(seed)
    log = {tp(t, p): records(t, *(sorted(at) if in_order else at), partition=p) for (t, p), at in logs.items()}
    aligned = alignment(buffer_records=buffer_records, chunk_records=chunk_records)
    assigned = [tp(topic, partition) for topic in (VISITS, CLICKS, FEEDBACK) for partition in (0, 1)]
    position: dict[TopicPartition, int] = defaultdict(int)

    def ended(found: TopicPartition) -> bool:
        return position[found] >= len(log.get(found, ()))

    chunks: list[Chunk] = []
    for _ in range(10_000):
        if all(map(ended, log)):
            break
        fetchable = [found for found in log if not ended(found) and found not in aligned.full()]
        for found in rng.sample(fetchable, rng.randint(min(1, len(fetchable)), len(fetchable))):
            size = rng.randint(1, 5)
            aligned.add(found, log[found][position[found] : position[found] + size])
            position[found] += size
        chunks += aligned.release(assigned, ended)
    chunks += aligned.release(assigned, ended)

    assert {found: [r for c in chunks for r in c.records if (r.topic, r.partition) == found] for found in log} == log
    ends = dict.fromkeys(log, 0)
    for chunk in chunks:
        assert len({record.partition for record in chunk.records}) == 1
        assert len(chunk.records) <= chunk_records
        assert chunk.starts == {found: ends[found] for found in chunk.ends}
        ends.update(chunk.ends)
    if in_order:
        for partition in (0, 1):
            ordered = [
                (r.timestamp, ORDER[r.topic], r.offset)
                for c in chunks
                for r in c.records
                if r.partition == partition and r.topic in ORDER
            ]
            full_buffer = buffer_records <= max(map(len, log.values()))
            assert [at for at, _, _ in ordered] == sorted(at for at, _, _ in ordered)
            assert full_buffer or ordered == sorted(ordered)  # a full buffer lets records of one time pass early


@settings(max_examples=200, deadline=None)
@given(LOGS, st.integers(0, 2**32))
def test_records_pass_in_the_order_in_which_a_replay_folds_them(logs: dict[tuple[str, int], list[int]], seed: int) -> None:
    rng, kinds = Random(seed), {VISITS: "visit", CLICKS: "click"}
    log = [
        LoggedEvent(kinds[topic], at, b"", b"", partition, 2 * offset)  # every other offset is a gap
        for (topic, partition), stamps in logs.items()
        if topic in kinds
        for offset, at in enumerate(stamps)
    ]
    live = Alignment({"visit": 0, "click": 2}, [], Limits(chunk_records=1000, buffer_records=1000), monotonic=FakeClock())
    rest = {tp(e.kind, e.partition or 0): [x for x in log if (x.kind, x.partition) == (e.kind, e.partition)] for e in log}
    while rest:
        found = rng.choice(sorted(rest))
        size = rng.randint(1, 5)
        live.add(found, [LogRecord(e.kind, found.partition, e.offset or 0, e.record_ms, b"", b"") for e in rest[found][:size]])
        rest[found] = rest[found][size:]
        rest = {place: events for place, events in rest.items() if events}

    chunks = list(live.release([tp(kind, partition) for kind in kinds.values() for partition in (0, 1)], lambda found: True))

    rng.shuffle(log)
    replayed = list(ordering.aligned(log))
    for partition in (0, 1):
        passed_here = [(r.topic, r.offset) for chunk in chunks for r in chunk.records if r.partition == partition]
        assert passed_here == [(event.kind, event.offset) for event in replayed if event.partition == partition]
