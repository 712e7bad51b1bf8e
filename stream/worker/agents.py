"""Run each chunk through one step of its role: the main path of all roles.

Roles features and triggers pass changed rows to the barrier, which acknowledges a chunk once its rows are committed. Role
scorer acknowledges a chunk once the broker has acknowledged its signals. An unexpected error ends the process before the
chunk is acknowledged, because Faust would skip the chunk. Start at fold_agent.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from schemas.dead_letter import DeadLetter
from schemas.scoring import ScoreRequest
from stream.fold.records import Fold, Output, PartitionTotals, Record, is_resent
from stream.kafka.alignment import Chunk, TopicPartition
from stream.kafka.barrier import Barrier, Outbox
from stream.kafka.store import RowStore
from stream.process.exit_codes import end_process
from stream.process.fault_points import reach
from stream.roles.handler_errors import dead_letter_of_error, fold_guarded, log_once, score_isolating_errors
from stream.roles.scorer_fold import decode_requests, first_offsets, readable_in_order, render_signals
from stream.worker.dead_letter_limit import DeadLetterLimit
from stream.worker.misplaced_keys import MisplacedKeys

if TYPE_CHECKING:  # only role scorer loads torch
    from models.serving.scorer import Scorer
    from stream.worker.served_model import ServedModel


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
    model: "ServedModel",
    outbox: Outbox,
    totals: PartitionTotals,
    limit: DeadLetterLimit,
    generation: Callable[[], int],
    acknowledge: Callable[[Mapping[TopicPartition, int], int], None],
    check_topics: Callable[[], Awaitable[None]],
) -> None:
    """Run role scorer: score each chunk as a batch of one model, and acknowledge it once its signals are acknowledged.

    A partition is scored in order, up to the first request of a feature spec that the model does not read. What is before it
    is acknowledged up to that offset, by `acknowledge` (offsets, generation). The rest waits until a model reads it. Nothing is
    acknowledged before `check_topics` returns, which raises if the topic was recreated.
    """
    contiguity, logged = Contiguity(), set[str]()
    async for event in stream:
        if event.message.generation_id != generation():
            continue
        chunk: Chunk = event.value
        contiguity.check(event.message.generation_id, chunk, {})
        received_ms = int(time.time() * 1000)
        waiting, letters = decode_requests(chunk.records, totals, received_ms)
        posted: list[Output] = []
        while True:
            scorer = model.scorer  # one model per batch
            accepted, waiting = readable_in_order(waiting, scorer.spec_version)
            held = first_offsets(waiting)
            outputs = [letter for letter in letters if not _is_behind(letter, held)]
            letters = [letter for letter in letters if _is_behind(letter, held)]
            requests = [request for _, request in accepted]
            scores = await asyncio.to_thread(score_isolating_errors, scorer, requests) if requests else []
            scored_ms = int(time.time() * 1000)
            for (record, request), score in zip(accepted, scores, strict=True):
                if isinstance(score, Exception):
                    totals.events.dead_lettered += 1
                    log_once(record, score, logged)
                    outputs.append(dead_letter_of_error("score-request", record, score, received_ms))
                    continue
                totals.events.applied += 1
                if score.unread is not None:
                    model.unread[score.unread] += 1
                outputs += render_signals(
                    request,
                    score,
                    horizons_days=list(scorer.horizons_days),
                    model_version=scorer.model_version,
                    received_ms=received_ms,
                    scored_ms=scored_ms,
                    resent=is_resent(record),
                )
            await asyncio.gather(check_topics(), outbox.post(outputs))
            for output in outputs:
                totals.count_output("dead-letter" if output.kind.endswith(".dlq") else output.kind)
            posted += outputs
            if not waiting:
                break
            ends = {tp: held.get(tp.partition, end) for tp, end in chunk.ends.items()}
            if done := {tp: end for tp, end in ends.items() if end > chunk.starts[tp]}:
                acknowledge(done, event.message.generation_id)
            limit.pause(_needs_spec(scorer, waiting))
            await limit.wait_while_paused()  # the requests stay on the broker: they are not at fault
            if event.message.generation_id != generation():
                break  # a rebalance meanwhile: the next owner reads what is not acknowledged
        event.ack()
        limit.count(chunk, posted)
        await limit.wait_while_paused()


def _is_behind(letter: Output, held: Mapping[int, int]) -> bool:
    """Return whether a dead letter's record comes after a request of its partition that waits."""
    found = letter.message
    return isinstance(found, DeadLetter) and found.partition in held and found.offset > held[found.partition]


def _needs_spec(scorer: "Scorer", waiting: Sequence[tuple[Record, ScoreRequest]]) -> str:
    carried = ", ".join(sorted({request.spec_version for _, request in waiting} - {scorer.spec_version}))
    return (
        f"model {scorer.model_version} needs feature spec {scorer.spec_version}, requests carry {carried}: {len(waiting)} "
        "requests wait; promote or configure a model of that spec, then restart the scorer or resume it"
    )
