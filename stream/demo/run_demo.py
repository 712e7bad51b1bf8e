"""Run the whole system on one machine: embedded broker, simulated shop, three roles and metrics; then clean up.

Events are sent at a steady rate, but keep their timestamps: months of the simulated shop pass in minutes. They end before
the present. This module knows nothing about terminals. Start at run_demo.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext, suppress
from pathlib import Path

import aiohttp
from msgspec import Struct, field

from schemas.errors import RunError
from schemas.time_units import HOUR_MS
from stream.demo.demo_events import SimulatedYear
from stream.demo.demo_figures import SEEN_KINDS, RoleFigures, Watched, parse_metrics, percentile
from stream.demo.local_broker import LocalBroker
from stream.kafka.topic_admin import apply
from stream.logs.event_log import LoggedEvent, read_log, read_manifest
from stream.operate.child_processes import running_processes
from stream.operate.send_log import Sent, at_rate, send_events
from stream.operate.supervisor import Launch, Supervisor, environment_of, last_log_lines
from stream.operate.tail import follow
from stream.process.settings import Settings, load_settings
from stream.roles.table import ROLES

PARTITIONS = 4
POLL_SECONDS = 0.5
READY_SECONDS = 90.0
DRAIN_SECONDS = 15.0
RESTARTS_AT_MOST = 3  # consecutive restarts of one role


class DemoOptions(Struct, frozen=True, kw_only=True):
    """Events from `log` or from a simulated shop; `seconds` counts from the first event, None means until stopped."""

    seconds: float | None = None
    log: Path | None = None
    rate: float = 300.0
    shoppers: int = 1500
    seed: int = 1


class DemoState(Struct):
    """Progress and metrics of the running demo."""

    phase: str = "starting"
    started: float = field(default_factory=time.monotonic)
    sending_since: float | None = None
    sent: Sent = field(default_factory=Sent)
    roles: dict[str, RoleFigures] = field(default_factory=lambda: {role: RoleFigures() for role in ROLES})
    watched: Watched = field(default_factory=Watched)
    restarts: int = 0


class DemoResult(Struct, frozen=True, kw_only=True):
    """Totals of the demo; `events_in` = `applied` + `replay_skipped` + `dead_lettered` + `declared_dropped`."""

    events_sent: int
    events_in: int
    applied: int
    replay_skipped: int
    dead_lettered: int
    declared_dropped: int
    score_requests: int
    signals: dict[str, int]
    triggers: int
    suppressions: int
    first_score_s: float | None
    event_to_score_ms: dict[str, int | None]
    lag: int
    restarts: int
    orphan_processes: int
    seconds: float


async def run_demo(options: DemoOptions, stop: asyncio.Event, show: Callable[[DemoState], None]) -> DemoResult:
    """Run until `stop` is set or the time is up, and call `show` about twice a second. Call this from the main thread.

    Raises:
        RunError: a process exited for good, or a role did not become ready; nothing is left running.
    """
    state = DemoState()
    sessions: set[int] = set()
    async with AsyncExitStack() as stack:
        events = stack.enter_context(events_of(options, int(time.time() * 1000)))
        state.phase = "starting the broker"
        show(state)
        broker = stack.enter_context(LocalBroker())
        sessions.add(broker.pid)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="footfall-demo-")))
        settings = demo_settings(broker.bootstrap_servers)
        if not settings.checkpoint.is_dir():
            raise RunError(
                f"found no model in {settings.checkpoint}, expected a checkpoint: run `footfall train`, or set "
                "FOOTFALL_CHECKPOINT"
            )
        await apply(settings)
        launch = Launch(environment_of(settings, TMPDIR=str(directory)))
        supervisor = Supervisor(
            lambda role: launch,
            directory,
            drain_seconds=settings.drain_seconds,
            restarts_at_most=RESTARTS_AT_MOST,
        )
        await supervisor.start()
        stack.push_async_callback(supervisor.stop)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)))
        run = _Run(settings, broker, supervisor, http, state, show)
        watching = asyncio.create_task(_watch(settings, state))
        stack.callback(watching.cancel)
        run.tasks.append(watching)
        state.phase = "waiting for the roles"
        await run.until(run.ready, READY_SECONDS, stop)
        if not run.ready() and not stop.is_set():
            raise RunError(f"roles not ready after {READY_SECONDS:g} s: {', '.join(run.unready())}; {run.last_log_lines()}")
        if not stop.is_set():
            state.phase, state.sending_since = "running", time.monotonic()
            sending = asyncio.create_task(
                send_events(events, settings, partitions=PARTITIONS, pace=at_rate(options.rate), sent=state.sent)
            )
            stack.callback(sending.cancel)
            run.tasks.append(sending)
            await run.until(lambda: sending.done() and options.log is not None, options.seconds, stop)
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending
        if state.sent.total:
            state.phase = "waiting for zero consumer lag"
            await run.until(run.drained, DRAIN_SECONDS, asyncio.Event())
            if not run.drained():
                lag = sum(figures.lag for figures in state.roles.values())
                raise RunError(
                    f"consumer lag is {lag} records {DRAIN_SECONDS:g} s after the last send, expected 0; {run.last_log_lines()}"
                )
        state.phase = "stopping the roles"
        show(state)
        await supervisor.stop()
        state.restarts = supervisor.restarts
        sessions |= supervisor.sessions
        if supervisor.failures:
            raise RunError("; ".join(supervisor.failures))
    return _result(state, len(running_processes(sessions)))


def events_of(options: DemoOptions, now_ms: int) -> AbstractContextManager[Iterable[LoggedEvent]]:
    """Return the demo's events: from a log, or from a simulated year.

    Raises:
        RunError: the log has timestamps in the future, which Kafka rejects.
    """
    if options.log is None:
        return SimulatedYear(options.seed, options.shoppers, now_ms)
    last_ms = read_manifest(options.log).last_record_ms
    if last_ms is not None and last_ms > now_ms + HOUR_MS:
        raise RunError(f"{options.log} has timestamps more than 1 h in the future, which Kafka refuses: choose another log")
    return nullcontext(read_log(options.log))


def demo_settings(bootstrap_servers: str) -> Settings:
    """Load the settings as usual, but point them at the embedded broker, so that the user's own Kafka is never used."""
    return load_settings(
        kafka_bootstrap_servers=bootstrap_servers,
        kafka_security_protocol="PLAINTEXT",
        partitions=PARTITIONS,
        replication_factor=1,
        retention_ms=-1,
        transactions=False,
        session_timeout_seconds=6,
        http_host="127.0.0.1",
        http_port=0,
        log_format="json",
    )


class _Run:
    """Polls the broker, the roles and the tasks of a running demo."""

    def __init__(
        self,
        settings: Settings,
        broker: LocalBroker,
        supervisor: Supervisor,
        http: aiohttp.ClientSession,
        state: DemoState,
        show: Callable[[DemoState], None],
    ) -> None:
        self.settings, self.broker, self.supervisor = settings, broker, supervisor
        self.http, self.state, self.show = http, state, show
        self._drained_before = False
        self.tasks: list[asyncio.Task[object]] = []  # fail the demo if one of them fails

    async def until(self, done: Callable[[], bool], seconds: float | None, stop: asyncio.Event) -> None:
        """Poll and show until `done`, `stop` or the deadline.

        Raises:
            RunError: a process exited for good.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            await self._poll()
            self.show(self.state)
            if done() or stop.is_set() or (deadline is not None and time.monotonic() >= deadline):
                return
            pause = POLL_SECONDS if deadline is None else min(POLL_SECONDS, max(0.0, deadline - time.monotonic()))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stop.wait()

    async def _poll(self) -> None:
        if self.supervisor.failures:
            raise RunError("; ".join(self.supervisor.failures))
        if not self.broker.alive:
            raise RunError("the embedded broker exited: start the demo again")
        for task in self.tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise RunError(f"a task of the demo failed: {error!r}")
        self.supervisor.refresh()
        self.state.restarts = self.supervisor.restarts
        for role in self.supervisor.roles.values():
            figures = self.state.roles[role.role]
            figures.ready = False
            if role.port is None:
                continue
            with suppress(aiohttp.ClientError, TimeoutError, ValueError):
                async with self.http.get(f"http://127.0.0.1:{role.port}/metrics") as response:
                    self.state.roles[role.role] = parse_metrics(await response.text())

    def unready(self) -> list[str]:
        """List the roles that are not ready."""
        return [role for role, figures in self.state.roles.items() if not figures.ready]

    def ready(self) -> bool:
        """Return whether every role is ready."""
        return not self.unready()

    def drained(self) -> bool:
        """Return whether every sent event was applied, scored and decided, in this poll and the previous one."""
        roles, watched = self.state.roles, self.state.watched
        requests = roles["features"].outputs.get("score-request", 0)
        now = (
            self.ready()
            and roles["features"].records.get("in", 0) >= self.state.sent.total
            and all(figures.lag == 0 for figures in roles.values())
            and watched.count("interest") >= requests
            and watched.count("churn-risk") >= requests
        )
        twice, self._drained_before = now and self._drained_before, now
        return twice

    def last_log_lines(self) -> str:
        """Return the last log lines of the roles that are not ready."""
        return "; ".join(
            f"last log of {role}: {last_log_lines(self.supervisor.roles[role].last_lines)}" for role in self.unready()
        )


async def _watch(settings: Settings, state: DemoState) -> None:
    """Count the records that the roles publish."""
    names = {settings.topics()[kind].name: kind for kind in SEEN_KINDS}
    async for record in follow(settings, list(names), from_beginning=True):
        state.watched.see(names[record.topic], record.value, int(time.time() * 1000))


def _result(state: DemoState, orphans: int) -> DemoResult:
    features, watched = state.roles["features"], state.watched
    records = features.records
    now_ms, now = int(time.time() * 1000), time.monotonic()
    started_ms = now_ms - (now - state.started) * 1000
    return DemoResult(
        events_sent=state.sent.total,
        events_in=records.get("in", 0),
        applied=records.get("applied", 0),
        replay_skipped=records.get("replay_skipped", 0),
        dead_lettered=records.get("dead_lettered", 0),
        declared_dropped=records.get("late_dropped", 0) + records.get("duplicate_dropped", 0),
        score_requests=features.outputs.get("score-request", 0),
        signals={
            "interest": watched.count("interest"),
            "churn_risk": watched.count("churn-risk"),
            "sentiment": watched.count("review-sentiment"),
        },
        triggers=watched.count("ad-trigger"),
        suppressions=watched.count("suppression"),
        first_score_s=None if watched.first_seen_ms is None else round((watched.first_seen_ms - started_ms) / 1000, 1),
        event_to_score_ms={name: percentile(watched.latencies_ms, share) for name, share in (("p50", 0.5), ("p99", 0.99))},
        lag=sum(figures.lag for figures in state.roles.values()),
        restarts=state.restarts,
        orphan_processes=orphans,
        seconds=round(now - state.started, 1),
    )
