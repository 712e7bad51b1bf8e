"""Agents: what they do with a chunk that they must not go on from."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from schemas.codec import encode
from stream.agents import score_agent
from stream.alignment import Chunk, TopicPartition
from stream.barrier import Outbox
from stream.dead_letter_limit import DeadLetterLimit
from stream.records import PartitionTotals
from stream.replay import LogRecord
from tests.builders import NOW_MS, score_request
from tests.fakes import FakeEvent, FakeProducer

REQUESTS = TopicPartition("requests", 0)


async def stream_of(*events: Any) -> AsyncIterator[Any]:
    for event in events:
        yield event


async def test_a_scorer_that_cannot_read_a_feature_spec_pauses_and_takes_the_same_requests_once_it_can() -> None:
    calls: list[tuple[Any, ...]] = []
    scorer = SimpleNamespace(spec_version="new", model_version="m-1", horizons_days=(), score=lambda requests: [])
    limit = DeadLetterLimit(in_a_row=0, percent=0.0, window_records=1000)
    record = LogRecord("requests", 0, 0, NOW_MS, b"u-1", encode(score_request(spec_version="old")))
    event = FakeEvent("first", Chunk([record], {REQUESTS: 0}, {REQUESTS: 1}, 1), calls)
    event.message = SimpleNamespace(generation_id=1)
    totals = PartitionTotals()

    working = asyncio.create_task(
        score_agent(
            stream_of(event),
            scorer=scorer,  # type: ignore[arg-type]
            outbox=Outbox(FakeProducer(calls), {}),  # type: ignore[arg-type]
            totals=totals,
            limit=limit,
            generation=lambda: 1,
        )
    )
    for _ in range(20):
        await asyncio.sleep(0)
    paused, before = limit.paused, list(calls)
    scorer.spec_version = "old"
    taken: list[str] = []
    scorer.score = lambda requests: taken.extend(request.spec_version for request in requests)
    limit.resume()
    await asyncio.wait([working])

    assert paused == "model m-1 reads feature spec new, requests carry old: start again with a checkpoint of theirs"
    assert before == []
    assert taken == ["old"]
    assert (totals.events.events_in, totals.events.dead_lettered) == (1, 0)
