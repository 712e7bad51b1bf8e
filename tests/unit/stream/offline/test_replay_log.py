"""A log gives the same outputs and rows each time, in any chunks, on the partitions that Kafka would choose."""

from collections import defaultdict
from typing import Any

import pytest
from aiokafka.partitioner import DefaultPartitioner

from models.features.row_codec import encode_row
from models.features.spec import KINDS
from schemas.codec import encode
from schemas.time_units import MINUTE_MS
from stream.fold.ordering import aligned
from stream.fold.partitioner import partition_of
from stream.fold.records import Output, PartitionTotals
from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.replay_log import LogRecord, Replay
from stream.process.settings import Settings, load_settings
from stream.roles.build import features_fold
from tests.builders import NOW_MS, click, visit
from tests.harness import folded_rows

PARTITIONS = 3
DIRTY = SimulatorConfig(seed=5, shoppers=12, days=25, late=0.05, duplicates=0.05, malformed=0.05)
Rows = dict[int, dict[bytes, bytes]]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(reporting_currency="GBP")


@pytest.fixture(scope="module")
def log() -> list[LoggedEvent]:
    return [event.logged for event in simulate(DIRTY)]


def encoded(rows: dict[int, dict[bytes, Any]]) -> Rows:
    return {partition: {key: encode_row(row) for key, row in found.items()} for partition, found in rows.items()}


def replayed(settings: Settings, log: list[LoggedEvent]) -> tuple[Replay, list[Output]]:
    replay = Replay(settings, partitions=PARTITIONS)
    return replay, list(replay.fold(log))


def records_of(settings: Settings, log: list[LoggedEvent]) -> dict[int, list[LogRecord]]:
    """Number a log's records by partition, as a send into empty topics does."""
    replay, found = Replay(settings, partitions=PARTITIONS), defaultdict(list)
    for event in aligned(log):
        record = replay.record(event.kind, replay.partition_of(event.key), event.record_ms, event.key, event.value)
        found[record.partition].append(record)
    return found


def test_the_same_log_gives_the_same_outputs_and_rows(settings: Settings, log: list[LoggedEvent]) -> None:
    (one, outputs), (other, again) = replayed(settings, log), replayed(settings, log)

    assert outputs == again
    assert encoded(one.rows) == encoded(other.rows)
    assert one.totals == other.totals
    assert {output.kind for output in outputs} >= {"score-request", "click.dlq"}


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_any_chunking_gives_the_same_outputs_and_rows(settings: Settings, log: list[LoggedEvent], size: int) -> None:
    replay, outputs = replayed(settings, log)
    fold = features_fold(settings, PARTITIONS)
    rows, totals, found = defaultdict(dict), defaultdict(PartitionTotals), []

    for partition, records in records_of(settings, log).items():
        for first in range(0, len(records), size):
            chunk = records[first : first + size]
            found += fold.fold(rows[partition], totals[partition], chunk, chunk[-1].timestamp).outputs

    assert [identity(output) for output in found] == [
        identity(output) for partition in totals for output in outputs if output.partition == partition
    ]
    assert encoded(rows) == encoded(replay.rows)
    assert dict(totals) == dict(replay.totals)


def identity(output: Output) -> tuple[Any, ...]:
    """Name an output by all but the time it was folded, which is the chunk's."""
    message = output.message
    return output.kind, output.partition, output.key, getattr(message, "request_id", message), getattr(message, "features", ())


def test_every_record_of_the_log_is_accounted_for(settings: Settings, log: list[LoggedEvent]) -> None:
    replay, outputs = replayed(settings, log)

    total = replay.summed()

    assert total.events_in == len(log)
    assert total.events_in == total.applied + total.dead_lettered + total.late_dropped + total.duplicate_dropped
    assert total.dead_lettered == sum(output.kind.endswith(".dlq") for output in outputs)


@pytest.mark.parametrize("key", [b"u-1", b"u-2", b"shopper-0001", b"a", "é".encode(), b"x" * 64])
def test_a_key_goes_to_the_partition_that_the_clients_default_partitioner_chooses(key: bytes) -> None:
    for partitions in (1, 3, 12, 1000):
        everywhere = list(range(partitions))
        assert partition_of(key, partitions, "murmur2") == DefaultPartitioner()(key, everywhere, everywhere)


# murmur2 of Kafka's own unit test of its hash: org.apache.kafka.common.utils.UtilsTest
@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_partition_rule_rests_on_the_hash_that_kafka_tests(key: bytes, murmur2: int) -> None:
    for partitions in (1, 7, 12, 1000):
        assert partition_of(key, partitions, "murmur2") == (murmur2 & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize("key", [None, b""])
def test_a_record_without_a_key_goes_to_the_first_partition(settings: Settings, key: bytes | None) -> None:
    assert Replay(settings, partitions=PARTITIONS).partition_of(key) == 0


def test_offsets_are_numbered_per_topic_and_partition(settings: Settings) -> None:
    replay = Replay(settings, partitions=2)

    numbered = [replay.record(kind, p, 0, None, None).offset for kind, p in [("click", 0), ("click", 1), ("visit", 0)] * 2]

    assert numbered == [0, 0, 0, 1, 1, 1]


def test_a_recorded_event_keeps_its_place_and_headers_in_a_replay(settings: Settings) -> None:
    event = LoggedEvent("click", 5, b"u-1", b"{}", 11, 70, (("x-event-id", b"first"),))

    found = Replay(settings, partitions=PARTITIONS).number(event)

    assert found == LogRecord("shop.clicks.v1", 11, 70, 5, b"u-1", b"{}", (("x-event-id", b"first"),))


def test_rows_of_a_live_run_whose_producers_clocks_disagree_are_those_of_its_replay(settings: Settings) -> None:
    def event(kind: str, build: Any, offset: int, at: int, ahead: int, user: str) -> LoggedEvent:
        value = encode(build(user_id=user, event_time_ms=at, event_id=f"{kind}-{offset}"))
        return LoggedEvent(kind, at + ahead, user.encode(), value, 0, offset)

    clicks = [event("click", click, n, NOW_MS + n * 1000, (15 * MINUTE_MS if n == 0 else 0), "u") for n in range(3)]
    visits = [event("visit", visit, 2 * n, NOW_MS + n * MINUTE_MS, 0, "v") for n in range(20)]
    live, rows = PartitionTotals(), dict[bytes, Any]()
    for found in [*clicks, *visits]:  # in offset order, as a broker gives them
        numbered = Replay(settings, partitions=1).number(found)
        features_fold(settings, 1).fold(rows, live, [numbered], found.record_ms)

    replay = Replay(settings, partitions=1)
    list(replay.fold(sorted([*clicks, *visits], key=lambda event: event.record_ms)))

    assert live.events.applied == 23
    assert replay.summed() == live.events
    assert encoded(replay.rows) == encoded({0: rows})


def test_putting_rows_back_to_bytes_changes_no_output(
    settings: Settings, log: list[LoggedEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay, outputs = replayed(settings, log)
    monkeypatch.setattr("stream.offline.replay_log.DECODED_ROWS", 3)

    other, again = replayed(settings, log)

    assert outputs == again
    assert folded_rows(other) == folded_rows(replay)


def test_events_of_one_arrival_time_are_folded_in_the_order_of_topics_and_else_as_the_log_has_them() -> None:
    log = [LoggedEvent(kind, at, None, value) for at in (1, 2) for kind in reversed(KINDS) for value in (b"a", b"b")]

    found = [(event.record_ms, event.kind, event.value) for event in aligned(log)]

    assert found == [(at, kind, value) for at in (1, 2) for kind in KINDS for value in (b"a", b"b")]
