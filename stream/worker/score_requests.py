"""Score the requests that a model can read, and hold the others of their partition until one can.

A partition is answered in order: a request that no model reads holds back those behind it, while other partitions go on.
Nothing held is acknowledged, so it stays on the broker. Start at RequestScorer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from schemas.scoring import ScoreRequest
from stream.fold.records import Output, PartitionTotals, Record, is_resent
from stream.kafka.alignment import TopicPartition
from stream.kafka.barrier import Outbox
from stream.roles.handler_errors import dead_letter_of_error, log_once, score_isolating_errors
from stream.roles.scorer_fold import Asked, as_read, decode_requests, places_of, render_signals
from stream.worker.feature_specs import FeatureSpecs

if TYPE_CHECKING:  # only role scorer loads torch
    from models.serving.scorer import Scorer, Scores
    from stream.worker.served_model import ServedModel

RETRY_SECONDS = 1.0
NAMED_FEATURES = 3  # in the text of a reason


class Ready(NamedTuple):
    """A record to answer now: with the model that reads its request and the request as it reads it, or with a dead letter."""

    asked: Asked
    scorer: "Scorer | None" = None
    request: ScoreRequest | None = None


class RequestScorer:
    """Answer the requests of role scorer; `held` has, by partition, the first one that no model reads and all behind it."""

    def __init__(
        self,
        *,
        model: "ServedModel",
        specs: FeatureSpecs,
        outbox: Outbox,
        totals: PartitionTotals,
        generation: Callable[[], int],
        acknowledge: Callable[[Mapping[TopicPartition, int], int], None],
        hold: Callable[[Collection[TopicPartition]], None],
        check_topics: Callable[[], Awaitable[None]],
    ) -> None:
        """Take the models from `model`. `hold` stops the delivery of partitions, `acknowledge` takes (offsets, generation).

        Nothing is acknowledged before `check_topics` returns, which raises if the topic was recreated.
        """
        self._model, self._specs, self._outbox, self._totals = model, specs, outbox, totals
        self._generation, self._acknowledge, self._hold, self._check_topics = generation, acknowledge, hold, check_topics
        self.held: dict[TopicPartition, list[Asked]] = {}
        self._held_in = -1  # the generation of what is held
        self._logged = set[str]()
        self._lock = asyncio.Lock()

    async def answer(
        self, records: Sequence[Record], ends: Mapping[TopicPartition, int]
    ) -> tuple[list[Output], dict[TopicPartition, int] | None]:
        """Answer records of one chunk; return what was sent, and the offsets to acknowledge, or None for the whole chunk.

        What no model reads is held, and so is what comes behind it.
        """
        async with self._lock:
            self._forget_other_generations()
            before, received_ms = set(self.held), int(time.time() * 1000)
            sent = await self._send(self._take(decode_requests(records, self._totals, received_ms)), received_ms)
            self._hold(self.held.keys())
            if not self.held:
                return sent, None
            return sent, {tp: self._first_held(tp, end) for tp, end in ends.items() if tp not in before}

    async def retry(self) -> None:
        """Try again, once a second, to answer what is held: a model may have been promoted, or a spec published."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            if self.held:
                async with self._lock:
                    await self._retry_once()

    async def _retry_once(self) -> None:
        self._forget_other_generations()
        generation, held, self.held = self._generation(), self.held, {}
        if any(request.spec_version not in self._specs.known for request in _heads(held)):
            await self._specs.learn()
        ready = [found for waiting in held.values() for found in self._take(waiting)]
        if ready:
            await self._send(ready, int(time.time() * 1000))
            ends = {tp: self._first_held(tp, waiting[-1].record.offset + 1) for tp, waiting in held.items()}
            self._acknowledge(ends, generation)
        self._hold(self.held.keys())

    def waiting(self) -> str:
        """Return why requests wait, or an empty text if none do."""
        if not self.held:
            return ""
        request = _heads(self.held)[0]
        scorer, known = self._model.scorers()[0], self._specs.known.get(request.spec_version)
        if known is None:
            lacks = "whose features are not published"
        else:
            lacking = [reference.rpartition("@")[0] for reference in scorer.features if reference not in known]
            more = ", …" if len(lacking) > NAMED_FEATURES else ""
            lacks = f"which lacks {', '.join(lacking[:NAMED_FEATURES])}{more}"
        count = sum(map(len, self.held.values()))
        return (
            f"{count} requests of {len(self.held)} partitions wait: model {scorer.model_version} does not read feature spec "
            f"{request.spec_version}, {lacks}; upgrade role features, promote a model of that spec, or set also_checkpoints"
        )

    def _forget_other_generations(self) -> None:
        """Drop what was held before a rebalance: it was not acknowledged, so it is delivered again."""
        if self._held_in != self._generation():
            self.held, self._held_in = {}, self._generation()

    def _first_held(self, tp: TopicPartition, end: int) -> int:
        return self.held[tp][0].record.offset if tp in self.held else end

    def _take(self, asked: Sequence[Asked]) -> list[Ready]:
        """Return what can be answered now, and hold the rest."""
        ready = []
        for one in asked:
            tp = TopicPartition(one.record.topic, one.record.partition)
            if tp in self.held:
                self.held[tp].append(one)
            elif one.request is None:
                ready.append(Ready(one))
            elif (found := self._reader(one.request)) is None:
                self.held[tp] = [one]
            else:
                ready.append(Ready(one, *found))
        return ready

    def _reader(self, request: ScoreRequest) -> "tuple[Scorer, ScoreRequest] | None":
        """Return the first model that reads a request, and the request as it reads it."""
        known = self._specs.known.get(request.spec_version)
        for scorer in self._model.scorers():
            if request.spec_version == scorer.spec_version:
                return scorer, request
            places = None if known is None or len(known) != len(request.features) else places_of(scorer, known)
            if places is not None:
                return scorer, as_read(request, scorer, places)
        return None

    async def _send(self, ready: Sequence[Ready], received_ms: int) -> list[Output]:
        """Score and send, in the order given; return once all replicas have the signals and dead letters."""
        scores = await asyncio.to_thread(_score, ready)
        scored_ms, outputs = int(time.time() * 1000), list[Output]()
        for (asked, scorer, _), score in zip(ready, scores, strict=True):
            if asked.letter is not None:
                outputs.append(asked.letter)
                continue
            assert asked.request is not None and scorer is not None and score is not None  # as Ready says
            if isinstance(score, Exception):
                self._totals.events.dead_lettered += 1
                log_once(asked.record, score, self._logged)
                outputs.append(dead_letter_of_error("score-request", asked.record, score, received_ms))
                continue
            self._totals.events.applied += 1
            if score.unread is not None:
                self._model.unread[score.unread] += 1
            outputs += render_signals(
                asked.request,
                score,
                scorer=scorer,
                received_ms=received_ms,
                scored_ms=scored_ms,
                resent=is_resent(asked.record),
            )
        await asyncio.gather(self._check_topics(), self._outbox.post(outputs))
        for output in outputs:
            self._totals.count_output("dead-letter" if output.kind.endswith(".dlq") else output.kind)
        return outputs


def _heads(held: Mapping[TopicPartition, list[Asked]]) -> list[ScoreRequest]:
    """Return the first request held of each partition."""
    return [waiting[0].request for waiting in held.values() if waiting[0].request is not None]


def _score(ready: Sequence[Ready]) -> "list[Scores | Exception | None]":
    """Score each request by its model, in one batch per model; None for a dead letter. Blocks: run it in a thread."""
    scores: list[Scores | Exception | None] = [None] * len(ready)
    for model in {id(one.scorer): one.scorer for one in ready if one.scorer is not None}.values():
        places = [place for place, one in enumerate(ready) if one.scorer is model]
        requests = [request for one in ready if one.scorer is model and (request := one.request) is not None]
        for place, score in zip(places, score_isolating_errors(model, requests), strict=True):
            scores[place] = score
    return scores
