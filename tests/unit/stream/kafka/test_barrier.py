"""What was folded becomes durable in one order: outputs, then rows with their offsets, then acknowledgements."""

import asyncio
from typing import Any

import aiokafka
import msgspec
import pytest

from schemas.codec import encode
from schemas.dead_letter import headers_of
from schemas.errors import BrokerError
from stream.fold.records import Folded, Output, PartitionTotals
from stream.kafka.alignment import Chunk, TopicPartition
from stream.kafka.barrier import SLICE_ROWS, Barrier, Outbox
from stream.kafka.store import END_KEY, META_KEY, MetaRow, Partition
from stream.offline.replay_log import LogRecord
from tests.builders import NOW_MS, ad_trigger, dead_letter, score_request
from tests.fakes import FakeEvent, FakeProducer, FakeStore

NAMES = {"score-request": "requests", "ad-trigger": "triggers", "click.dlq": "clicks.dlq"}
CLICKS = "clicks"
REQUEST = Output("score-request", 0, NOW_MS, b"u-1", score_request())
TRIGGER = Output("ad-trigger", 0, NOW_MS, b"u-1", ad_trigger())


class Bench:
    """A barrier over partitions 0 and 1, every call of all doubles in one list; `chunk` folds and adds a chunk."""

    def __init__(self, *, transactions: bool = True, holding: bool = False, batch_records: int = 100, **limits: float) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.outputs = FakeProducer(self.calls, holding=holding)
        self.rows = [FakeProducer(self.calls, batch_records=batch_records) for _ in range(2)]
        self.partitions = [Partition(n, producer) for n, producer in enumerate(self.rows)]  # type: ignore[arg-type]
        self.store = FakeStore(*self.partitions, transactions=transactions)
        self.barrier = Barrier(
            self.store,  # type: ignore[arg-type]
            Outbox(self.outputs, NAMES),
            changelog="changelog",
            encode_row=lambda row: row,
            interval_seconds=3600.0,
            **{"max_events": 1000, "max_bytes": 1_000_000} | limits,
        )

    def chunk(self, name: str, *, first: int = 0, records: int = 1, partition: int = 0, **folded: Any) -> None:
        """Count a chunk's records as applied in the partition's totals, and add it, as one step of an agent does."""
        owner, tp = self.partitions[partition], TopicPartition(CLICKS, partition)
        batch = [LogRecord(CLICKS, partition, first + n, NOW_MS, None, b"12345") for n in range(records)]
        owner.totals.events.events_in += records
        owner.totals.events.applied += records
        chunk = Chunk(batch, {tp: first}, {tp: first + records}, 5 * records)
        self.barrier.add(FakeEvent(name, chunk, self.calls), owner, Folded(**{"dirty": {b"u-1": b"row"}} | folded))

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


def meta_of(rows: list[tuple[bytes, bytes]]) -> MetaRow:
    return msgspec.msgpack.decode(dict(rows)[META_KEY], type=MetaRow)


async def settle() -> None:
    """Let every task run until it waits for something outside."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_flush_sends_outputs_then_one_transaction_of_rows_meta_and_offsets_then_acknowledges() -> None:
    bench = Bench()
    bench.chunk("first", records=2, outputs=[REQUEST], with_rows=[TRIGGER])

    await bench.barrier.flush()

    assert bench.calls == [
        ("send_batch", "requests", [b"u-1"]),
        ("begin",),
        ("send", "triggers", b"u-1"),
        ("send_batch", "changelog", [b"u-1", META_KEY]),
        ("offsets", {aiokafka.TopicPartition(CLICKS, 0): 2}, "footfall-features"),
        ("commit",),
        ("ack", "first"),
    ]


async def test_no_transaction_begins_before_every_output_is_acknowledged() -> None:
    bench = Bench(holding=True)
    bench.chunk("first", outputs=[REQUEST])

    flush = asyncio.create_task(bench.barrier.flush())
    await settle()
    before = bench.names()
    bench.outputs.acknowledge()
    await flush

    assert before == ["send_batch"]
    assert bench.names() == ["send_batch", "begin", "send_batch", "offsets", "commit", "ack"]


async def test_a_flush_while_outputs_are_on_their_way_covers_exactly_the_chunks_added() -> None:
    bench = Bench(holding=True)
    bench.chunk("first", records=3, outputs=[REQUEST])

    flush = asyncio.create_task(bench.barrier.flush())
    await settle()
    bench.chunk("second", first=3, records=4, dirty={b"u-2": b"row"}, outputs=[REQUEST])
    bench.outputs.acknowledge()
    await flush
    await bench.barrier.flush()

    committed = [
        (meta_of(rows).totals.events.applied, meta_of(rows).offsets[CLICKS], *offsets.values())
        for offsets, rows in bench.rows[0].committed
    ]
    assert committed == [(3, 3, 3), (7, 7, 7)]
    assert [sorted(dict(rows)) for _, rows in bench.rows[0].committed] == [[META_KEY, b"u-1"], [META_KEY, b"u-2"]]
    assert [call for call in bench.calls if call[0] == "ack"] == [("ack", "first"), ("ack", "second")]


async def test_a_chunk_whose_outputs_are_still_being_sent_is_in_the_totals_only_with_its_offsets() -> None:
    bench = Bench()
    bench.chunk("first", records=3)
    bench.outputs.holding = True
    bench.chunk("second", first=3, records=4, outputs=[REQUEST])

    flush = asyncio.create_task(bench.barrier.flush())
    await settle()
    committed_while_sending = list(bench.rows[0].committed)
    bench.outputs.acknowledge()
    await flush

    assert committed_while_sending == []
    [(offsets, rows)] = bench.rows[0].committed
    assert meta_of(rows).totals.events.applied == meta_of(rows).offsets[CLICKS] == sum(offsets.values()) == 7


async def test_a_row_that_changes_during_a_flush_is_committed_as_it_was_when_the_flush_began() -> None:
    bench = Bench(holding=True)
    row = bytearray(b"before")
    bench.barrier._encode_row = bytes  # rows are mutable: encoding copies them
    bench.chunk("first", dirty={b"u-1": row}, outputs=[REQUEST])

    flush = asyncio.create_task(bench.barrier.flush())
    await settle()
    row[:] = b"after!"
    bench.outputs.acknowledge()
    await flush

    assert dict(bench.rows[0].committed[0][1])[b"u-1"] == b"before"


async def test_chunks_of_one_partition_commit_every_row_and_the_last_offset_of_each_topic_once() -> None:
    bench = Bench()
    for number in range(3):
        bench.chunk(f"chunk-{number}", first=number, dirty={b"u-%d" % (number % 2): b"row"})

    await bench.barrier.flush()

    [(offsets, rows)] = bench.rows[0].committed
    assert offsets == {aiokafka.TopicPartition(CLICKS, 0): 3}
    assert [key for key, _ in rows] == [b"u-0", b"u-1", META_KEY]
    assert bench.names()[-3:] == ["ack", "ack", "ack"]


async def test_every_partition_commits_by_its_own_producer_and_all_are_acknowledged_after_the_last_commit() -> None:
    bench = Bench()
    bench.chunk("zero")
    bench.chunk("one", partition=1)

    await bench.barrier.flush()

    assert [len(producer.committed) for producer in bench.rows] == [1, 1]
    assert bench.names()[-4:].count("commit") == 2 - bench.names()[:-4].count("commit")
    assert bench.names()[-2:] == ["ack", "ack"]


async def test_rows_that_fill_a_batch_go_on_in_the_next_and_none_is_lost() -> None:
    bench = Bench(batch_records=2)
    bench.chunk("first", dirty={b"u-%d" % n: b"row" for n in range(5)})

    await bench.barrier.flush()

    sent = [call[2] for call in bench.calls if call[0] == "send_batch"]
    assert sent == [[b"u-0", b"u-1"], [b"u-2", b"u-3"], [b"u-4", META_KEY]]


@pytest.mark.parametrize("step", ["begin", "send_batch", "offsets", "commit"])
async def test_a_commit_that_fails_acknowledges_nothing_and_raises(step: str) -> None:
    bench = Bench()
    bench.rows[0].failure[step] = aiokafka.errors.ProducerFenced()
    bench.chunk("first")

    with pytest.raises(aiokafka.errors.ProducerFenced):
        await bench.barrier.flush()

    assert "ack" not in bench.names()
    assert bench.rows[0].committed == []
    assert bench.partitions[0].committed() == PartitionTotals()


async def test_a_transaction_is_not_committed_before_all_its_rows_are_acknowledged_and_never_without_one_that_was_refused() -> (
    None
):
    bench = Bench(batch_records=1)
    bench.rows[0].holding = True
    bench.chunk("first", dirty={b"u-1": b"row", b"u-2": b"a row that is too large"})
    flush = asyncio.create_task(bench.barrier.flush())
    await settle()

    bench.rows[0].fail(aiokafka.errors.MessageSizeTooLargeError())

    with pytest.raises(aiokafka.errors.MessageSizeTooLargeError):
        await flush
    assert not {"commit", "ack"} & set(bench.names())


@pytest.mark.parametrize("waiting", ["outputs", "rows"])
async def test_a_flush_that_the_broker_never_acknowledges_ends_in_time(waiting: str) -> None:
    bench = Bench(timeout_seconds=0.05)
    producer = bench.outputs if waiting == "outputs" else bench.rows[0]
    producer.holding = True
    bench.chunk("first", outputs=[REQUEST])

    with pytest.raises(BrokerError, match="no acknowledgement of rows and outputs within 0.05 s"):
        await bench.barrier.flush()

    assert "ack" not in bench.names()


async def test_an_output_that_fails_begins_no_transaction_and_raises() -> None:
    bench = Bench(holding=True)
    bench.chunk("first", outputs=[REQUEST])
    flush = asyncio.create_task(bench.barrier.flush())
    await settle()

    bench.outputs.fail(aiokafka.errors.RecordTooLargeError())

    with pytest.raises(aiokafka.errors.RecordTooLargeError):
        await flush
    assert bench.names() == ["send_batch"]


async def test_a_run_ends_with_the_error_of_its_flush() -> None:
    bench = Bench(max_events=1)
    bench.rows[0].failure["commit"] = aiokafka.errors.ProducerFenced()
    bench.chunk("first", records=2)
    waiting = asyncio.create_task(bench.barrier.wait_for_capacity())

    with pytest.raises(aiokafka.errors.ProducerFenced):
        await bench.barrier.run()
    waiting.cancel()


async def test_chunks_of_a_partition_that_left_are_neither_committed_nor_acknowledged() -> None:
    bench = Bench()
    bench.chunk("left")
    bench.chunk("stayed", partition=1)
    del bench.store.owned[0]

    await bench.barrier.flush()

    assert [len(producer.committed) for producer in bench.rows] == [0, 1]
    assert [call for call in bench.calls if call[0] == "ack"] == [("ack", "stayed")]


async def test_chunks_of_an_earlier_stay_of_a_partition_are_not_committed_when_it_comes_back() -> None:
    bench = Bench()
    bench.chunk("before")
    again = FakeProducer(bench.calls)
    bench.partitions[0] = bench.store.owned[0] = Partition(0, again)  # type: ignore[arg-type]

    await bench.barrier.flush()
    nothing = list(again.committed)
    bench.chunk("late", first=1)
    bench.partitions[0] = bench.store.owned[0] = Partition(0, again)  # type: ignore[arg-type]
    bench.chunk("after", first=10)
    await bench.barrier.flush()

    assert (bench.rows[0].committed, nothing) == ([], [])
    assert [offsets for offsets, _ in again.committed] == [{aiokafka.TopicPartition(CLICKS, 0): 11}]
    assert [call for call in bench.calls if call[0] == "ack"] == [("ack", "after")]


async def test_a_flush_with_nothing_pending_sends_nothing() -> None:
    bench = Bench()

    await bench.barrier.flush()

    assert bench.calls == []


@pytest.mark.parametrize("limit", [{"max_events": 3}, {"max_bytes": 15}])
async def test_room_is_there_up_to_the_limit_and_beyond_it_comes_with_the_next_flush(limit: dict[str, int]) -> None:
    bench = Bench(**limit)
    bench.chunk("first", records=3)
    await bench.barrier.wait_for_capacity()

    bench.chunk("second", first=3)
    waiting = asyncio.create_task(bench.barrier.wait_for_capacity())
    await settle()
    waited = not waiting.done()
    await bench.barrier.flush()
    await waiting

    assert waited


async def test_a_fold_without_room_makes_the_barrier_flush_before_its_interval() -> None:
    bench = Bench(max_events=1)
    bench.chunk("first", records=2)
    running = asyncio.create_task(bench.barrier.run())

    await bench.barrier.wait_for_capacity()
    running.cancel()

    assert bench.names()[-1] == "ack"


async def test_drained_waits_for_the_flush_on_its_way_and_makes_the_rest_durable() -> None:
    bench = Bench(holding=True)
    bench.chunk("first", outputs=[REQUEST])
    flush = asyncio.create_task(bench.barrier.flush())
    await settle()
    bench.chunk("second", first=1)

    draining = asyncio.create_task(bench.barrier.drained())
    await settle()
    waited = not draining.done()
    bench.outputs.acknowledge()
    await draining
    await flush

    assert waited
    assert [call[1] for call in bench.calls if call[0] == "ack"] == ["first", "second"]


async def test_a_commit_shows_in_the_committed_totals_and_what_is_only_folded_does_not() -> None:
    bench = Bench()
    bench.chunk("first", records=3)
    before = bench.partitions[0].committed().events.applied

    await bench.barrier.flush()
    bench.chunk("second", first=3)

    assert (before, bench.partitions[0].committed().events.applied) == (0, 3)


async def test_without_transactions_rows_are_sent_plainly_end_with_a_batch_of_one_record_and_are_then_acknowledged() -> None:
    bench = Bench(transactions=False)
    bench.chunk("first", outputs=[REQUEST], with_rows=[TRIGGER])

    await bench.barrier.flush()

    assert bench.calls == [
        ("send_batch", "requests", [b"u-1"]),
        ("send", "triggers", b"u-1"),
        ("send_batch", "changelog", [b"u-1", META_KEY]),
        ("send_batch", "changelog", [END_KEY]),
        ("ack", "first"),
    ]


async def test_without_transactions_rows_that_no_broker_has_acknowledged_are_not_acknowledged_either() -> None:
    bench = Bench(transactions=False)
    bench.rows[0].holding = True
    bench.chunk("first")

    flush = asyncio.create_task(bench.barrier.flush())
    await settle()
    before = bench.names()
    bench.rows[0].acknowledge()
    await flush

    assert before == ["send_batch"]
    assert bench.names() == ["send_batch", "send_batch", "ack"]


async def test_outputs_are_sent_in_the_order_in_which_they_were_posted() -> None:
    producer = FakeProducer()
    outbox = Outbox(producer, NAMES)  # type: ignore[arg-type]

    posted = [outbox.post([Output("score-request", 0, NOW_MS, b"u-%d" % n, score_request())] * 2) for n in range(3)]
    await asyncio.gather(*posted)

    assert [keys for _, _, keys in producer.calls] == [[b"u-0"] * 2, [b"u-1"] * 2, [b"u-2"] * 2]


def test_a_dead_letter_is_rendered_with_its_original_bytes_and_its_reason_in_headers() -> None:
    letter = dead_letter()

    rendered = Outbox(FakeProducer(), NAMES).render(Output("click.dlq", 0, NOW_MS, b"u-1", letter))  # type: ignore[arg-type]

    assert rendered == ("clicks.dlq", letter.key, letter.value, NOW_MS, list(headers_of(letter)))


def test_a_message_is_rendered_as_json_under_its_key() -> None:
    rendered = Outbox(FakeProducer(), NAMES).render(REQUEST)  # type: ignore[arg-type]

    assert rendered == ("requests", b"u-1", encode(REQUEST.message), NOW_MS, [])


async def test_other_work_goes_on_while_a_large_barrier_is_encoded_and_the_fold_waits_for_its_end() -> None:
    bench, turns = Bench(), 0
    bench.chunk("first", dirty={b"u-%d" % n: b"row" for n in range(10 * SLICE_ROWS)})

    async def tick() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    ticking = asyncio.create_task(tick())
    flush = asyncio.create_task(bench.barrier.flush())
    await asyncio.sleep(0)
    folding = asyncio.create_task(bench.barrier.wait_encoded())
    await asyncio.sleep(0)
    waited = not folding.done() and not bench.rows[0].committed
    await folding
    before = turns
    await flush
    ticking.cancel()

    assert waited
    assert before >= 8, "one turn of the event loop per slice"
    assert len(bench.rows[0].committed) == 1
