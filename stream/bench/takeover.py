"""Measure how long partitions pause when a worker is killed, and in a rolling restart (`footfall bench takeover`).

Workers share a changelog of many rows while events arrive at a steady rate. Everything is measured from outside, at the
broker: the group's members and its committed offsets. Start at bench_takeover.
"""

import asyncio
import contextlib
import itertools
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator

from aiokafka.admin import AIOKafkaAdminClient
from msgspec import Struct

from schemas.errors import RunError
from schemas.time_units import DAY_MS
from stream.bench.broker import GroupOffsets, bench_settings, delete_topics, publish
from stream.bench.engines import ENGINES, Running
from stream.bench.figures import Figures, spread
from stream.bench.load import START_MS, load
from stream.bench.restore import template_rows, write_rows
from stream.bench.scaling import owned_partitions
from stream.bench.window import until_committed
from stream.fold.partitioner import partition_of
from stream.kafka.clients import admin_client, output_producer
from stream.kafka.topic_admin import apply
from stream.logs.event_log import LoggedEvent
from stream.process.settings import Settings

PARTITIONS = 6  # a multiple of two and of three workers
FIRST_EVENTS = 5_000
SAMPLE_SECONDS = 0.05
WAIT_SECONDS = 240.0  # for one step, such as a start, its restore, or a standby that catches up
STOP_SECONDS = 60.0
DAY_EVENTS = 50_000


class Restart(Struct, frozen=True):
    """One way of restarting workers one after the other."""

    name: str
    standbys: int
    static: bool  # keeps its partitions: an instance id, and leave_on_stop=false


RESTARTS = (
    Restart("leaves, no standby", 0, False),
    Restart("leaves, one standby", 1, False),
    Restart("static, does not leave", 0, True),
)


class Sample(Struct, frozen=True):
    """The group at one time (monotonic seconds): its number of members, and committed events by partition number."""

    at: float
    members: int
    committed: dict[int, int]


class Watch:
    """Samples the group of role features at the broker while its context is open."""

    def __init__(self, settings: Settings) -> None:
        """Watch the group of these settings."""
        self._group = settings.group("features")
        self._offsets = GroupOffsets(settings, self._group)
        self._client: AIOKafkaAdminClient = admin_client(settings)
        self.samples: list[Sample] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Watch":
        """Connect and begin to sample."""
        await asyncio.gather(self._offsets.start(), self._client.start())
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop sampling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await asyncio.gather(self._offsets.close(), self._client.close())

    async def _run(self) -> None:
        coordinator = await self._client.find_coordinator(self._group)
        while True:
            described, offsets = await asyncio.gather(
                self._client.describe_consumer_groups([self._group], group_coordinator_id=coordinator), self._offsets.offsets()
            )
            committed: dict[int, int] = defaultdict(int)
            for tp, offset in offsets.items():
                committed[tp.partition] += offset
            members = len(described[0].to_object()["groups"][0]["members"])
            self.samples.append(Sample(time.monotonic(), members, dict(committed)))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def first(self, what: str, found: Callable[[Sample], bool], *, after: float, worker: Running) -> float:
        """Wait for the first sample after a time that `found` accepts, and return its time.

        Raises:
            RunError: none came in time; the text has the end of the log of `worker`.
        """
        while time.monotonic() < after + WAIT_SECONDS:
            if self._task is not None and self._task.done():
                self._task.result()
            for sample in self.samples:
                if sample.at > after and found(sample):
                    return sample.at
            await asyncio.sleep(SAMPLE_SECONDS)
        raise RunError(f"after {WAIT_SECONDS:.0f} s, found no sign at the broker that {what}: {worker.last_log_lines()}")

    def at(self, moment: float) -> Sample:
        """Return the first sample at or after a time."""
        return next(sample for sample in self.samples if sample.at >= moment)


def longest_pauses(samples: list[Sample]) -> dict[int, float]:
    """Return, by partition number, the longest time in seconds without a new commit."""
    last: dict[int, tuple[float, int]] = {}
    longest: dict[int, float] = defaultdict(float)
    for sample in samples:
        for number, committed in sample.committed.items():
            at, before = last.get(number, (sample.at, committed))
            if committed > before:
                longest[number] = max(longest[number], sample.at - at)
            if number not in last or committed > before:
                last[number] = sample.at, committed
    if samples:  # a partition that never advanced again
        for number, (at, _) in last.items():
            longest[number] = max(longest[number], samples[-1].at - at)
    return dict(longest)


async def bench_takeover(bootstrap: str, *, rows: int, rate: float, repeats: int, progress: Callable[[str], None]) -> Figures:
    """Kill one of two workers `repeats` times, without and with a standby; then restart three workers one after the other.

    Raises:
        RunError: a worker exited, or a step did not end in time.
    """
    templates = template_rows()
    kills: dict[str, Figures] = {}
    restarts: dict[str, Figures] = {}
    row_bytes, session = 0, 0.0
    for standbys in (0, 1):
        settings = bench_settings(bootstrap, partitions=PARTITIONS).model_copy(update={"standbys": standbys})
        session = settings.session_timeout_seconds
        async with _prepared(settings, rows, rate, templates, progress) as size:
            row_bytes = round(size / rows)
            kills[str(standbys)] = await _kills(settings, repeats, progress)
    for way in RESTARTS:
        settings = bench_settings(bootstrap, partitions=PARTITIONS).model_copy(
            update={"standbys": way.standbys, "leave_on_stop": not way.static}
        )
        async with _prepared(settings, rows, rate, templates, progress):
            restarts[way.name] = await _rolling_restart(settings, way, progress)
    return {
        "benchmark": "takeover",
        "rows": rows,
        "row_bytes": row_bytes,
        "rate": rate,
        "repeats": repeats,
        "partitions": PARTITIONS,
        "session_timeout_seconds": session,
        "sample_seconds": SAMPLE_SECONDS,
        "kills": kills,
        "restarts": restarts,
    }


@contextlib.asynccontextmanager
async def _prepared(
    settings: Settings, rows: int, rate: float, templates: list[bytes], progress: Callable[[str], None]
) -> AsyncIterator[int]:
    """Create topics, write the rows and send events at `rate` while the context is open; yield the rows' total bytes."""
    await apply(settings)
    try:
        dynamic = settings.model_copy(update={"leave_on_stop": True})
        async with Running(ENGINES["footfall"], dynamic) as worker:  # writes the meta rows
            await publish(settings, list(itertools.islice(_events(), FIRST_EVENTS)))
            await until_committed(worker, FIRST_EVENTS, seconds=60)
            worker.kill()
        progress(f"takeover: writing {rows:,} rows")
        size = await write_rows(settings, rows, templates)
        await asyncio.sleep(settings.session_timeout_seconds)  # ends the session of the killed worker
        sending = asyncio.create_task(_send(settings, itertools.islice(_events(), FIRST_EVENTS, None), rate))
        try:
            yield size
        finally:
            sending.cancel()
            await asyncio.wait({sending})
        if not sending.cancelled():
            sending.result()
    finally:
        await delete_topics(settings)


def _events() -> Iterator[LoggedEvent]:
    """Yield events without end, one drawn day after the other."""
    for day in itertools.count():
        yield from load(DAY_EVENTS, shape="independent", seed=day + 1, start_ms=START_MS + day * DAY_MS).events()


async def _send(settings: Settings, events: Iterator[LoggedEvent], rate: float) -> None:
    """Send events at a steady rate for ever, without waiting for their acknowledgements."""
    names, partitions = {kind: topic.name for kind, topic in settings.topics().items()}, settings.partitions or 1
    producer, started = output_producer(settings), time.monotonic()
    await producer.start()
    try:
        for number, event in enumerate(events):
            if (ahead := number / rate - (time.monotonic() - started)) > 0.01:
                await asyncio.sleep(ahead)
            await producer.send(
                names[event.kind],
                event.value,
                key=event.key,
                partition=partition_of(event.key, partitions, settings.partitioner),
                timestamp_ms=event.record_ms,
            )
    finally:
        await producer.stop()


async def _kills(settings: Settings, repeats: int, progress: Callable[[str], None]) -> Figures:
    """Kill -9 one of two workers repeatedly; return seconds to detection, of the takeover, and of the longest pause."""
    detection, takeover, pauses = [], [], []
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(Running(ENGINES["footfall"], settings)) for _ in range(2)]
        watch = await stack.enter_async_context(Watch(settings))
        for repeat in range(repeats):
            await _shared(workers, settings)
            victim, other = workers[repeat % 2], workers[1 - repeat % 2]
            moved = owned_partitions(await asyncio.to_thread(victim.metrics))
            killed = time.monotonic()
            victim.kill()
            detected = await watch.first(
                "the group removed the killed worker", lambda at: at.members == 1, after=killed, worker=other
            )
            before = watch.at(detected).committed
            taken = await watch.first(
                "the other worker commits for all partitions",
                lambda at, moved=moved, before=before: all(at.committed[number] > before[number] for number in moved),  # type: ignore[misc]
                after=detected,
                worker=other,
            )
            detection.append(detected - killed)
            takeover.append(taken - detected)
            during = [sample for sample in watch.samples if killed - 1 <= sample.at <= taken + 1]
            pauses.append(max(longest_pauses(during)[number] for number in moved))
            progress(
                f"takeover: {settings.standbys} standbys, detected after {detection[-1]:.1f} s, "
                f"taken over {takeover[-1]:.1f} s later"
            )
            victim.start()
    return {
        "detection_seconds": spread(detection, 2),
        "takeover_seconds": spread(takeover, 2),
        "pause_seconds": spread(pauses, 2),
    }


async def _rolling_restart(settings: Settings, way: Restart, progress: Callable[[str], None]) -> Figures:
    """Restart three workers one after the other; return the longest pause of any partition at each restart, in seconds."""
    given = [settings.model_copy(update={"instance_id": f"member-{number}"}) if way.static else settings for number in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(Running(ENGINES["footfall"], one)) for one in given]
        watch = await stack.enter_async_context(Watch(settings))
        await _shared(workers, settings)
        began = []
        for worker in workers:
            began.append(time.monotonic())
            worker.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(worker.process.wait, STOP_SECONDS)
            worker.start()
            await _shared(workers, settings)
        ended = [*began[1:], time.monotonic()]
        pauses = [
            max(longest_pauses([sample for sample in watch.samples if start <= sample.at <= end]).values())
            for start, end in zip(began, ended, strict=True)
        ]
    progress(f"takeover: rolling restart, {way.name}: longest pauses {', '.join(f'{pause:.1f}' for pause in pauses)} s")
    return {"pause_seconds": [round(pause, 2) for pause in pauses], "longest_pause_seconds": round(max(pauses), 2)}


async def _shared(workers: list[Running], settings: Settings) -> None:
    """Wait until all workers are ready, own equal shares, and their standbys have read everything.

    Raises:
        RunError: a worker exited, or it takes too long.
    """
    deadline, found = time.monotonic() + WAIT_SECONDS, ""
    while time.monotonic() < deadline:
        for worker in workers:
            if worker.process.poll() is not None:
                raise RunError(f"a worker exited with {worker.process.returncode}: {worker.last_log_lines()}")
        metrics = [await asyncio.to_thread(worker.metrics) for worker in workers]
        owned = [len(owned_partitions(one)) for one in metrics]
        ready = [await asyncio.to_thread(worker.ready) for worker in workers]
        behind = [_follows(one) for one in metrics]
        if all(ready) and owned == [PARTITIONS // len(workers)] * len(workers) and (all(behind) or not settings.standbys):
            return
        found = f"ready {ready}, partitions {owned}, standbys follow {behind}"
        await asyncio.sleep(0.2)
    raise RunError(f"found {found} after {WAIT_SECONDS:.0f} s, expected equal shares of {PARTITIONS}, ready and followed")


def _follows(metrics: dict[str, float]) -> bool:
    return metrics.get("footfall_standby_users", 0) > 0 and metrics.get("footfall_standby_lag_records", 1) < 1_000
