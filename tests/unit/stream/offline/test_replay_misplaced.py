"""A log whose producers place keys by different rules: users are never split over rows without a sign, live or replayed."""

from collections.abc import Callable
from zlib import crc32

from schemas.codec import encode
from schemas.dead_letter import DeadLetter, Reason
from schemas.events import Event
from stream.fold.partitioner import murmur2
from stream.logs.event_log import LoggedEvent, LogManifest, RecordedPartition
from stream.offline.live_fold import LiveFold
from stream.offline.replay_log import Replay, settings_of_log
from stream.process.settings import load_settings
from stream.roles.build import features_fold
from tests.builders import NOW_MS, purchase, visit

PARTITIONS, USERS = 4, [f"crc-{number}" for number in range(20)]


def recorded(kind: str, event: Event, partition: int, offset: int) -> LoggedEvent:
    return LoggedEvent(kind, NOW_MS + offset, event.user_id.encode(), encode(event), partition, offset)


def by_murmur2(user: str) -> int:
    return (murmur2(user.encode()) & 0x7FFFFFFF) % PARTITIONS


def by_crc32(user: str) -> int:
    return crc32(user.encode()) % PARTITIONS


def log(visits: Callable[[str], int], purchases: Callable[[str], int]) -> list[LoggedEvent]:
    """Record a visit and a purchase of each user; the producer of each topic chooses partitions by its own rule."""
    visited = [visit(user_id=user, event_id=f"v-{user}") for user in USERS]
    bought = [purchase(user_id=user, event_id=f"p-{user}") for user in USERS]
    return [
        *(recorded("visit", event, visits(event.user_id), offset) for offset, event in enumerate(visited)),
        *(recorded("purchase", event, purchases(event.user_id), offset) for offset, event in enumerate(bought)),
    ]


def users_of(replay: Replay) -> list[bytes]:
    return sorted(key for rows in replay.rows.values() for key in rows)


def test_a_topic_placed_by_another_hash_splits_no_user_and_each_misplaced_record_is_a_dead_letter() -> None:
    replay = Replay(load_settings(reporting_currency="EUR"), partitions=PARTITIONS)

    letters = [output.message for output in replay.fold(log(by_murmur2, by_crc32)) if isinstance(output.message, DeadLetter)]

    elsewhere = [user for user in USERS if by_crc32(user) != by_murmur2(user)]
    assert users_of(replay) == sorted(user.encode() for user in USERS)
    assert sorted(letter.key or b"" for letter in letters) == sorted(user.encode() for user in elsewhere)
    assert {letter.reason for letter in letters} == {"misplaced_key"}
    assert replay.summed().dead_lettered == len(elsewhere) and replay.summed().applied == 40 - len(elsewhere)


def test_accepted_keys_are_all_applied_and_split_the_users_as_live() -> None:
    replay = Replay(load_settings(reporting_currency="EUR", misplaced_keys="accept"), partitions=PARTITIONS)

    letters = [output for output in replay.fold(log(by_murmur2, by_crc32)) if isinstance(output.message, DeadLetter)]

    assert letters == [] and replay.summed().applied == 40
    assert len(users_of(replay)) == 37


def test_with_one_partitioner_everywhere_every_record_is_applied_to_one_row_per_user() -> None:
    replay = Replay(load_settings(reporting_currency="EUR", partitioner="crc32"), partitions=PARTITIONS)

    letters = [output for output in replay.fold(log(by_crc32, by_crc32)) if isinstance(output.message, DeadLetter)]

    assert letters == [] and replay.summed().applied == 40
    assert users_of(replay) == sorted(user.encode() for user in USERS)


def test_events_without_a_partition_go_where_the_partitioner_puts_them() -> None:
    for partitioner, choose in (("murmur2", by_murmur2), ("crc32", by_crc32)):
        replay = Replay(load_settings(reporting_currency="EUR", partitioner=partitioner), partitions=PARTITIONS)
        list(replay.fold(LoggedEvent("visit", NOW_MS, u.encode(), encode(visit(user_id=u))) for u in USERS))
        assert {key: number for number, rows in replay.rows.items() for key in rows} == {u.encode(): choose(u) for u in USERS}


def test_a_recorded_log_is_replayed_with_the_partition_count_of_its_topics() -> None:
    partitions = [RecordedPartition("click", "clicks", number, 0, 0) for number in range(7)]
    known = LogManifest(source="test", events={}, first_record_ms=None, last_record_ms=None, recorded=partitions)
    made = LogManifest(source="test", events={}, first_record_ms=None, last_record_ms=None)
    settings = load_settings(partitions=12)

    assert settings_of_log(settings, known).partition_count == 7
    assert settings_of_log(settings, made).partition_count == 12


def test_a_dataset_refuses_the_same_misplaced_records_as_a_replay() -> None:
    user = next(user for user in USERS if by_crc32(user) != by_murmur2(user))
    home, other = by_murmur2(user), by_crc32(user)
    places = [(home, 50), (other, 60), (home, 51), (other, 3)]
    events = [
        recorded("visit", visit(user_id=user, event_id=f"v-{number}", event_time_ms=NOW_MS), partition, offset)
        for number, (partition, offset) in enumerate(places)
    ]
    settings = load_settings()
    replay, live = Replay(settings, partitions=PARTITIONS), LiveFold(features_fold(settings, PARTITIONS))

    folded = [live.fold(event.kind, replay.number(event)).applied for event in events]
    list(replay.fold(events))

    assert (replay.summed().applied, replay.summed().dead_lettered) == (2, 2)
    assert folded == [True, False, True, False]
    assert live.refused == {Reason.MISPLACED_KEY: 2}
