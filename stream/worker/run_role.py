"""Run one role in this process, from start to exit code.

The exit code is 0 after a stop request. It is 75 if the process must be restarted, and then resumes from the last commit. It
is 78 if a person must first correct a setting, a topic or the stored state. Start at run_role.
"""

import asyncio
import gc
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, TopicAuthorizationFailedError

from schemas.errors import BrokerError, RowVersionError, SettingsError, StartRefused
from schemas.topics import dlq
from stream.kafka.clients import admin_client
from stream.kafka.connection_check import broker_error
from stream.kafka.topic_admin import LOG_APPEND_TIME, TIMESTAMP_TYPE, topic_configs
from stream.process.access_faults import access_fault
from stream.process.exit_codes import EXIT_CONFIG, crash_only, end_crashed, end_process, end_stopped
from stream.process.fault_points import FAULT, arm
from stream.process.log import configure_logging
from stream.process.settings import Settings
from stream.roles.table import ROLE_TOPICS, Role
from stream.worker.app import FootfallApp
from stream.worker.build_app import build_app
from stream.worker.feature_specs import KIND, publish_spec
from stream.worker.health import Health

JOINING_SECONDS = 2.0  # to stop while joining: Faust may wait for an assignment before it stops
STATUS_FILE = "FOOTFALL_STATUS_FILE"
GARBAGE_SECONDS, FULL_GARBAGE_IDLE_SECONDS, FULL_GARBAGE_SECONDS = 10.0, 600.0, 3600.0

log = structlog.get_logger()


def run_role(settings: Settings, role: Role) -> int:
    """Run one role until SIGTERM, Ctrl-C or an error ends the process; return only with the exit code of a bad setting."""
    configure_logging(settings, role)
    log.info("settings", role=role, **settings.printable(), action="used until this process ends")
    if not settings.transactions:
        log.warning(
            "transactions_off",
            fact="a crash may count events twice in the totals, and a stalled worker may overwrite rows",
            action="continuing; set transactions=true on Apache Kafka",
        )
    try:
        arm(os.environ.get(FAULT, ""))
        asyncio.run(_run(settings, role))
    except (SettingsError, StartRefused) as error:
        log.error("exit", reason=str(error), code=EXIT_CONFIG, action="correct the cause, then start the worker again")
        return EXIT_CONFIG


async def _run(settings: Settings, role: Role) -> NoReturn:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # by default it ends the process: only mode.Worker installs a handler
    health = Health(role)
    try:
        port = await health.serve(settings.http_host, settings.http_port)
    except OSError as error:
        raise SettingsError(f"setting http_port: {error}, expected a free port at {settings.http_host}") from error
    _write_status(role, port)
    try:
        preparing = asyncio.create_task(_prepare(settings, role))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({preparing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            end_stopped(role, "the worker stopped before it joined the consumer group")
        partitions, model = preparing.result()
        app = health.app = build_app(settings, role, partitions=partitions, model=model)
        health_url = f"http://{settings.http_host}:{port}"
        log.info("started", role=role, health=health_url, partitions=partitions, action="joining the consumer group")
        await _serve(app, stop)
        await _stop(app, settings.drain_seconds)
    finally:
        await health.close()
    end_stopped(role, "all chunks in flight are finished and committed")


async def _prepare(settings: Settings, role: Role) -> tuple[int, Any]:
    """Check the topics and return their partition count, and the loaded model of role scorer (None for other roles)."""
    partitions = await equal_partitions(settings, role)
    return partitions, await asyncio.to_thread(load_model, settings) if role == "scorer" else None


async def _start(app: FootfallApp) -> None:
    await app.outbox_producer.start()
    if app.role == "features":  # before the first request of this spec
        await publish_spec(app.settings, app.outbox_producer)
    await app.start()


async def _serve(app: FootfallApp, stop: asyncio.Event) -> None:
    """Run the app until a stop request; a crash of Faust's services ends the process."""
    starting = asyncio.create_task(_start(app))
    stopping = asyncio.create_task(stop.wait())
    crashed = asyncio.create_task(app._crashed.wait())
    tasks: list[asyncio.Task[Any]] = [starting, stopping, crashed]
    try:
        await asyncio.wait({starting, stopping, crashed}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and not starting.cancelled() and starting.exception() is not None:
            end_crashed("the worker could not start", starting.exception())
        tasks.append(asyncio.create_task(collect_garbage(app)))
        tasks.append(asyncio.create_task(crash_only("topics", app.watch.run())))
        if app.model is not None:
            tasks.append(asyncio.create_task(app.model.watch()))
        await asyncio.wait({stopping, crashed}, return_when=asyncio.FIRST_COMPLETED)
        if crashed.done():
            if isinstance(app.crash_reason, RowVersionError | StartRefused):
                end_process(f"restore: {app.crash_reason}; nothing was written to its partition", code=EXIT_CONFIG)
            if isinstance(app.crash_reason, OffsetOutOfRangeError):  # retention, or a new topic with fewer records
                await crash_only("topics", app.check_topics())
            end_crashed("Faust crashed", app.crash_reason)
    finally:
        for task in tasks:
            task.cancel()


async def collect_garbage(app: FootfallApp) -> None:
    """Run garbage collections on a schedule, because Python's own would scan all rows again and again.

    Rows hold no cycles and are most of the objects. So only the youngest generation is scanned every few seconds, and
    everything only after a while without folded records, or once an hour.
    """
    gc.disable()
    full, before = time.monotonic(), -1
    while True:
        await asyncio.sleep(GARBAGE_SECONDS)
        now, folded = time.monotonic(), app.totals().events.events_in
        if now - full > (FULL_GARBAGE_IDLE_SECONDS if folded == before else FULL_GARBAGE_SECONDS):
            gc.collect()
            full = time.monotonic()
        else:
            gc.collect(0)
        before = folded


async def _stop(app: FootfallApp, drain_seconds: float) -> None:
    """Finish the chunks in flight, make them durable, commit and leave the group; exit hard if that takes too long."""
    if app.store is None and app.limit.paused:
        end_stopped(app.role, "paused: requests in flight are not acknowledged and will be read again")
    joined = app.tables.actives_ready or app.has_pending_work()
    seconds = drain_seconds if joined else min(drain_seconds, JOINING_SECONDS)
    try:
        async with asyncio.timeout(seconds):
            await app.stop()
            if app.store is not None:
                await app.store.close()
            await app.outbox_producer.stop()
    except TimeoutError:
        if not app.has_pending_work():
            end_stopped(app.role, f"no chunks in flight; the broker did not respond within {seconds} s")
        end_process(f"the chunks in flight were not durable within {seconds} s after the stop request (drain_seconds)")


async def equal_partitions(settings: Settings, role: Role) -> int:
    """Return the partition count of all topics of a role, including its changelog and the dead-letter topics of its inputs.

    Raises:
        SettingsError: a topic is missing or not permitted, counts differ, or the settings of the connection are wrong.
    """
    kinds = ROLE_TOPICS[role].reads
    names = [settings.topics()[kind].name for kind in (*kinds, *map(dlq, kinds))]
    if role != "triggers":
        names.append(settings.topics()[KIND].name)
    if role != "scorer":
        names.append(settings.changelog(role))
    admin = admin_client(settings)
    try:
        await admin.start()
        described = await admin.describe_topics(names)
        if settings.transactions:
            await _check_configs(admin, settings, role)
    except KafkaError as error:
        refused = await broker_error(settings, error)
        if isinstance(refused, SettingsError):
            raise refused from error
        end_process(str(refused))
    finally:
        await admin.close()
    found = {topic["topic"]: len(topic["partitions"]) for topic in described if topic["error_code"] == 0}
    if denied := [topic["topic"] for topic in described if topic["error_code"] == TopicAuthorizationFailedError.errno]:
        raise SettingsError(access_fault(TopicAuthorizationFailedError(denied)))
    if missing := [name for name in names if name not in found]:
        raise SettingsError(f"topics: found none named {', '.join(missing)}, expected them: run `footfall topics apply`")
    if len(set(found.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in found.items())
        raise SettingsError(f"topics: found partition counts {counts}; expected equal counts: run `footfall topics plan`")
    return next(iter(found.values()))


async def _check_configs(admin: AIOKafkaAdminClient, settings: Settings, role: Role) -> None:
    """Refuse a changelog from which retention would delete rows, and topics of ours that keep a worker's timestamps.

    Raises:
        SettingsError: a topic has another cleanup policy or timestamp type than `footfall topics apply` sets.
    """
    topics, kinds = settings.topics(), ROLE_TOPICS[role]
    used = [topics[kind] for kind in (*kinds.reads, *map(dlq, kinds.reads), *kinds.sends)]
    expected: dict[str, tuple[str, str]] = {
        topic.name: (TIMESTAMP_TYPE, LOG_APPEND_TIME) for topic in used if topic.timestamps == LOG_APPEND_TIME
    }
    if role != "scorer":
        expected[settings.changelog(role)] = ("cleanup.policy", "compact")
    reasons = {
        "cleanup.policy": "since retention would delete rows",
        TIMESTAMP_TYPE: "since a worker with a wrong clock would let retention delete records before anyone reads them",
    }
    try:
        configs = await topic_configs(admin, list(expected)) or {}
    except (BrokerError, SettingsError) as error:
        log.warning("topic_configs_unchecked", reason=str(error), action="starting without this check")
        return
    for topic, (name, wanted) in expected.items():
        found = configs.get(topic, {}).get(name, (wanted, False))[0]
        if found != wanted:
            raise SettingsError(
                f"topic {topic}: found {name} {found}, expected {wanted}, {reasons[name]}: run `footfall topics apply`"
            )


def load_model(settings: Settings) -> Any:
    """Load the first model of role scorer. This takes seconds: call it in a thread.

    Raises:
        SettingsError: the folder cannot be served, whatever is wrong with it: another start would find the same.
    """
    from schemas.errors import ModelError, RegistryError
    from stream.worker.served_model import ServedModel

    try:
        return ServedModel(settings.checkpoint, also=settings.also_checkpoints, threads=settings.model_threads)
    except (ModelError, RegistryError) as error:
        raise SettingsError(f"setting checkpoint: {error}") from error
    except MemoryError as error:
        end_process(f"could not load the model in {settings.checkpoint}: {error!r}")
    except Exception as error:  # a manifest, weights or an encoder that break the code that reads them
        if "out of memory" in str(error):  # of a device, which another process may free
            end_process(f"could not load the model in {settings.checkpoint}: {error!r}")
        raise SettingsError(
            f"setting checkpoint: found {error!r} while loading {settings.checkpoint}, expected a model that "
            "`footfall models check` accepts: correct the folder, or set another one"
        ) from error


def _write_status(role: Role, port: int) -> None:
    """Write the port of this worker's HTTP server for a supervisor, in one atomic step."""
    path = os.environ.get(STATUS_FILE)
    if path:
        partial = Path(f"{path}.partial")
        partial.write_text(json.dumps({"role": role, "pid": os.getpid(), "port": port}))
        partial.replace(path)
