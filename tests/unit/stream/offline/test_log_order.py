"""A log is read in the order of a live fold, whatever the clocks of its producers, and no more of it than needed is sorted."""

from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest

from schemas.errors import LogError
from schemas.time_units import DAY_MS, HOUR_MS, MINUTE_MS
from stream.fold.ordering import aligned
from stream.logs.event_log import LoggedEvent, read_log, write_log
from stream.offline.log_order import in_fold_order

MIDNIGHT_MS = 20_000 * DAY_MS


def recorded(kind: str, offset: int, at: int, partition: int = 0) -> LoggedEvent:
    return LoggedEvent(kind, MIDNIGHT_MS + at, b"u-%d" % offset, b"x" * 50, partition, offset, (("n", b"%d" % offset),))


def of_partition(events: Iterable[LoggedEvent], partition: int) -> list[LoggedEvent]:
    return [event for event in events if event.partition == partition]


def skewed(random: Random, count: int, *, partitions: int) -> list[LoggedEvent]:
    """Draw records of days around midnight, with transaction markers, from producers whose clocks are 20 minutes apart.

    One is a backfill of old records, and one record is stamped an hour ahead.
    """
    events = []
    for kind in ("visit", "click", "purchase"):
        for partition in range(partitions):
            at, offset = -DAY_MS, 0
            for _ in range(count):
                at += random.choice((0, 0, 1, 500, MINUTE_MS, 20 * MINUTE_MS))
                offset += random.choice((1, 1, 2, 3))
                clock = random.choice((-20 * MINUTE_MS, 0, 20 * MINUTE_MS))
                events.append(recorded(kind, offset, at + clock, partition))
            events[-count // 2] = recorded(kind, events[-count // 2].offset or 0, at + HOUR_MS, partition)
            events += [recorded(kind, offset + 1 + n, -3 * DAY_MS + n * HOUR_MS, partition) for n in range(100)]
    return events


@pytest.mark.parametrize("seed", range(3))
def test_a_log_of_disagreeing_clocks_is_read_as_a_sorted_list_is(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    events = skewed(random, 300, partitions=2)
    random.shuffle(events)
    write_log(tmp_path, events, source="test")

    found = list(in_fold_order(read_log(tmp_path)))

    assert len(list(tmp_path.glob("*.parquet"))) >= 5
    wanted = list(aligned(events))
    for partition in (0, 1):
        assert of_partition(found, partition) == of_partition(wanted, partition) != of_partition(read_log(tmp_path), partition)


def test_a_record_of_an_earlier_offset_may_lie_in_the_file_of_a_later_day(tmp_path: Path) -> None:
    first, second = recorded("click", 0, 10 * MINUTE_MS), recorded("click", 1, -10 * MINUTE_MS)
    clicks = [recorded("click", 2 + number, HOUR_MS) for number in range(5)]
    visits = [recorded("visit", number, (number - 5) * 4 * MINUTE_MS) for number in range(10)]
    write_log(tmp_path, [first, second, *clicks, *visits], source="test")

    found = list(in_fold_order(read_log(tmp_path)))

    assert found == [*visits[:8], first, second, *visits[8:], *clicks]


def test_equal_timestamps_written_in_another_order_are_read_by_offset(tmp_path: Path) -> None:
    events = [recorded("click", offset, 0) for offset in (2, 0, 1)]
    write_log(tmp_path, events, source="test")

    assert [event.offset for event in in_fold_order(read_log(tmp_path))] == [0, 1, 2]


def test_days_that_no_record_leaves_or_joins_keep_the_order_of_their_files(tmp_path: Path) -> None:
    disordered = [recorded("click", 0, 5), recorded("click", 1, 3)]
    imported = [LoggedEvent("visit", MIDNIGHT_MS + 2 * DAY_MS, b"u", b"%d" % number) for number in range(5)]
    write_log(tmp_path, [*imported, *disordered], source="test")

    assert list(in_fold_order(read_log(tmp_path))) == [*disordered, *imported]


@pytest.mark.parametrize("clock", [0, 3])
def test_a_log_with_fewer_events_than_its_manifest_says_is_refused_at_its_end(tmp_path: Path, clock: int) -> None:
    events = [recorded("click", 0, clock), recorded("click", 1, 0), recorded("click", 2, 2 * DAY_MS)]
    write_log(tmp_path, events, source="test")
    sorted(tmp_path.glob("*.parquet"))[1].unlink()

    with pytest.raises(LogError, match="found 2 events of .*, expected 3 as manifest.json says"):
        list(in_fold_order(read_log(tmp_path)))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_log(tmp_path, [recorded("click", 0, 0)], source="test")
    next(tmp_path.glob("*.parquet")).write_bytes(b"not Parquet")

    with pytest.raises(LogError, match=r"cannot be put in order .*events-2024-10-04.parquet"):
        list(in_fold_order(read_log(tmp_path)))


def test_a_log_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"has no manifest\.json"):
        list(in_fold_order(read_log(tmp_path)))
