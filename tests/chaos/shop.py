"""Run all three roles under load, change something, and check by what is in Kafka alone that nothing was lost or doubled.

Start at Shop.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import msgspec
from msgspec import Struct

from models.features.spec import KINDS
from schemas.codec import decode
from schemas.scoring import ScoreRequest
from schemas.signals import AdTrigger, ChurnRisk, Interest, Suppression
from stream.fold.records import Totals
from stream.kafka.store import META_KEY, MetaRow
from stream.logs.event_log import LoggedEvent
from tests.chaos.oracles import Findings, examine
from tests.chaos.scene import RESTART, Scene
from tests.harness import Worker, until

ROLES = ("features", "scorer", "triggers")
SIGNALS = ("interest", "churn-risk")
STEP_SECONDS = 120.0


class Tally(Struct):
    """What the topics of scorer and triggers hold: requests, answers and decisions by id, and the totals of triggers."""

    requests: Counter[str]
    answers: dict[str, Counter[str]]
    decisions: Counter[str]
    signals: int
    totals: Totals

    @property
    def repeats(self) -> int:
        """Count the signals of requests that were answered before."""
        return sum((answers - self.requests).total() for answers in self.answers.values())

    def faults(self) -> dict[str, Any]:
        """Return what is wrong; empty if every request is answered, and every signal decided once."""
        found: dict[str, Any] = {}
        for kind, answers in self.answers.items():
            if missing := self.requests.keys() - answers.keys():
                found[kind] = {"missing": len(missing)}
        if twice := [name for name, count in self.decisions.items() if count > 1]:
            found["decided twice"] = twice[:5]
        if self.totals.events_in != self.signals:
            found["signals"] = f"{self.signals} in their topics, {self.totals.events_in} counted by role triggers"
        if self.totals.dead_lettered:
            found["dead letters of triggers"] = self.totals.dead_lettered
        return found


class Shop:
    """The roles of one deployment, with workers that come and go while events are published until `held` is set."""

    def __init__(self, scene: Scene, **environment: str) -> None:
        """Start no worker; `environment` is that of every worker."""
        self.scene, self.deployment, self.environment = scene, scene.deployment, environment
        self.workers: dict[str, list[Worker]] = {role: [] for role in ROLES}
        self.held, self.restarts, self.repeats = False, 0, 0

    async def join(self, role: str, program: str | None = None, **environment: str) -> Worker:
        """Start a worker and wait until it is ready."""
        worker = self.deployment.start(role, program, **self.environment | environment)
        self.workers[role].append(worker)
        await until(f"{role} is ready", worker.ready, seconds=STEP_SECONDS, worker=worker)
        return worker

    async def leave(self, worker: Worker) -> None:
        """Stop a worker with SIGTERM."""
        assert await asyncio.to_thread(worker.stop) == 0, worker.tail()
        self.workers[worker.role].remove(worker)

    async def replace(self, role: str, program: str | None = None, **environment: str) -> Worker:
        """Start one worker beside those of a role, then stop the others: a rolling upgrade."""
        others = list(self.workers[role])
        worker = await self.join(role, program, **environment)
        await self.works()
        for other in others:
            await self.leave(other)
        return worker

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Start every worker again that exits with 75, while the context is open."""

        async def keep() -> None:
            while True:
                for role, workers in self.workers.items():
                    for number, worker in enumerate(workers):
                        if (code := worker.process.poll()) is not None:
                            assert code == RESTART, worker.tail()
                            self.restarts += 1
                            workers[number] = self.deployment.start(role, **self.environment)
                await asyncio.sleep(0.2)

        keeper = asyncio.create_task(keep())
        try:
            yield
            assert not keeper.done(), keeper.result()
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper

    @asynccontextmanager
    async def open(self, events: Iterable[LoggedEvent], *, per_second: float) -> AsyncIterator[None]:
        """Publish events while the context is open."""
        publishing = asyncio.create_task(self.deployment.publish(events, per_second=per_second, may_send=lambda: not self.held))
        try:
            yield
            assert not publishing.done(), "the events must outlast the test: give more"
        finally:
            publishing.cancel()
            with suppress(asyncio.CancelledError):
                await publishing

    async def works(self, *, records: int = 300) -> None:
        """Wait until role features committed `records` more records: the change met the load."""
        self.held = False
        before = await self._folded()

        async def done() -> bool:
            for workers in self.workers.values():
                for worker in workers:
                    assert worker.process.poll() in (None, RESTART), worker.tail()
            return await self._folded() >= before + records

        await until("events are folded", done, seconds=STEP_SECONDS, worker=self.workers["features"][-1])

    async def settle(self) -> None:
        """Hold the load, and wait until all roles have read everything."""
        self.held = True
        names = (("features", (*KINDS, "review-sentiment")), ("scorer", ("score-request",)), ("triggers", SIGNALS))
        quiet = 0
        while quiet < 2:  # twice, since a role may have sent to one that was asked before it

            async def done() -> bool:
                return not any([await self.deployment.lag(role, kinds) for role, kinds in names])

            await until("all is read", done, seconds=STEP_SECONDS, worker=self.workers["scorer"][-1])
            quiet += 1

    async def check(self, *, may_repeat: bool = False) -> Findings:
        """Settle, and compare what is in Kafka with a fold of the source topics and with what each role should have sent.

        No request was answered twice since the last check either, unless that `may_repeat`: after the crash of a scorer, or
        when its session ended.
        """
        await self.settle()
        findings = await examine(self.deployment)
        assert not findings.faults(), findings.faults()
        tally = await self.tally()
        assert not tally.faults(), tally.faults()
        assert may_repeat or tally.repeats == self.repeats, f"{tally.repeats - self.repeats} signals came twice"
        self.repeats = tally.repeats
        return findings

    async def tally(self) -> Tally:
        """Read the topics of scorer and triggers."""
        requests = await self._ids("score-request", ScoreRequest, "request_id")
        answers = {
            "interest": await self._ids("interest", Interest, "request_id"),
            "churn-risk": await self._ids("churn-risk", ChurnRisk, "request_id"),
        }
        decisions = await self._ids("ad-trigger", AdTrigger, "trigger_id")
        decisions += await self._ids("suppression", Suppression, "suppression_id")
        _, totals = await self.deployment.committed("triggers")
        return Tally(requests, answers, decisions, sum(found.total() for found in answers.values()), totals)

    async def longest_pause(self, *, from_ms: int, to_ms: int) -> tuple[float, int]:
        """Return the longest time in seconds between two commits of one partition of role features, and the partition."""
        times: dict[int, list[int]] = {number: [from_ms] for number in range(self.deployment.partitions)}
        for record in await self.deployment.read(self.deployment.settings.changelog("features")):
            if record.key == META_KEY and from_ms < record.timestamp < to_ms:
                times[record.partition].append(record.timestamp)
        pauses = {number: max(after - before for before, after in pairwise([*found, to_ms])) for number, found in times.items()}
        worst = max(pauses, key=lambda number: pauses[number])
        return pauses[worst] / 1000, worst

    async def _folded(self) -> int:
        metas: dict[int, bytes] = {}
        for record in await self.deployment.read(self.deployment.settings.changelog("features")):
            if record.key == META_KEY:
                metas[record.partition] = record.value
        return sum([msgspec.msgpack.decode(value, type=MetaRow).totals.events.events_in for value in metas.values()])

    async def _ids(self, kind: str, struct: Any, name: str) -> Counter[str]:
        return Counter(
            getattr(decode(struct, record.value), name) for record in await self.deployment.read(self.deployment.topic(kind))
        )
