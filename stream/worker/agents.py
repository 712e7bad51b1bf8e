"""Run each chunk through one step of its role: the main path of all roles.

Roles features and triggers pass changed rows to the barrier, which acknowledges a chunk once its rows are committed. Role
scorer acknowledges a chunk once the broker has acknowledged its signals. An unexpected error ends the process before the
chunk is acknowledged, because Faust would skip the chunk. Start at fold_agent.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

from stream.fold.records import Fold
from stream.kafka.alignment import Chunk, TopicPartition
from stream.kafka.barrier import Barrier
from stream.kafka.store import RowStore
from stream.process.exit_codes import crash_only, end_process
from stream.process.fault_points import reach
from stream.roles.handler_errors import fold_guarded
from stream.worker.dead_letter_limit import DeadLetterLimit
from stream.worker.misplaced_keys import MisplacedKeys
from stream.worker.score_requests import RequestScorer


class Break(NamedTuple):
    """Say where the offsets of a chunk do not continue: the partition, the offset expected and the one found."""

    tp: TopicPartition
    expected: int
    found: int


class Contiguity:
    """Check that records continue where the previous ones ended: a gap is a silent loss, a step back folds records twice."""

    def __init__(self) -> None:
        self._generation = -1
        self._next: dict[TopicPartition, int] = {}

    def find_break(self, generation: int, chunk: Chunk, folded: Mapping[str, int]) -> Break | None:
        """Return the first break between the last chunk and this one, or inside this one; offsets may skip, never repeat.

        `folded` has the partition's next offsets by topic, for the first chunk of a generation; empty if they are not known.
        """
        if generation != self._generation:
            self._generation, self._next = generation, {}
        for tp, start in chunk.starts.items():
            expected = self._next.get(tp, folded.get(tp.topic, start))
            if start != expected:
                return Break(tp, expected, start)
        least: dict[tuple[str, int], int] = dict(chunk.starts.items())
        for record in chunk.records:
            place = record.topic, record.partition
            if record.offset < least[place]:
                return Break(TopicPartition(*place), least[place], record.offset)
            least[place] = record.offset + 1
        self._next.update(chunk.ends)
        return None

    def check(self, generation: int, chunk: Chunk, folded: Mapping[str, int]) -> None:
        """End the process at a break, before the chunk is folded."""
        if found := self.find_break(generation, chunk, folded):
            gap = found.found > found.expected
            end_process(
                "gap in a partition: a chunk does not start at the offset where the previous one ended"
                if gap
                else "records of a partition come twice: a chunk starts before the offset where the previous one ended",
                topic=found.tp.topic,
                partition=found.tp.partition,
                expected_offset=found.expected,
                found_offset=found.found,
            )


async def fold_agent(
    stream: AsyncIterator[Any],
    *,
    fold: Fold,
    store: RowStore,
    barrier: Barrier,
    limit: DeadLetterLimit,
    misplaced: MisplacedKeys,
    generation: Callable[[], int],
    resumed_from_rows: bool,
) -> None:
    """Run role features or triggers: fold chunks into rows, send plain outputs at once, leave the rest to the barrier.

    `resumed_from_rows` says that reading resumes at the offsets of the rows, so that every chunk must begin there. Otherwise
    (without transactions) records before them come again, and the rows' guards skip those.
    """
    contiguity = Contiguity()
    async for event in stream:
        await barrier.wait_encoded()
        if event.message.generation_id != generation():
            continue  # fetched before a rebalance; it is fetched again
        chunk: Chunk = event.value
        partition = store.owned[event.message.partition]
        contiguity.check(event.message.generation_id, chunk, partition.offsets if resumed_from_rows else {})
        now_ms = int(time.time() * 1000)
        folded = fold_guarded(fold, partition.rows, partition.totals, partition.undo, chunk.records, now_ms)
        barrier.add(event, partition, folded)
        reach("folded")
        misplaced.count(folded.misplaced)
        limit.count(chunk, folded.outputs)
        await barrier.wait_for_capacity()
        await limit.wait_while_paused()


async def score_agent(
    stream: AsyncIterator[Any],
    *,
    requests: RequestScorer,
    limit: DeadLetterLimit,
    generation: Callable[[], int],
    acknowledge_partly: Callable[[Any, Mapping[TopicPartition, int]], object],
) -> None:
    """Run role scorer: score each chunk, and acknowledge it once its signals are acknowledged.

    A chunk with requests that no model reads is acknowledged only up to them, by `acknowledge_partly` (message, offsets).
    """
    contiguity = Contiguity()
    retrying = asyncio.create_task(crash_only("scorer", requests.retry()))
    try:
        async for event in stream:
            if event.message.generation_id != generation():
                continue
            chunk: Chunk = event.value
            contiguity.check(event.message.generation_id, chunk, {})
            sent, ends = await requests.answer(chunk.records, chunk.ends)
            if ends is None:
                event.ack()
            else:
                acknowledge_partly(event.message, ends)
            limit.count(chunk, sent)
            await limit.wait_while_paused()
    finally:
        retrying.cancel()
