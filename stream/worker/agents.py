"""Run each chunk through one step of its role: the main path of all roles.

Roles features and triggers pass changed rows to the barrier, which acknowledges a chunk once its rows are committed. Role
scorer acknowledges a chunk once the broker has acknowledged its signals. An unexpected error ends the process before the
chunk is acknowledged, because Faust would skip the chunk. Start at fold_agent.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from stream.fold.records import Fold, PartitionTotals
from stream.kafka.alignment import Chunk, TopicPartition
from stream.kafka.barrier import Barrier, Outbox
from stream.kafka.store import RowStore
from stream.process.exit_codes import end_process
from stream.process.fault_points import reach
from stream.roles.handler_errors import dead_letter_of_error, fold_guarded, log_once, score_isolating_errors
from stream.roles.scorer_fold import decode_requests, render_signals
from stream.worker.dead_letter_limit import DeadLetterLimit

if TYPE_CHECKING:  # only role scorer loads torch
    from stream.worker.served_model import ServedModel


class Contiguity:
    """Check that each chunk starts at the offset where the previous one ended; a gap would be a silent loss."""

    def __init__(self) -> None:
        self._generation = -1
        self._next: dict[TopicPartition, int] = {}

    def check(self, generation: int, chunk: Chunk) -> None:
        """End the process if records are missing between two chunks of one generation."""
        if generation != self._generation:
            self._generation, self._next = generation, {}
        for tp, start in chunk.starts.items():
            expected = self._next.get(tp, start)
            if start != expected:
                end_process(
                    "gap in a partition: a chunk does not start at the offset where the previous one ended",
                    topic=tp.topic,
                    partition=tp.partition,
                    expected_offset=expected,
                    found_offset=start,
                )
        self._next.update(chunk.ends)


async def fold_agent(
    stream: AsyncIterator[Any],
    *,
    fold: Fold,
    store: RowStore,
    barrier: Barrier,
    limit: DeadLetterLimit,
    generation: Callable[[], int],
) -> None:
    """Run role features or triggers: fold chunks into rows, send plain outputs at once, leave the rest to the barrier."""
    contiguity = Contiguity()
    async for event in stream:
        if event.message.generation_id != generation():
            continue  # fetched before a rebalance; it is fetched again
        chunk: Chunk = event.value
        contiguity.check(event.message.generation_id, chunk)
        partition = store.owned[event.message.partition]
        now_ms = int(time.time() * 1000)
        folded = fold_guarded(fold, partition.rows, partition.totals, partition.undo, chunk.records, now_ms)
        barrier.add(event, partition, folded)
        reach("folded")
        limit.count(chunk, folded.outputs)
        await barrier.wait_for_capacity()
        await limit.wait_while_paused()


async def score_agent(
    stream: AsyncIterator[Any],
    *,
    model: "ServedModel",
    outbox: Outbox,
    totals: PartitionTotals,
    limit: DeadLetterLimit,
    generation: Callable[[], int],
) -> None:
    """Run role scorer: score each chunk as a batch of one model, and acknowledge it once its signals are acknowledged."""
    contiguity, logged = Contiguity(), set[str]()
    async for event in stream:
        if event.message.generation_id != generation():
            continue
        chunk: Chunk = event.value
        contiguity.check(event.message.generation_id, chunk)
        received_ms = int(time.time() * 1000)
        accepted, outputs = decode_requests(chunk.records, totals, received_ms)
        requests = [request for _, request in accepted]
        while other := {request.spec_version for request in requests} - {(scorer := model.scorer).spec_version}:
            needs = f"model {scorer.model_version} needs feature spec {scorer.spec_version}"
            carried = ", ".join(sorted(other))
            limit.pause(f"{needs}, requests carry {carried}: restart with a checkpoint of the requests' feature spec")
            await limit.wait_while_paused()  # the requests stay on the broker: they are not at fault
        scores = await asyncio.to_thread(score_isolating_errors, scorer, requests)
        scored_ms = int(time.time() * 1000)
        for (record, request), score in zip(accepted, scores, strict=True):
            if isinstance(score, Exception):
                totals.events.dead_lettered += 1
                log_once(record, score, logged)
                outputs.append(dead_letter_of_error("score-request", record, score, received_ms))
                continue
            totals.events.applied += 1
            outputs += render_signals(
                request,
                score,
                horizons_days=list(scorer.horizons_days),
                model_version=scorer.model_version,
                received_ms=received_ms,
                scored_ms=scored_ms,
            )
        await outbox.post(outputs)
        for output in outputs:
            totals.count_output("dead-letter" if output.kind.endswith(".dlq") else output.kind)
        event.ack()
        limit.count(chunk, outputs)
        await limit.wait_while_paused()
