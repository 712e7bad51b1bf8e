"""Define all test doubles: a clock, a transactional producer, a consumer, a store and a sender, code with bugs, and a model.

Start at FakeProducer.
"""

import asyncio
from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.protocol import admin
from aiokafka.protocol.metadata import MetadataRequest, MetadataResponse_v1

from models.features.spec import FEATURE_SPEC
from schemas.scoring import ScoreRequest
from stream.kafka.alignment import Chunk
from stream.kafka.store import Partition
from stream.roles.features_fold import FeaturesFold
from stream.roles.scoring_policy import ScoringPolicy
from stream.roles.trigger_policy import TriggerPolicy


class FakeClock:
    """A clock that advances only when a test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeBatch:
    """Stands in for aiokafka's batch builder in the barrier; `limit` records fit."""

    def __init__(self, limit: int) -> None:
        self.records: list[tuple[bytes, bytes]] = []
        self._limit, self.closed = limit, False

    def append(self, *, key: bytes, value: bytes, timestamp: int, headers: Any) -> object | None:
        """Add one record, or return None when the batch is full."""
        assert not self.closed
        if len(self.records) == self._limit:
            return None
        self.records.append((key, value))
        return object()

    def record_count(self) -> int:
        return len(self.records)

    def close(self) -> None:
        self.closed = True


class FakeProducer:
    """Records every call in `calls`; a send is acknowledged at once, or by `acknowledge` when `holding`."""

    def __init__(self, calls: list[tuple[Any, ...]] | None = None, *, holding: bool = False, batch_records: int = 100) -> None:
        self.calls: list[tuple[Any, ...]] = [] if calls is None else calls
        self.holding, self.failure = holding, dict[str, Exception]()
        self._batch_records, self._waiting = batch_records, list[asyncio.Future[Any]]()
        self.committed: list[tuple[dict[Any, int], list[tuple[bytes, bytes]]]] = []
        self._offsets: dict[Any, int] = {}
        self._rows: list[tuple[bytes, bytes]] = []

    def acknowledge(self) -> None:
        """Acknowledge every pending send, and hold no more."""
        self.holding, waiting, self._waiting = False, self._waiting, []
        for future in waiting:
            future.set_result(None)

    def fail(self, error: Exception) -> None:
        """Fail every pending send."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            future.set_exception(error)

    async def send(self, topic: str, value: Any, *, key: Any, partition: int, timestamp_ms: int, headers: Any) -> Any:
        await asyncio.sleep(0)  # like aiokafka, it may yield to other tasks
        self._call("send", topic, key)
        return self._answer()

    def create_batch(self) -> FakeBatch:
        return FakeBatch(self._batch_records)

    async def send_batch(self, batch: FakeBatch, topic: str, *, partition: int) -> Any:
        assert batch.closed
        await asyncio.sleep(0)  # like aiokafka, it may yield to other tasks
        self._call("send_batch", topic, [key for key, _ in batch.records])
        self._rows += batch.records
        return self._answer()

    async def begin_transaction(self) -> None:
        self._call("begin")
        self._offsets, self._rows = {}, []

    async def send_offsets_to_transaction(self, offsets: dict[Any, int], group: str) -> None:
        self._call("offsets", dict(offsets), group)
        self._offsets = dict(offsets)

    async def commit_transaction(self) -> None:
        self._call("commit")
        self.committed.append((self._offsets, self._rows))

    def _call(self, name: str, *facts: Any) -> None:
        if name in self.failure:
            raise self.failure[name]
        self.calls.append((name, *facts))

    def _answer(self) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        if self.holding:
            self._waiting.append(future)
        else:
            future.set_result(None)
        return future


class FakeConsumer:
    """A consumer whose fetches are scripted: each is the records of one getmany() and the high watermarks after it."""

    def __init__(self, *fetches: tuple[dict[TopicPartition, list[Any]], dict[TopicPartition, int]]) -> None:
        self._fetches = list(fetches)
        self._position: dict[TopicPartition, int] = {}
        self._highwater: dict[TopicPartition, int] = {}

    def assign(self, partitions: list[TopicPartition]) -> None:
        self._position = dict.fromkeys(partitions, 0)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._position[partition] = offset

    async def getmany(self, *partitions: TopicPartition, timeout_ms: int, max_records: int | None) -> dict[Any, list[Any]]:
        records, watermarks = self._fetches.pop(0)
        self._highwater.update(watermarks)
        found = {tp: records[tp] for tp in partitions if tp in records}
        self._position.update({tp: batch[-1].offset + 1 for tp, batch in found.items()})
        return found

    async def position(self, partition: TopicPartition) -> int:
        return self._position[partition]

    def highwater(self, partition: TopicPartition) -> int | None:
        return self._highwater.get(partition)


class FakeStore:
    """The partitions assigned to a worker, as the barrier sees them."""

    def __init__(self, *partitions: Partition, transactions: bool = True) -> None:
        self.owned = {partition.number: partition for partition in partitions}
        self.settings = SimpleNamespace(transactions=transactions, partitioner="murmur2")
        self.app = SimpleNamespace(conf=SimpleNamespace(id="footfall-features"))
        self.partitions = len(partitions)


class FakeEvent:
    """A stream's event that holds a chunk; an acknowledgement is a call like the producer's."""

    def __init__(self, name: str, chunk: Chunk, calls: list[tuple[Any, ...]]) -> None:
        self.value, self._name, self._calls = chunk, name, calls

    def ack(self) -> None:
        self._calls.append(("ack", self._name))


class FakeSender:
    """Stands in for aiokafka's sender in a coordinator lookup; it returns the given answers in turn."""

    def __init__(self, *answers: int | Exception) -> None:
        self._answers, self.client, self._coordinators = list(answers), self, dict[Any, int]()
        self._txn_manager, self._retry_backoff = SimpleNamespace(transactional_id="footfall-features-0"), 0.0
        self.updates = 0

    async def coordinator_lookup(self, kind: Any, key: Any) -> int:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def force_metadata_update(self) -> None:
        self.updates += 1

    async def ready(self, node: int, *, group: Any) -> bool:
        return True


class BrokenPolicy:
    """A scoring policy with a bug: it raises on events with some ids, before their row is changed."""

    def __init__(self, ids: set[str | None]) -> None:
        self._ids, self._sound = ids, ScoringPolicy()

    def is_due(self, kind: int, event: Any, record_ms: int, past: Any) -> str | None:
        if event.event_id in self._ids:
            raise ZeroDivisionError("division by zero")
        return self._sound.is_due(kind, event, record_ms, past)


class BrokenRates(dict[str, float]):
    """Rates with a bug: one is present when looked up, but missing when an amount is summed, in the middle of a purchase."""

    def __init__(self, rates: dict[str, float], gone: str) -> None:
        super().__init__(rates | {gone: 1.0})
        self._gone = gone

    def __getitem__(self, currency: str) -> float:
        if currency == self._gone:
            raise KeyError(currency)
        return super().__getitem__(currency)


class BrokenRequests(FeaturesFold):
    """A fold with a bug: it raises while rendering the score requests of some events, after their row was changed."""

    broken: set[str | None]

    def request(self, kind: int, event: Any, record: Any, state: Any, due: str, folded_ms: int) -> Any:
        if event.event_id in self.broken:
            raise AttributeError(f"no attribute of {event.user_id}")
        return super().request(kind, event, record, state, due, folded_ms)


class BrokenTriggers:
    """A trigger policy with a bug: it raises on some signals after it has recorded that a campaign fired."""

    def __init__(self, sound: TriggerPolicy, signal_ids: set[str]) -> None:
        self._sound, self._ids = sound, signal_ids

    def decide(self, signal: Any, last_fired_ms: dict[str, int], arrived_ms: int, decided_ms: int) -> Any:
        decisions = self._sound.decide(signal, last_fired_ms, arrived_ms, decided_ms)
        if signal.signal_id in self._ids:
            raise IndexError("list index out of range")
        return decisions


class FixedScorer:
    """A model whose scores depend only on the request's id, with a fixed error for one user."""

    labels = ("garden", "kitchen")
    horizons_days, churn_days = (7, 30), 30
    spec_version, features = FEATURE_SPEC.version, FEATURE_SPEC.references

    def __init__(self, model_version: str = "fixed-1", *, off_by: float = 0.0, user: str = "") -> None:
        self.model_version, self._off_by, self._user = model_version, off_by, user

    def score(self, requests: Sequence[ScoreRequest]) -> list[Any]:
        return [self._scores(request) for request in requests]

    def _scores(self, request: ScoreRequest) -> Any:
        from models.serving.scorer import Scores  # imports torch, which no other double needs

        drawn = Random(request.request_id).random() / 2 + (self._off_by if request.user_id == self._user else 0.0)
        sentiment = drawn if request.kind == "review" and request.text else None
        return Scores([("kitchen", drawn), ("garden", drawn / 2)], [drawn, drawn / 2], sentiment)


class CutOff:
    """Training curves that interrupt the run at its first validation."""

    def add(self, name: str, value: float, step: int) -> None:
        raise KeyboardInterrupt


class FakeListener:
    """A listener of a Kafka broker that answers a client's first requests: API versions, SASL and metadata.

    With `mechanisms` it asks for SASL, as Kafka does: it closes a connection that asks for metadata first. `refusal` is the
    error code of each authentication. It closes a connection that sends anything but Kafka's protocol.
    """

    def __init__(self, *, mechanisms: Sequence[str] = (), refusal: int = 0) -> None:
        self._mechanisms, self._refusal = list(mechanisms), refusal
        self.payloads: list[bytes] = []  # of SASL authentications

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until it ends."""
        try:
            while (size := int.from_bytes(await reader.readexactly(4))) < 1 << 20:
                answer = self._answer(await reader.readexactly(size))
                if answer is None:
                    break
                writer.write(len(answer).to_bytes(4) + answer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the client has gone, or the test ends
        finally:
            writer.close()

    def _answer(self, request: bytes) -> bytes | None:
        key, version, correlation = int.from_bytes(request[:2]), int.from_bytes(request[2:4]), request[4:8]
        body = request[10 + max(0, int.from_bytes(request[8:10], signed=True)) :]
        if key == admin.ApiVersionRequest.API_KEY:
            apis = [(key, 0, 0), (MetadataRequest.API_KEY, 0, 1), (17, 0, 1), (36, 0, 0)]
            answers = (admin.ApiVersionResponse_v0(0, apis), admin.ApiVersionResponse_v1(0, apis, 0))
            return correlation + answers[min(version, 1)].encode()
        if key == admin.SaslHandShakeRequest.API_KEY:
            wanted = body[2:].decode()
            code = 34 if not self._mechanisms else 0 if wanted in self._mechanisms else 33
            return correlation + admin.SaslHandShakeResponse_v0(code, self._mechanisms).encode()
        if key == admin.SaslAuthenticateRequest.API_KEY:
            self.payloads.append(body[4:])
            return (
                correlation
                + admin.SaslAuthenticateResponse_v0(self._refusal, "refused" if self._refusal else None, b"").encode()
            )
        if self._mechanisms and not self.payloads:
            return None
        return correlation + MetadataResponse_v1([(0, "127.0.0.1", 9, None)], 0, []).encode()
