"""Run real roles against a real broker in tests: topics, publishing, worker processes, committed state.

Start at Deployment.
"""

import asyncio
import json
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiokafka
import msgspec
from aiokafka.admin import NewTopic
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import TopicPartition

from schemas.topics import Topic
from stream.fold.records import Totals
from stream.kafka.clients import admin_client, output_producer, plain_consumer
from stream.kafka.store import END_KEY, META_KEY, MetaRow
from stream.kafka.topic_admin import existing_partitions
from stream.kafka.topic_reader import open_reader
from stream.logs.event_log import LoggedEvent
from stream.offline.replay_log import Replay
from stream.operate.supervisor import environment_of
from stream.process.settings import Settings, load_settings
from stream.roles.trigger_row import encode_trigger_row

PATIENCE = 5.0  # limits are that many times what a calm machine needs: they only end a test that hangs


class Worker:
    """One role process; `log` holds its stderr. A `program` runs instead of the command, to inject a bug."""

    def __init__(self, deployment: "Deployment", role: str, environment: Mapping[str, str], program: str | None = None) -> None:
        number = len(deployment.workers)
        self.role, self.status = role, deployment.folder / f"{role}-{number}.json"
        self.log = deployment.folder / f"{role}-{number}.log"
        env = environment_of(deployment.settings, FOOTFALL_STATUS_FILE=str(self.status), **environment)
        self.process = subprocess.Popen(
            [sys.executable, *(["-m", "stream.cli.main"] if program is None else ["-c", program]), "worker", role],
            env=env,
            cwd=deployment.folder,
            stderr=self.log.open("wb"),
            stdout=subprocess.DEVNULL,
        )

    def get(self, path: str) -> tuple[int, str]:
        """GET from the worker's HTTP server: status and body, or (0, "") if it does not answer."""
        try:
            port = json.loads(self.status.read_text())["port"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str) -> float:
        """Return one sample of /metrics, by its full name with labels; 0 if it is missing."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        return 0.0

    def ready(self) -> bool:
        """Return whether /readyz answers 200; fail if the process has exited."""
        assert self.process.poll() is None, f"{self.role} exited with {self.process.returncode}: {self.tail()}"
        return self.get("/readyz")[0] == 200

    def kill(self) -> None:
        """Kill -9 the process, which must still be alive."""
        assert self.process.poll() is None, self.tail()
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the process a signal and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(10 * PATIENCE)

    def tail(self) -> str:
        """Return the end of the log."""
        return self.log.read_text(errors="replace")[-3000:]


class Deployment:
    """A set of topics on a broker under its own prefix, and the workers started on it."""

    def __init__(self, bootstrap: str, folder: Path, **settings: Any) -> None:
        name = f"t{secrets.token_hex(4)}"
        self.folder, self.workers = folder, list[Worker]()
        self.given: dict[str, Any] = {
            "kafka_bootstrap_servers": bootstrap,
            "topic_prefix": f"{name}.",
            "app_id": name,
            "partitions": 4,
            "replication_factor": 1,
            "retention_ms": -1,
            "session_timeout_seconds": 6,
            **settings,
        }
        self.settings: Settings = load_settings(**self.given)
        self.partitions: int = self.given["partitions"]

    def start(self, role: str, program: str | None = None, **environment: str) -> Worker:
        """Start another worker of a role with extra environment variables; a `program` runs instead of the command."""
        worker = Worker(self, role, environment, program)
        self.workers.append(worker)
        return worker

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a footfall command with this deployment's settings until it exits."""
        return subprocess.run(
            [sys.executable, "-m", "stream.cli.main", *words],
            env=environment_of(self.settings),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def stop(self) -> None:
        """Kill all workers that are still running."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()

    def topic(self, kind: str) -> str:
        """Return a topic's name."""
        return self.settings.topics()[kind].name

    async def create_topics(self, *, homes: Mapping[tuple[str, int], int] | None = None) -> None:
        """Create every topic and changelog; with `homes`, on broker 1 except for the partitions that it names."""
        admin = admin_client(self.settings)
        await admin.start()
        topics: Iterable[Topic] = self.settings.topics().values()
        new = [NewTopic(topic.name, self.partitions, 1, topic_configs=configs_of(topic)) for topic in topics]
        new += [
            NewTopic(self.settings.changelog(role), self.partitions, 1, topic_configs={"cleanup.policy": "compact"})
            for role in ("features", "triggers")
        ]
        if homes is not None:
            new = [
                NewTopic(
                    topic.name,
                    -1,
                    -1,
                    replica_assignments={number: [homes.get((topic.name, number), 1)] for number in range(self.partitions)},
                    topic_configs=topic.topic_configs,
                )
                for topic in new
            ]
        names = {topic.name for topic in new}

        async def visible() -> bool:
            return names <= (await existing_partitions(admin)).keys()

        try:
            await admin.create_topics(new)
            await until("the broker names the topics that it created", visible, seconds=30)
        finally:
            await admin.close()

    async def publish(
        self,
        events: Iterable[LoggedEvent],
        *,
        per_second: float = 0.0,
        hurry: asyncio.Event | None = None,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        """Publish events in order to the partitions of a replay, at `per_second` until `hurry` is set, or at full speed.

        Until then it also pauses while `may_send` returns false.
        """
        replay = self.replay()
        names = {kind: topic.name for kind, topic in self.settings.topics().items()}
        producer = output_producer(self.settings)
        await producer.start()
        started = time.monotonic()
        try:
            sends = []
            for count, event in enumerate(events):
                while per_second and not (hurry and hurry.is_set()) and not may_send():
                    await asyncio.sleep(0.05)
                    started += 0.05
                paced = per_second and not (hurry and hurry.is_set())
                if paced and (ahead := count / per_second - (time.monotonic() - started)) > 0.01:
                    await asyncio.sleep(ahead)
                sends.append(
                    await producer.send(
                        names[event.kind],
                        event.value,
                        key=event.key,
                        partition=replay.partition_of(event.key),
                        timestamp_ms=event.record_ms,
                    )
                )
            await asyncio.gather(*sends)
        finally:
            await producer.stop()

    def replay(self) -> Replay:
        """Return a replay with this deployment's settings."""
        return Replay(self.settings, partitions=self.partitions)

    async def read(self, topic: str) -> list[Any]:
        """Read a topic to its end; read_committed if the broker has transactions."""
        consumer = plain_consumer(self.settings, retry_backoff_ms=5)
        await consumer.start()
        try:
            tps = [TopicPartition(topic, number) for number in range(self.partitions)]
            reader = await open_reader(consumer, tps)
            return [record async for record in reader.records()]
        finally:
            await consumer.stop()

    async def committed(self, role: str) -> tuple[dict[bytes, bytes], Totals]:
        """Return a role's rows from its changelog, and the totals committed with them."""
        rows: dict[bytes, bytes] = {}
        metas: dict[int, bytes] = {}
        for record in await self.read(self.settings.changelog(role)):
            if record.key == META_KEY:
                metas[record.partition] = record.value
            elif record.key != END_KEY:
                rows[record.key] = record.value
        total = Totals()
        for value in filter(None, metas.values()):  # a reset deletes it
            total.add(msgspec.msgpack.decode(value, type=MetaRow).totals.events)
        return rows, total

    async def lag(self, role: str, kinds: Iterable[str]) -> int:
        """Return the consumer lag of the role's group on some topics."""
        admin = admin_client(self.settings)
        consumer = aiokafka.AIOKafkaConsumer(  # bounds its wait for each unknown topic
            bootstrap_servers=self.settings.kafka_bootstrap_servers, retry_backoff_ms=5
        )
        committed: dict[TopicPartition, Any] = {}
        await asyncio.gather(admin.start(), consumer.start())
        try:
            tps = [TopicPartition(self.topic(kind), number) for kind in kinds for number in range(self.partitions)]
            with suppress(GroupCoordinatorNotAvailableError):  # a new broker creates its offsets topic for the first group
                committed = await admin.list_consumer_group_offsets(f"{self.settings.app_id}-{role}")
            end = await consumer.end_offsets(tps)
            return sum([end[tp] - (max(0, committed[tp].offset) if tp in committed else 0) for tp in tps])
        finally:
            await asyncio.gather(admin.close(), consumer.stop())


def configs_of(topic: Topic) -> dict[str, str]:
    """Return the configs of a topic as `topics apply` sets them, but it keeps records for ever."""
    return {"retention.ms": "-1", "cleanup.policy": topic.cleanup, "message.timestamp.type": topic.timestamps}


def folded_rows(replay: Replay) -> dict[bytes, bytes]:
    """Return the rows that a replay folded, encoded as in the changelog."""
    replay.pack()
    return {key: row for rows in replay.rows.values() for key, row in rows.items() if isinstance(row, bytes)}


def decided_rows(replay: Replay) -> dict[bytes, bytes]:
    """Return the rows of the triggers role after a replay."""
    return {key: encode_trigger_row(row) for rows in replay.trigger_rows.values() for key, row in rows.items()}  # type: ignore[arg-type]


async def until(
    what: str, check: Callable[[], Any], *, seconds: float, worker: Worker | None = None, patience: float = PATIENCE
) -> None:
    """Wait until a sync or async check is true; fail with `what` and the worker's log after `seconds` times `patience`."""
    seconds *= patience
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}; {worker.tail() if worker else ''}"
        await asyncio.sleep(0.1)
