"""What is changed in the libraries beneath, in place: defects and waits of theirs, slim records, when a broker answered.

tests/unit/stream/kafka/test_transport.py fails when a new version no longer has what is changed. Start at mend.
"""

import asyncio
import random
import time
from collections.abc import Awaitable
from typing import Any

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import KafkaError
from aiokafka.producer.sender import Sender
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from faust.tables.manager import TableManager
from mode.utils.queues import FlowControlEvent
from msgspec import Struct

LOOKUP_SECONDS = 3.0
HUNG_SECONDS = 10.0  # as long as a transaction may take: within it one question at most waits for the same broker
LOOKUPS = (ApiVersionRequest, MetadataRequest, FindCoordinatorRequest)


class FetchedRecord(Struct, gc=False):
    """aiokafka's record without a dictionary of its own: a third of the time to make, and of the memory."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    checksum: int | None
    serialized_key_size: int
    serialized_value_size: int
    headers: tuple[tuple[str, bytes], ...]


def mend() -> None:
    """Put the changes in place; safe to call twice.

    A second resume of Faust's flow control cleared queues that held events of the new assignment. aiokafka took one
    dropped connection while it looked for a transaction coordinator as fatal. It asks brokers at random where things lie,
    and one that hangs held it up for as long as any request may take, new connections to the others too: now for a few
    seconds, and the next question goes to another. Its records are made slim. And it keeps to itself when the broker last
    answered a heartbeat. Faust waits a second for tables that might still be declared: ours are there when an app is built.
    """
    FlowControlEvent.resume = _resume_once
    PartitionRecords._consumer_record = _fetched_record
    Sender._find_coordinator = _find_coordinator
    GroupCoordinator._heartbeat_routine = _heartbeat_routine
    GroupCoordinator._do_heartbeat = _do_heartbeat
    TableManager.on_start = _start_tables
    AIOKafkaConnection.send = _send
    AIOKafkaClient._get_conn = _get_conn
    AIOKafkaClient.get_random_node = _get_random_node


def _fetched_record(self: Any, tp: Any, record: Any) -> FetchedRecord:
    key, value, headers = record.key, record.value, record.headers
    return FetchedRecord(
        tp[0],
        tp[1],
        record.offset,
        record.timestamp,
        record.timestamp_type,
        key,
        value,
        record.checksum,
        -1 if key is None else len(key),
        -1 if value is None else len(value),
        tuple(headers) if headers else (),
    )


def _resume_once(self: Any) -> None:
    if self._suspend.is_set():
        self._suspend.clear()
        self._resume.set()
        self.clear()


_find_coordinator_once = Sender._find_coordinator


async def _find_coordinator(self: Any, kind: Any, key: Any) -> Any:
    while True:
        try:
            return await _find_coordinator_once(self, kind, key)
        except KafkaError as error:
            if not getattr(error.__cause__, "retriable", False):
                raise
            await self.client.force_metadata_update()
            await asyncio.sleep(self._retry_backoff)


_send_once = AIOKafkaConnection.send


def _send(self: Any, request: Any, expect_response: bool = True) -> Any:
    sent = _send_once(self, request, expect_response)
    return _answered(self, sent) if isinstance(request, LOOKUPS) else sent


hung: dict[tuple[str, int], float] = {}  # host and port of brokers that left a question unanswered, and when


async def _answered(connection: Any, sent: Awaitable[Any]) -> Any:
    try:
        answer = await asyncio.wait_for(sent, LOOKUP_SECONDS)
    except TimeoutError:
        hung[connection.host, connection.port] = time.monotonic()
        raise
    hung.pop((connection.host, connection.port), None)
    return answer


def _hangs(client: Any, node_id: Any) -> bool:
    broker = client.cluster.broker_metadata(node_id)
    at = None if broker is None else hung.get((broker.host, broker.port))
    return at is not None and time.monotonic() - at < HUNG_SECONDS


def _to_ask(client: Any) -> list[Any]:
    """Return the brokers that do not hang, or all when all do: one of them may be back."""
    nodes = [broker.nodeId for broker in client.cluster.brokers()]
    return [node for node in nodes if not _hangs(client, node)] or nodes


_get_conn_once = AIOKafkaClient._get_conn


async def _get_conn(self: Any, node_id: Any, *, group: Any = None, no_hint: bool = False) -> Any:
    """Connect; a question that any broker answers, which alone names no group, passes over one that hangs."""
    if group is None and _hangs(self, node_id) and node_id not in _to_ask(self):
        return None
    return await _get_conn_once(self, node_id, group=ConnectionGroup.DEFAULT if group is None else group, no_hint=no_hint)


def _get_random_node(self: Any) -> Any:
    nodes = _to_ask(self)
    return random.choice(nodes) if nodes else None


_heartbeat_routine_once = GroupCoordinator._heartbeat_routine
_do_heartbeat_once = GroupCoordinator._do_heartbeat


async def _heartbeat_routine(self: Any) -> None:
    self.answered_at = time.monotonic()  # it begins where the broker has answered that this worker joined
    await _heartbeat_routine_once(self)


async def _do_heartbeat(self: Any) -> bool:
    answered: bool = await _do_heartbeat_once(self)
    if answered:
        self.answered_at = time.monotonic()
    return answered


_start_tables_after_a_second = TableManager.on_start


async def _start_tables(self: Any) -> None:
    if not self.should_stop:
        await self._update_channels()
        await self.recovery.start()
