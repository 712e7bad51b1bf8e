"""Tell a partition that the broker sends nothing of from one whose records wait for the fold."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from stream.kafka.unread_partitions import UnreadPartitions

CLICKS, VISITS = TopicPartition("clicks", 0), TopicPartition("visits", 0)
TOPICS = ("clicks", "visits")


class Clock:
    """The seconds since the partitions were assigned; `answered` is when the broker last sent each."""

    def __init__(self) -> None:
        self.now = 0.0
        self.states: dict[Any, Any] = {tp: SimpleNamespace(paused=False, timestamp=None) for tp in (CLICKS, VISITS)}
        self.buffered: dict[Any, Any] = {}

    def find(self, unread: UnreadPartitions) -> dict[tuple[str, int], float]:
        assignment = SimpleNamespace(tps=list(self.states), state_value=self.states.get)
        subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
        consumer = SimpleNamespace(_subscription=subscription, _fetcher=SimpleNamespace(_records=self.buffered))
        return unread.find(consumer, TOPICS, self.now, 1e9 + self.now)

    def answer(self, *tps: Any) -> None:
        for tp in tps:
            self.states[tp].timestamp = (1e9 + self.now) * 1000


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_partition_without_a_fetch_response_is_unread_after_ten_seconds(clock: Clock) -> None:
    unread = UnreadPartitions()
    assert clock.find(unread) == {}
    clock.now = 11.0
    clock.answer(VISITS)
    assert clock.find(unread) == {("clicks", 0): 11.0}
    clock.answer(CLICKS)
    assert clock.find(unread) == {}


def test_fetched_records_that_wait_and_paused_partitions_count_as_read(clock: Clock) -> None:
    unread = UnreadPartitions()
    clock.find(unread)
    clock.now, clock.buffered, clock.states[VISITS].paused = 60.0, {CLICKS: "records"}, True
    assert clock.find(unread) == {}


def test_a_topic_whose_partition_is_not_assigned_with_the_others_is_unread(clock: Clock) -> None:
    unread = UnreadPartitions()
    del clock.states[VISITS]
    clock.find(unread)
    clock.now = 11.0
    clock.answer(CLICKS)
    assert clock.find(unread) == {("visits", 0): 11.0}


def test_a_new_assignment_starts_anew(clock: Clock) -> None:
    unread = UnreadPartitions()
    clock.find(unread)
    clock.now = 11.0
    clock.states = {tp: SimpleNamespace(paused=False, timestamp=None) for tp in (CLICKS, VISITS)}
    assert clock.find(unread) == {}


def test_nothing_is_unread_before_an_assignment() -> None:
    consumer = SimpleNamespace(_subscription=SimpleNamespace(subscription=SimpleNamespace(assignment=None)))
    unsubscribed = SimpleNamespace(_subscription=SimpleNamespace(subscription=None))
    assert UnreadPartitions().find(consumer, TOPICS, 0.0, 0.0) == {}
    assert UnreadPartitions().find(unsubscribed, TOPICS, 0.0, 0.0) == {}
