"""Patch functions of Faust, mode (Faust's service library) and aiokafka in place: fix defects, wait less, use less memory.

docs/explanation/library-patches.md gives the reason for each patch. tests/unit/stream/kafka/test_transport.py fails if a new
library version changes a patched function. Start at patch_libraries.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
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

from schemas.errors import StartRefused

PATCHED = {"faust-streaming": "0.15.3", "mode-streaming": "0.7.1", "aiokafka": "0.14.0"}  # whose internals were read
LOOKUP_SECONDS = 3.0
HUNG_SECONDS = 10.0  # the transaction timeout: within it, at most one lookup waits for the same broker
LOOKUPS = (ApiVersionRequest, MetadataRequest, FindCoordinatorRequest)


class FetchedRecord(Struct, gc=False):
    """Replace aiokafka's record by one without a __dict__: a third of the time to create, and of the memory."""

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


def check_versions(installed: Callable[[str], str] = version) -> None:
    """Compare the installed libraries with those that the patches were written for.

    Raises:
        StartRefused: a version differs, so a patch may no longer fit: records could be lost or counted twice.
    """
    found = {package: installed(package) for package in PATCHED}
    if wrong := [f"{package} {found[package]}" for package in PATCHED if found[package] != PATCHED[package]]:
        pins = " ".join(f"{package}=={expected}" for package, expected in PATCHED.items())
        raise StartRefused(f"found {', '.join(wrong)}, expected the versions that Footfall patches: run `pip install {pins}`")


def patch_libraries() -> None:
    """Install the patches; safe to call twice.

    Raises:
        StartRefused: the libraries have other versions than the patches were written for.

    Flow control: a second resume in Faust cleared queues that held events of the new assignment.
    Transactions: aiokafka treated one dropped connection during a coordinator lookup as fatal.
    Metadata lookups: aiokafka sends them to a random broker. A hung broker blocked it for a whole request timeout, and with
    it new connections to other brokers. Lookups now time out after LOOKUP_SECONDS and retry on another broker.
    Heartbeats: aiokafka does not expose when the broker last answered one.
    Start: Faust waits a second for table declarations, but ours are declared when an app is built.
    """
    check_versions()
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


_original_find_coordinator = Sender._find_coordinator


async def _find_coordinator(self: Any, kind: Any, key: Any) -> Any:
    while True:
        try:
            return await _original_find_coordinator(self, kind, key)
        except KafkaError as error:
            if not getattr(error.__cause__, "retriable", False):
                raise
            await self.client.force_metadata_update()
            await asyncio.sleep(self._retry_backoff)


_original_send = AIOKafkaConnection.send


def _send(self: Any, request: Any, expect_response: bool = True) -> Any:
    sent = _original_send(self, request, expect_response)
    return _with_lookup_timeout(self, sent) if isinstance(request, LOOKUPS) else sent


hung: dict[tuple[str, int], float] = {}  # (host, port) of a broker that did not answer a lookup → monotonic seconds


async def _with_lookup_timeout(connection: Any, sent: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(LOOKUP_SECONDS):
            answer = await sent
    except TimeoutError:
        hung[connection.host, connection.port] = time.monotonic()
        raise
    hung.pop((connection.host, connection.port), None)
    return answer


def _is_hung(client: Any, node_id: Any) -> bool:
    broker = client.cluster.broker_metadata(node_id)
    at = None if broker is None else hung.get((broker.host, broker.port))
    return at is not None and time.monotonic() - at < HUNG_SECONDS


def _responsive_nodes(client: Any) -> list[Any]:
    """Return the brokers that are not hung, or all if all are: one of them may have recovered."""
    nodes = [broker.nodeId for broker in client.cluster.brokers()]
    return [node for node in nodes if not _is_hung(client, node)] or nodes


_original_get_conn = AIOKafkaClient._get_conn


async def _get_conn(self: Any, node_id: Any, *, group: Any = None, no_hint: bool = False) -> Any:
    """Connect, but skip a hung broker for lookups that any broker can answer: only they pass no group."""
    if group is None and _is_hung(self, node_id) and node_id not in _responsive_nodes(self):
        return None
    return await _original_get_conn(self, node_id, group=ConnectionGroup.DEFAULT if group is None else group, no_hint=no_hint)


def _get_random_node(self: Any) -> Any:
    nodes = _responsive_nodes(self)
    return random.choice(nodes) if nodes else None


_original_heartbeat_routine = GroupCoordinator._heartbeat_routine
_original_do_heartbeat = GroupCoordinator._do_heartbeat


async def _heartbeat_routine(self: Any) -> None:
    self.answered_at = time.monotonic()  # starts right after the broker acknowledged the join
    await _original_heartbeat_routine(self)


async def _do_heartbeat(self: Any) -> bool:
    answered: bool = await _original_do_heartbeat(self)
    if answered:
        self.answered_at = time.monotonic()
    return answered


_original_start_tables = TableManager.on_start


async def _start_tables(self: Any) -> None:
    if not self.should_stop:
        await self._update_channels()
        await self.recovery.start()
