"""What the transport changes in Faust and aiokafka is still there to be changed, and does what it is changed for."""

import asyncio
import inspect
import socket
import sys
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.consumer.subscription_state import TopicPartitionState
from aiokafka.producer.sender import Sender
from aiokafka.structs import BrokerMetadata
from aiokafka.structs import TopicPartition as AIOKafkaTopicPartition
from faust.exceptions import ConsumerNotStarted
from faust.transport import drivers
from faust.transport.consumer import Consumer as FaustConsumer
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import ConsumerMessage
from mode.utils.queues import FlowControlEvent, FlowControlQueue

from schemas.errors import StartRefused
from stream.kafka import library_patches, transport
from stream.kafka.alignment import Chunk, TopicPartition
from stream.kafka.barrier import lag_of
from stream.kafka.fetch_thread import FETCH_WAIT_MS
from stream.kafka.store import Partition
from stream.kafka.transport import ChunkRecord, ChunkSchema, install
from stream.process.settings import load_settings
from stream.worker.app import FootfallApp
from stream.worker.build_app import build_app
from tests.fakes import FakeSender

CLICKS, VISITS = "shop.clicks.v1", "shop.visits.v1"


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


# ------------------------------------------------------------------------------- what the pinned libraries must have


def test_the_installed_libraries_are_those_whose_internals_were_read() -> None:
    library_patches.check_versions()


def test_a_worker_does_not_start_on_a_library_that_its_patches_were_not_written_for() -> None:
    newer = {"faust-streaming": "0.15.3", "mode-streaming": "0.7.1", "aiokafka": "0.14.1"}

    with pytest.raises(StartRefused, match=r"found aiokafka 0\.14\.1, expected .*pip install .*aiokafka==0\.14\.0"):
        library_patches.check_versions(newer.__getitem__)


@pytest.mark.parametrize(
    ("owner", "name", "expected"),
    [
        (driver.Consumer, "ack", ["self", "message"]),
        (driver.Consumer, "_new_offset", ["self", "tp"]),
        (driver.Consumer, "_add_gap", ["self", "tp", "offset_from", "offset_to"]),
        (driver.Consumer, "_wait_next_records", ["self", "timeout"]),
        (driver.Consumer, "_getmany", ["self", "active_partitions", "timeout"]),
        (driver.Consumer, "perform_seek", ["self"]),
        (driver.Consumer, "on_partitions_revoked", ["self", "revoked"]),
        (driver.Consumer, "verify_event_path", ["self", "now", "tp"]),
        (driver.Consumer, "_new_consumer_thread", ["self"]),
        (driver.Consumer, "_get_active_partitions", ["self"]),
        (driver.AIOKafkaConsumerThread, "_create_worker_consumer", ["self", "transport"]),
        (driver.AIOKafkaConsumerThread, "_fetch_records", ["self", "consumer", "active_partitions", "timeout", "max_records"]),
        (FlowControlEvent, "resume", ["self"]),
        (FlowControlEvent, "clear", ["self"]),
        (library_patches, "_original_send", ["self", "request", "expect_response"]),
        (library_patches, "_original_get_conn", ["self", "node_id", "group", "no_hint"]),
        (library_patches, "_original_heartbeat_routine", ["self"]),
        (library_patches, "_original_do_heartbeat", ["self"]),
        (library_patches, "_original_find_coordinator", ["self", "coordinator_type", "coordinator_key"]),
    ],
)
def test_a_method_that_is_overridden_takes_what_it_took(owner: Any, name: str, expected: list[str]) -> None:
    assert parameters(getattr(owner, name)) == expected


@pytest.mark.parametrize("name", ["_add_gap", "_wait_next_records", "_getmany", "perform_seek", "on_partitions_revoked"])
def test_a_method_that_is_awaited_is_still_a_coroutine(name: str) -> None:
    assert inspect.iscoroutinefunction(inspect.unwrap(getattr(driver.Consumer, name)))


def test_faust_commits_what_a_partitions_acks_and_its_new_offset_say() -> None:
    source = inspect.getsource(FaustConsumer)

    assert "self._new_offset(tp)" in source
    assert "if not self.flow_active:" in inspect.getsource(FaustConsumer._wait_next_records)
    assert "self.scheduler.iterate(records)" in inspect.getsource(FaustConsumer.getmany)


async def test_a_fetched_partition_knows_its_position_and_the_ends_that_a_reader_can_reach() -> None:
    state = TopicPartitionState(SimpleNamespace())

    assert {"lso", "highwater"} <= set(vars(state))
    assert isinstance(TopicPartitionState.position, property)
    assert isinstance(TopicPartitionState.has_valid_position, property)


async def test_a_consumer_reads_its_fetch_wait_and_isolation_only_when_it_starts() -> None:
    consumer = AIOKafkaConsumer()

    assert (consumer._fetch_max_wait_ms, consumer._isolation_level) == (500, "read_uncommitted")
    assert "self._fetch_max_wait_ms" in inspect.getsource(AIOKafkaConsumer.start)
    assert "self._isolation_level" in inspect.getsource(AIOKafkaConsumer.start)
    await consumer.stop()


def test_only_a_question_for_metadata_asks_for_a_connection_of_no_group() -> None:
    assert "self._get_conn(node_id)\n" in inspect.getsource(AIOKafkaClient._metadata_update)
    assert "self._get_conn(node_id, group=group)" in inspect.getsource(AIOKafkaClient.ready)
    assert inspect.getsource(sys.modules[AIOKafkaClient.__module__]).count("self._get_conn(") == 2


def test_faust_waits_a_second_before_it_starts_tables_and_does_nothing_else_then() -> None:
    source = inspect.getsource(library_patches._original_start_tables)
    steps = [line.strip() for line in source.splitlines() if "self." in line]

    assert steps == [
        "await self.sleep(1.0)",
        "if not self.should_stop:",
        "await self._update_channels()",
        "await self.recovery.start()",
    ]


def test_installing_twice_registers_one_transport_and_patches_once() -> None:
    install()
    once = (FlowControlEvent.resume, Sender._find_coordinator, AIOKafkaConnection.send)

    install()

    assert drivers.by_url("chunks://127.0.0.1:9092") is transport.Transport
    assert (FlowControlEvent.resume, Sender._find_coordinator, AIOKafkaConnection.send) == once
    assert library_patches._original_send is not AIOKafkaConnection.send
    assert library_patches._original_find_coordinator is not Sender._find_coordinator


# ------------------------------------------------------------------------------------------------------- flow control


async def test_a_second_resume_does_not_clear_queues() -> None:
    install()
    flow = FlowControlEvent()
    queue: FlowControlQueue[str] = FlowControlQueue(flow_control=flow, clear_on_resume=True)
    flow.resume()
    await queue.put("event of the new assignment")

    flow.resume()

    assert queue.qsize() == 1
    assert flow.is_active()


async def test_the_first_resume_after_a_suspension_clears_queues() -> None:
    install()
    flow = FlowControlEvent(initially_suspended=False)
    queue: FlowControlQueue[str] = FlowControlQueue(flow_control=flow, clear_on_resume=True)
    await queue.put("event of the old assignment")

    flow.suspend()
    flow.resume()

    assert queue.qsize() == 0
    assert flow.is_active()


# --------------------------------------------------------------------------------------------------- acknowledgements


@pytest.fixture(params=[False, True], ids=["plain", "transactions"])
async def app(request: pytest.FixtureRequest) -> AsyncIterator[FootfallApp]:
    app = build_app(load_settings(transactions=request.param), "features", partitions=4)
    yield app
    await app.outbox_producer.stop()


def record_of(topic: str, offset: int) -> ConsumerRecord[None, bytes]:
    return ConsumerRecord(topic, 1, offset, 1_000, 0, None, b"{}", None, -1, 2, ())


def chunk_of(*ends: tuple[str, int]) -> Chunk:
    records = [record_of(topic, end - 1) for topic, end in ends]
    tps = {TopicPartition(topic, 1): end for topic, end in ends}
    return Chunk(records, {tp: end - 1 for tp, end in tps.items()}, tps, 2 * len(records))


def delivered(app: FootfallApp, chunk: Chunk, *, generation: int = 0) -> ConsumerMessage:
    """Deliver a chunk as Faust does: as a message of its last record's topic, tracked until it is acknowledged."""
    record = ChunkRecord(chunk)
    message = app.consumer._to_message(driver.TP(record.topic, record.partition), record)
    message.generation_id = generation
    app.consumer.track_message(message)
    return message


async def test_a_chunks_ack_moves_the_next_offset_of_every_topic_partition_in_it(app: FootfallApp) -> None:
    consumer = app.consumer

    acked = consumer.ack(delivered(app, chunk_of((CLICKS, 7), (VISITS, 3))))

    assert acked
    assert consumer.next_offset == {TopicPartition(CLICKS, 1): 7, TopicPartition(VISITS, 1): 3}
    assert set(consumer._acked) == set(consumer.next_offset)
    assert not consumer._unacked_messages


async def test_faust_commits_the_next_offset_unless_the_barrier_does(app: FootfallApp) -> None:
    app.consumer.ack(delivered(app, chunk_of((CLICKS, 7))))

    found = app.consumer._new_offset(driver.TP(CLICKS, 1))

    assert found == (None if app.transactions else 7)


async def test_stock_faust_commits_over_a_record_in_work_and_ours_only_what_was_acknowledged(app: FootfallApp) -> None:
    consumer, tp = app.consumer, driver.TP(CLICKS, 1)
    consumer._acked[tp] = [1, 2, 3]  # the record at 0 is in work, and nothing was committed before

    stock, ours = FaustConsumer._new_offset(consumer, tp), consumer._new_offset(tp)

    assert (stock, ours) == (4, None)


async def test_an_acked_chunk_of_an_older_generation_is_ignored(app: FootfallApp) -> None:
    message = delivered(app, chunk_of((CLICKS, 7)), generation=3)
    app.consumer_generation_id = 4

    assert not app.consumer.ack(message)
    assert app.consumer.next_offset == {}
    assert message in app.consumer._unacked_messages


async def test_a_chunk_is_acknowledged_once(app: FootfallApp) -> None:
    message = delivered(app, chunk_of((CLICKS, 7)))

    assert [app.consumer.ack(message), app.consumer.ack(message)] == [True, False]


async def test_faust_keeps_no_gaps_of_topics_that_arrive_as_chunks(app: FootfallApp) -> None:
    await app.consumer._add_gap(driver.TP(CLICKS, 1), 0, 1_000_000)

    assert not app.consumer._gap[driver.TP(CLICKS, 1)]


async def test_a_partition_that_was_never_fetched_is_not_read_to_its_end(app: FootfallApp) -> None:
    assert app.consumer.position_and_end(driver.TP(CLICKS, 1)) is None
    assert not app.consumer.read_to_end(driver.TP(CLICKS, 1))


async def test_records_on_their_way_from_the_fetching_thread_to_the_agent_lag(
    app: FootfallApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer, tp, taken, answer = app.consumer, driver.TP(CLICKS, 1), asyncio.Event(), asyncio.Event()
    fetching = AIOKafkaConsumer()
    fetching._subscription.assign_from_user([AIOKafkaTopicPartition(*tp)])
    state = fetching._subscription.subscription.assignment.state_value(AIOKafkaTopicPartition(*tp))
    state.seek(0)
    state.lso = state.highwater = 4
    consumer._thread._consumer = fetching

    async def take(active_partitions: object, timeout: float) -> dict[Any, list[Any]]:
        """Move the position as aiokafka's thread does: before the records are here."""
        records = [] if state.position == state.lso else [record_of(CLICKS, offset) for offset in range(state.position, 4)]
        state.consumed_to(state.lso)
        taken.set()
        await answer.wait()
        return {tp: records} if records else {}

    def lag() -> int:
        return lag_of(consumer, app.alignment)[CLICKS, 1]

    monkeypatch.setattr(consumer._thread, "getmany", take)
    app.rebalancing = False
    assert lag() == 4
    asked = asyncio.create_task(consumer._getmany({tp}, 1.0))
    await taken.wait()
    assert lag() == 4
    answer.set()
    [(_, record)] = list(consumer.scheduler.iterate(await asked))
    assert lag() == 4
    message = delivered(app, record.value)
    assert lag() == 4
    consumer.ack(message)
    assert lag() == 0
    state.lso = state.highwater = 5  # a control record
    assert lag() == 1
    assert await consumer._getmany({tp}, 1.0) == {}
    assert await consumer._getmany({tp}, 1.0) == {}
    assert lag() == 0
    consumer._thread._consumer = None
    await fetching.stop()


async def test_the_fetching_consumer_waits_shortly_and_reads_committed_records_where_there_are_transactions(
    app: FootfallApp,
) -> None:
    consumer = app.consumer._thread._create_worker_consumer(app.transport)

    assert consumer._fetch_max_wait_ms == FETCH_WAIT_MS
    assert consumer._isolation_level == ("read_committed" if app.transactions else "read_uncommitted")


async def test_a_seek_forgets_what_was_fetched_before(app: FootfallApp) -> None:
    app.alignment.add(TopicPartition(CLICKS, 1), [record_of(CLICKS, 0)])

    with pytest.raises(ConsumerNotStarted):  # no consumer runs beneath: only what comes before Faust's own seek is of interest
        await app.consumer.perform_seek()

    assert list(app.alignment.release([TopicPartition(CLICKS, 1)], lambda tp: True)) == []


def fetches(app: FootfallApp, monkeypatch: pytest.MonkeyPatch, *answers: range) -> tuple[asyncio.Event, asyncio.Event]:
    """Let the fetch thread answer with clicks of these offsets; return the events that a fetch began, and that it may end."""
    consumer, tp, began, may_end, left = app.consumer, driver.TP(CLICKS, 1), asyncio.Event(), asyncio.Event(), list(answers)

    async def getmany(active_partitions: object, timeout: float) -> dict[Any, list[Any]]:
        began.set()
        await may_end.wait()
        return {tp: [record_of(CLICKS, offset) for offset in left.pop(0)]}

    async def nothing_to_stop() -> None:
        """Stand for a thread without a fetch."""

    async def no_offsets() -> dict[Any, int | None]:
        return {tp: 0}

    monkeypatch.setattr(consumer._thread, "getmany", getmany)
    monkeypatch.setattr(consumer._thread, "stop_fetch", nothing_to_stop)
    monkeypatch.setattr(consumer, "seek_to_committed", no_offsets)
    monkeypatch.setattr(consumer, "assignment", lambda: {tp})
    monkeypatch.setattr(consumer, "position_and_end", lambda found: (9, 9))
    monkeypatch.setattr(consumer, "highwater", lambda found: 9)
    consumer._set_active_tps({tp})
    app.rebalancing = False
    return began, may_end


async def got(app: FootfallApp) -> list[int]:
    """Return the offsets of one round of Faust's own fetch loop."""
    return [record.offset async for _, message in app.consumer.getmany(1.0) for record in message.value.records]


@pytest.mark.parametrize("meanwhile", ["a rebalance begins", "a rebalance begins and clears", "a seek"])
async def test_records_of_a_fetch_that_a_rebalance_or_a_seek_overtook_are_dropped(
    app: FootfallApp, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    began, may_end = fetches(app, monkeypatch, range(3, 6), range(3))
    taken = asyncio.create_task(got(app))
    await began.wait()

    if meanwhile == "a seek":
        await app.consumer.perform_seek()
    else:
        app.rebalancing = True
        if meanwhile.endswith("clears"):
            app.alignment.clear()
    may_end.set()

    assert await taken == []
    assert not app.alignment.holds(TopicPartition(CLICKS, 1))
    app.rebalancing = False
    assert await got(app) == [0, 1, 2]


async def test_nothing_is_fetched_while_a_seek_is_in_progress(app: FootfallApp, monkeypatch: pytest.MonkeyPatch) -> None:
    began, may_end = fetches(app, monkeypatch, range(3))
    may_end.set()
    found: list[list[int]] = []

    async def seek() -> dict[Any, int | None]:
        found.append(await got(app))
        return {}

    monkeypatch.setattr(app.consumer, "seek_to_committed", seek)
    await app.consumer.perform_seek()

    assert (found, began.is_set()) == ([[]], False)
    assert await got(app) == [0, 1, 2]


async def test_a_seek_ends_a_fetch_that_waits_in_the_thread(app: FootfallApp, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = asyncio.Event()

    async def wait_forever(*args: object, **kwargs: object) -> None:
        waits.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", wait_forever)
    fetching = asyncio.create_task(app.consumer._thread._fetch_records())
    await waits.wait()
    app.consumer._seeks = 1
    await app.consumer._thread._stop_fetch()

    assert await fetching == {}
    assert await app.consumer._thread._fetch_records() == {}, "a fetch that was queued before the seek fetches nothing"


async def test_the_first_records_of_a_chunk_can_be_acknowledged_alone_but_not_those_of_an_older_generation(
    app: FootfallApp,
) -> None:
    tp = TopicPartition(CLICKS, 1)
    app.consumer_generation_id = 4
    app.consumer.ack_up_to({tp: 7}, 4)
    app.consumer.ack_up_to({tp: 9}, 3)

    assert app.consumer.next_offset == {tp: 7}
    assert app.consumer._acked[driver.TP(*tp)] == [6]


def commits(app: FootfallApp, monkeypatch: pytest.MonkeyPatch, *, end: asyncio.Event | None = None) -> list[dict[Any, int]]:
    """Return what is committed from now on, of offsets that are acknowledged when a commit begins; commits wait for `end`."""
    committed = list[dict[Any, int]]()

    async def commit(topics: object = None, start_new_transaction: bool = True) -> bool:
        committed.append(dict(app.consumer.next_offset))
        if end is not None:
            await end.wait()
        return True

    monkeypatch.setattr(app.consumer, "force_commit", commit)
    return committed


async def test_an_app_that_stops_in_a_rebalance_commits_its_chunks_in_flight_before_it_joins(
    app: FootfallApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object, **__: object) -> None:
        """Stand for what needs a broker."""

    monkeypatch.setattr(app.consumer._thread, "permit_reset", nothing)
    monkeypatch.setattr(app.consumer, "_on_partitions_revoked", nothing)
    committed, tp = commits(app, monkeypatch), TopicPartition(CLICKS, 1)
    message = delivered(app, chunk_of((CLICKS, 7)))
    app._stopped.set()

    revoked = asyncio.create_task(app.consumer.on_partitions_revoked({driver.TP(*tp)}))
    while not revoked.done() and app.consumer._waiting_for_ack is None:
        await asyncio.sleep(0)
    still_waiting = not revoked.done()
    app.consumer.ack(message)
    await revoked

    assert still_waiting
    assert committed[-1] == {tp: 7}


async def test_what_is_acknowledged_while_a_commit_is_in_progress_is_committed_after_it(
    app: FootfallApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = asyncio.Event()
    committed = commits(app, monkeypatch, end=end)
    message = delivered(app, chunk_of((CLICKS, 7)))
    earlier = asyncio.create_task(app.consumer.commit())
    while not committed:
        await asyncio.sleep(0)
    app.consumer.ack(message)

    empty = asyncio.create_task(app.consumer.wait_empty())
    await asyncio.sleep(0)
    end.set()
    await asyncio.gather(earlier, empty)

    assert committed[-1] == {TopicPartition(CLICKS, 1): 7}


async def test_a_seek_that_a_later_one_overtook_moves_nothing(app: FootfallApp) -> None:
    sought: list[int] = []
    app.consumer._thread._consumer = SimpleNamespace(seek=lambda tp, offset: sought.append(offset))
    begun, tp = app.alignment.epoch, AIOKafkaTopicPartition(CLICKS, 1)
    app.alignment.clear()

    await app.consumer._thread._seek_all({tp: 3}, True, begun)
    await app.consumer._thread._seek_all({tp: 5}, True, app.alignment.epoch)

    assert sought == [5]
    app.consumer._thread._consumer = None


async def test_reading_does_not_begin_while_rows_of_a_later_rebalance_are_not_restored(app: FootfallApp) -> None:
    assert app.store is not None
    app.rebalancing, app.store.taken_over = True, False
    app.on_rebalance_end()

    assert app.rebalancing


async def test_the_first_chunk_after_a_seek_begins_at_the_position_and_not_at_its_first_record(app: FootfallApp) -> None:
    tp = TopicPartition(CLICKS, 1)
    app.alignment.resume_at({tp: 4, TopicPartition(VISITS, 1): None})
    app.alignment.add(tp, [record_of(CLICKS, 6)])

    [chunk] = app.alignment.release([tp], lambda found: True)

    assert (chunk.starts, chunk.ends) == ({tp: 4}, {tp: 7})


async def test_an_agent_gets_the_chunk_as_it_is_and_no_key(app: FootfallApp) -> None:
    chunk = chunk_of((CLICKS, 7))
    message = delivered(app, chunk)

    assert ChunkSchema().loads_value(app, message) is chunk
    assert ChunkSchema().loads_key(app, message) is None


# ------------------------------------------------------------------------------------------------- a broker that hangs


async def test_a_broker_that_takes_a_connection_and_answers_nothing_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setattr(library_patches, "LOOKUP_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        async with asyncio.timeout(5):
            with pytest.raises(TimeoutError):
                await create_conn(*hangs.getsockname(), request_timeout_ms=40_000)


@pytest.mark.parametrize("passes", [0, 1, 2])
async def test_a_lookup_that_is_cancelled_when_its_answer_comes_ends_cancelled(passes: int) -> None:
    answer = asyncio.get_running_loop().create_future()
    connection = SimpleNamespace(host="127.0.0.1", port=9092)
    lookup = asyncio.create_task(library_patches._with_lookup_timeout(connection, answer))
    await asyncio.sleep(0)

    answer.set_result("metadata")
    for _ in range(passes):  # of the event loop, on which the answer comes nearer to the lookup
        await asyncio.sleep(0)
    if lookup.cancel():
        with pytest.raises(asyncio.CancelledError):  # or a client that closes waits five minutes, for its next lookup
            await lookup


async def test_what_any_broker_answers_is_not_asked_again_of_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setattr(library_patches, "LOOKUP_SECONDS", 0.05)
    monkeypatch.setattr(library_patches, "hung", {})
    with socket.create_server(("127.0.0.1", 0)) as hangs, socket.create_server(("127.0.0.1", 0)) as other:
        client = AIOKafkaClient()
        client.cluster._brokers = {
            node: BrokerMetadata(node, *server.getsockname(), None) for node, server in enumerate((hangs, other))
        }
        asked = []
        original = library_patches._original_get_conn

        async def connect(self: AIOKafkaClient, node_id: int, **options: Any) -> Any:
            asked.append(node_id)
            return await original(self, node_id, **options)

        monkeypatch.setattr(library_patches, "_original_get_conn", connect)
        assert await client._get_conn(0) is None

        assert await client._get_conn(0) is None
        assert {client.get_random_node() for _ in range(50)} == {1}
        assert asked == [0]
        assert await client._get_conn(0, group=ConnectionGroup.DEFAULT) is None  # its own partitions are asked of it
        assert asked == [0, 0]
        assert await client._get_conn(1) is None
        assert {client.get_random_node() for _ in range(50)} == {0, 1}  # both hang: either may be back
        assert await client._get_conn(0) is None
        assert asked == [0, 0, 1, 0]
        del library_patches.hung[other.getsockname()]
        monkeypatch.setattr(library_patches, "HUNG_SECONDS", 0.0)
        assert {client.get_random_node() for _ in range(50)} == {0, 1}


async def test_a_broker_that_answers_again_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_patches, "hung", {("127.0.0.1", 9092): 0.0, ("127.0.0.1", 9093): 0.0})

    async def answer() -> str:
        return "versions"

    assert await library_patches._with_lookup_timeout(SimpleNamespace(host="127.0.0.1", port=9092), answer()) == "versions"
    assert library_patches.hung == {("127.0.0.1", 9093): 0.0}


# --------------------------------------------------------------------------------------------------------- coordinator


@pytest.mark.parametrize("dropped", [errors.KafkaConnectionError("gone"), errors.NodeNotReadyError()])
async def test_a_connection_that_drops_while_a_coordinator_is_looked_for_is_no_end(dropped: errors.KafkaError) -> None:
    sender = FakeSender(dropped, dropped, 5)

    found = await library_patches._find_coordinator(sender, 1, "footfall-features-0")

    assert found == 5
    assert sender.updates == 2


@pytest.mark.parametrize(
    "fatal", [errors.TransactionalIdAuthorizationFailed("id"), errors.GroupAuthorizationFailedError("group")]
)
async def test_an_error_that_a_retry_cannot_fix_ends_the_lookup(fatal: errors.KafkaError) -> None:
    sender = FakeSender(fatal, 5)

    with pytest.raises(type(fatal)):
        await library_patches._find_coordinator(sender, 1, "footfall-features-0")
    assert sender.updates == 0


# ------------------------------------------------------------------------------------------------------------ take-over


@pytest.fixture
async def taker() -> AsyncIterator[FootfallApp]:
    """A role whose rows of partition 1 rest on 7 clicks."""
    app = build_app(load_settings(transactions=True), "features", partitions=4)
    assert app.store is not None
    app.store.owned[1] = Partition(1, None, offsets={CLICKS: 7})  # type: ignore[arg-type]
    app.store.taken_over = True
    yield app
    await app.outbox_producer.stop()


async def test_a_take_over_waits_for_offsets_of_a_transaction_that_is_being_ended(taker: FootfallApp) -> None:
    tp = TopicPartition(CLICKS, 1)
    answers = iter([{tp: 6}, {tp: 7}])

    async def committed() -> dict[TopicPartition, int | None]:
        return next(answers)  # type: ignore[return-value]

    assert await taker.positions(committed) == ({tp: 7}, {tp: 7})


async def test_a_rebalance_that_begins_while_a_take_over_waits_leaves_positions_to_the_next(taker: FootfallApp) -> None:
    tp = TopicPartition(CLICKS, 1)
    answers = iter([{tp: 6}, {tp: 9}])  # moved, as it seems to rows that no longer speak

    async def committed() -> dict[TopicPartition, int | None]:
        found = next(answers)
        assert taker.store is not None
        taker.store.taken_over = found[tp] != 9
        return found  # type: ignore[return-value]

    assert await taker.positions(committed) == ({tp: 9}, {})
