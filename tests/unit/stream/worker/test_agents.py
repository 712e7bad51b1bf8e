"""Agents: what they do with a chunk that they must not go on from."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from models.features.spec import FEATURE_SPEC
from schemas.codec import encode
from schemas.dead_letter import Reason
from schemas.scoring import ScoreRequest
from schemas.signals import Unread
from stream.fold.records import PartitionTotals
from stream.kafka.alignment import Chunk, TopicPartition
from stream.kafka.barrier import Outbox
from stream.offline.replay_log import LogRecord
from stream.process.settings import load_settings
from stream.roles.handler_errors import NO_REQUESTS_FAULT, score_isolating_errors
from stream.worker.agents import Break, Contiguity, score_agent
from stream.worker.dead_letter_limit import DeadLetterLimit
from stream.worker.feature_specs import FeatureSpecs
from stream.worker.score_requests import RequestScorer
from tests.builders import NOW_MS, score_request, source_position
from tests.fakes import FakeEvent, FakeProducer

REQUESTS = TopicPartition("requests", 0)
NAMES = {kind: kind for kind in ("interest", "churn-risk", "review-sentiment", "score-request.dlq")}
SOUND = score_request(
    spec_version=FEATURE_SPEC.version, features=[None] * len(FEATURE_SPEC.names), source=source_position(partition=0)
)


async def stream_of(*events: Any) -> AsyncIterator[Any]:
    for event in events:
        yield event


def scorer_of(score: Callable[[Sequence[ScoreRequest]], Any], spec_version: str = FEATURE_SPEC.version) -> Any:
    facts = {"model_version": "m-1", "horizons_days": (30,), "churn_days": 30}
    return SimpleNamespace(spec_version=spec_version, features=FEATURE_SPEC.references, score=score, **facts)


def scored(requests: Sequence[ScoreRequest]) -> list[Any]:
    """Score as a model does, but for requests of u-bug, which meet a bug."""
    if any(request.user_id == "u-bug" for request in requests):
        raise KeyError("bogus")
    return [SimpleNamespace(interests=[("kitchen", 0.5)], survival=[0.25], sentiment=None, unread=None) for _ in requests]


async def unchanged() -> None:
    """Find every topic as it was."""


async def work_on(
    scorer: Any, *requests: ScoreRequest, unread: Counter[Unread] | None = None
) -> tuple[PartitionTotals, DeadLetterLimit, list[tuple[Any, ...]]]:
    """Let the agent take one chunk of requests; return its totals, its limit and the calls of producer and event."""
    calls: list[tuple[Any, ...]] = []
    records = [LogRecord("requests", 0, n, NOW_MS, one.user_id.encode(), encode(one)) for n, one in enumerate(requests)]
    event = FakeEvent("chunk", Chunk(records, {REQUESTS: 0}, {REQUESTS: len(records)}, 1), calls)
    event.message = SimpleNamespace(generation_id=1)
    unread = Counter() if unread is None else unread
    totals, limit = PartitionTotals(), DeadLetterLimit(in_a_row=0, percent=0.0, window_records=1000)
    requests_of = RequestScorer(
        model=SimpleNamespace(scorers=lambda: [scorer], unread=unread),  # type: ignore[arg-type]
        specs=FeatureSpecs(load_settings()),
        outbox=Outbox(FakeProducer(calls), NAMES),  # type: ignore[arg-type]
        totals=totals,
        generation=lambda: 1,
        acknowledge=lambda ends, generation: calls.append(("ack up to", ends, generation)),
        hold=lambda tps: None,
        check_topics=unchanged,
    )
    await score_agent(
        stream_of(event),
        requests=requests_of,
        limit=limit,
        generation=lambda: 1,
        acknowledge_partly=lambda message, ends: calls.append(("ack partly", ends)),
    )
    return totals, limit, calls


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (replace(SOUND, features=[1.0, 2.0]), Reason.SPEC_MISMATCH),
        (replace(SOUND, source=source_position(partition=7)), Reason.OUT_OF_RANGE),
        (replace(SOUND, user_id="u-bug"), Reason.HANDLER_ERROR),
    ],
)
async def test_a_bad_request_is_a_dead_letter_and_the_others_of_its_chunk_are_scored(bad: ScoreRequest, reason: Reason) -> None:
    totals, limit, calls = await work_on(scorer_of(scored), SOUND, bad, SOUND)

    assert (totals.events.events_in, totals.events.applied, totals.events.dead_lettered) == (3, 2, 1)
    assert limit.letters == {("requests", reason): 1}
    sent = {topic: len(keys) for name, topic, keys in calls[:-1]}
    assert sent == {"interest": 2, "churn-risk": 2, "score-request.dlq": 1}
    assert calls[-1] == ("ack", "chunk")


@pytest.mark.parametrize("error", NO_REQUESTS_FAULT)
def test_what_a_broken_device_raises_is_no_requests_fault(error: type[Exception]) -> None:
    def fail(requests: Sequence[ScoreRequest]) -> Any:
        raise error("device")

    with pytest.raises(error):
        score_isolating_errors(scorer_of(fail), [SOUND])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["out of memory", "assert", "cudnn", "host memory"],
)
def test_a_runtime_error_of_the_device_is_no_requests_fault(error: RuntimeError) -> None:
    def fail(requests: Sequence[ScoreRequest]) -> Any:
        raise error

    with pytest.raises(RuntimeError):
        score_isolating_errors(scorer_of(fail), [SOUND, SOUND])


def test_a_runtime_error_that_one_request_triggers_costs_that_request_alone() -> None:
    def fail(requests: Sequence[ScoreRequest]) -> Any:
        if any(request.user_id == "u-bug" for request in requests):
            torch.zeros(2) + torch.zeros(3)  # raises RuntimeError
        return scored(requests)

    first, second = score_isolating_errors(scorer_of(fail), [SOUND, replace(SOUND, user_id="u-bug")])

    assert not isinstance(first, Exception)
    assert isinstance(second, RuntimeError)


# ------------------------------------------------------------------------------------------- offsets that do not continue

CLICKS, VISITS = TopicPartition("clicks", 3), TopicPartition("visits", 3)


def chunk(start: int, *offsets: int, tp: TopicPartition = CLICKS) -> Chunk:
    records = [LogRecord(tp.topic, tp.partition, offset, NOW_MS, b"u", b"{}") for offset in offsets]
    return Chunk(records, {tp: start}, {tp: offsets[-1] + 1}, 1)


def test_chunks_that_follow_each_other_have_no_break_even_where_offsets_skip_control_records() -> None:
    contiguity = Contiguity()

    assert contiguity.find_break(1, chunk(0, 0, 1), {}) is None
    assert contiguity.find_break(1, chunk(2, 4, 7), {}) is None
    assert contiguity.find_break(1, chunk(8, 9), {}) is None


def test_a_chunk_that_begins_after_or_before_the_end_of_the_last_one_is_a_break() -> None:
    for start in (1, 3):
        contiguity = Contiguity()
        assert contiguity.find_break(1, chunk(0, 0, 1), {}) is None
        assert contiguity.find_break(1, chunk(start, 5), {}) == Break(CLICKS, 2, start)


def test_the_first_chunk_of_a_generation_begins_where_the_partitions_rows_end() -> None:
    assert Contiguity().find_break(5, chunk(6, 6, 7), {"clicks": 0}) == Break(CLICKS, 0, 6)
    assert Contiguity().find_break(5, chunk(6, 6, 7), {"clicks": 8}) == Break(CLICKS, 8, 6)
    assert Contiguity().find_break(5, chunk(6, 6, 7), {"clicks": 6}) is None
    assert Contiguity().find_break(5, chunk(6, 6, 7), {"visits": 9}) is None


def test_one_chunk_that_holds_records_twice_is_a_break() -> None:
    twice = chunk(1130, *range(1130, 1144), *range(1139, 1150))

    assert Contiguity().find_break(1, twice, {}) == Break(CLICKS, 1144, 1139)


def test_the_topics_of_a_chunk_are_followed_apart() -> None:
    mixed = [chunk(0, 5, 9), chunk(7, 7, 8, tp=VISITS)]
    records = [record for pair in zip(*(part.records for part in mixed), strict=True) for record in pair]

    assert Contiguity().find_break(1, Chunk(records, {CLICKS: 0, VISITS: 7}, {CLICKS: 10, VISITS: 9}, 1), {}) is None


async def test_a_review_that_cannot_be_read_is_sent_with_a_null_sentiment_and_counted_by_reason() -> None:
    def unreadable(requests: Sequence[ScoreRequest]) -> list[Any]:
        return [SimpleNamespace(interests=[], survival=[0.25], sentiment=None, unread=Unread.BLANK) for _ in requests]

    unread: Counter[Unread] = Counter()
    totals, _, _ = await work_on(scorer_of(unreadable), replace(SOUND, kind="review", review_id="r", text=" "), unread=unread)

    assert totals.outputs == {"interest": 1, "churn-risk": 1, "review-sentiment": 1}
    assert unread == {Unread.BLANK: 1}
