"""Kill, stop and restart workers in a test, check the result, and report the totals of the run.

Start at Scene.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiokafka.errors import KafkaError
from msgspec import Struct, field

from models.features.spec import KINDS
from stream.logs.event_log import LoggedEvent
from stream.process.fault_points import FAULT
from tests.chaos.oracles import Findings, examine
from tests.harness import Deployment, Worker, until

COMMITTED = 'footfall_records_total{outcome="in"}'
RESTART = 75
GAP = "gap in a partition"


class Report(Struct):
    """Totals of what a run of the suite did and found."""

    seed: int
    events: int = 0
    commits: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    ids_missing: int = 0
    ids_doubled: int = 0
    gaps: int = 0
    sigterm_seconds: list[float] = []
    started: float = field(default_factory=time.monotonic)

    def json(self) -> dict[str, Any]:
        """Return the report as the JSON object printed at the end of a run."""
        facts = {name: getattr(self, name) for name in self.__struct_fields__ if name != "started"}
        return facts | {"faults": dict(self.faults), "seconds": round(time.monotonic() - self.started, 1)}


class Scene:
    """One deployment under attack; `random` is seeded by the run's seed and the test's name."""

    def __init__(self, deployment: Deployment, report: Report, seed: str) -> None:
        self.deployment, self.report, self.random = deployment, report, random.Random(seed)
        self._armed: dict[int, str] = {}

    def start(self, fault: str = "", role: str = "features", **environment: str) -> Worker:
        """Start a worker, with an optional armed fault such as kill@P2.sent:3."""
        if fault:
            record = self.deployment.folder / f"fired-{len(self.deployment.workers)}"
            environment[FAULT] = f"{fault}>{record}"
        worker = self.deployment.start(role, **environment)
        if fault:
            self._armed[worker.process.pid] = fault
        return worker

    async def fires(self, worker: Worker, *, seconds: float = 30) -> None:
        """Wait until the armed fault of a worker has fired, and verify it by the fault's record and by the process state."""
        fault = self._armed[worker.process.pid]
        record = self.deployment.folder / f"fired-{self.deployment.workers.index(worker)}"
        stops = fault.startswith("stop")
        done = (lambda: state_of(worker) == "T") if stops else (lambda: worker.process.poll() is not None)
        await until(f"{fault} fires", done, seconds=seconds, worker=worker)
        assert record.read_text() == fault
        assert stops or worker.process.returncode == -signal.SIGKILL, worker.tail()
        self.report.faults[fault.split(":")[0]] += 1

    def kill(self, worker: Worker) -> None:
        """Kill -9 a worker that must still be alive."""
        worker.kill()
        self.report.faults["kill -9"] += 1

    async def committed(self, worker: Worker, *, more_than: int = 0, seconds: float = 30) -> None:
        """Wait until a worker's partitions have committed more than `more_than` records."""
        await until(f"{worker.role} commits", lambda: worker.metric(COMMITTED) > more_than, seconds=seconds, worker=worker)

    async def resumed(self, worker: Worker, *, seconds: float = 20) -> None:
        """Resume a stopped worker, and check that the broker fences it and it exits with 75."""
        worker.process.send_signal(signal.SIGCONT)
        await until("the zombie ends", lambda: worker.process.poll() is not None, seconds=seconds, worker=worker)
        assert worker.process.returncode == RESTART, worker.tail()
        assert "ProducerFenced" in worker.log.read_text(errors="replace"), worker.tail()
        self.report.faults["fenced"] += 1

    async def settled(self, *, seconds: float = 60) -> None:
        """Wait until everything published is committed."""

        async def done() -> bool:
            return not await self.deployment.lag("features", KINDS)

        await until("no lag", done, seconds=seconds, worker=self.deployment.workers[-1])

    @asynccontextmanager
    async def publishing(
        self, events: Iterable[LoggedEvent], *, per_second: float, unread: int | None = 2000
    ) -> AsyncIterator[asyncio.Task[None]]:
        """Publish in the background during a scene, and the rest at full speed when it is over.

        Publishing pauses while the role lags by more than `unread` records, so a slow machine does not run out of events.
        """
        hurry, lag = asyncio.Event(), 0

        async def watch() -> None:
            nonlocal lag
            while True:
                with suppress(KafkaError, OSError, TimeoutError):  # the broker is what the scene attacks
                    lag = await self.deployment.lag("features", KINDS)
                await asyncio.sleep(0.2)

        tasks = [] if unread is None else [asyncio.create_task(watch())]
        may_send = (lambda: True) if unread is None else (lambda: lag < unread)
        publishing = asyncio.create_task(self.deployment.publish(events, per_second=per_second, hurry=hurry, may_send=may_send))
        tasks.append(publishing)
        try:
            yield publishing
            hurry.set()
            await publishing
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    @asynccontextmanager
    async def kept(self, count: int, **environment: str) -> AsyncIterator[list[Worker]]:
        """Keep `count` workers running: restart any that is killed or exits with 75."""
        workers = [self.start(**environment) for _ in range(count)]

        async def keep() -> None:
            while True:
                for number, worker in enumerate(workers):
                    code = worker.process.poll()
                    if code is not None:
                        assert code in (RESTART, -signal.SIGKILL), worker.tail()
                        self.report.faults["restart"] += 1
                        workers[number] = self.start(**environment)
                await asyncio.sleep(0.2)

        keeper = asyncio.create_task(keep())
        try:
            yield workers
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper

    async def whole(self) -> Findings:
        """Check in mid-stream, while no worker is alive, that committed rows, offsets and outputs agree."""
        findings = Findings(ahead=["not looked yet"])

        async def settled() -> bool:
            nonlocal findings
            findings = await examine(self.deployment, finished=False)
            return not findings.ahead

        await until("the broker ends what was being committed", settled, seconds=15)
        assert not findings.faults(), findings.faults()
        return findings

    async def exact(self, events: int) -> Findings:
        """Check at the end of a scene, with all workers stopped, that each of `events` events was applied once."""
        for worker in self.deployment.workers:
            worker.stop()
        findings = await examine(self.deployment)
        self.report.events += findings.events
        self.report.commits += findings.commits
        self.report.lost += findings.lost
        self.report.doubled += findings.doubled
        self.report.ids_missing += len(findings.missing_ids)
        self.report.ids_doubled += findings.doubled_ids
        self.report.gaps += self.gaps()
        assert not findings.faults(), findings.faults()
        assert findings.events == events
        assert self.gaps() == 0
        return findings

    def gaps(self) -> int:
        """Count workers that exited because records between two chunks were missing."""
        return sum([GAP in worker.log.read_text(errors="replace") for worker in self.deployment.workers])


def state_of(worker: Worker) -> str:
    """Return the state letter of a process: T is stopped."""
    with open(f"/proc/{worker.process.pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0]


def resident_bytes(worker: Worker) -> int:
    """Return a process's resident memory."""
    with open(f"/proc/{worker.process.pid}/statm") as sizes:
        return int(sizes.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
