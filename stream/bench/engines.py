"""Run the stream engines that a benchmark compares, and read what each has committed.

Footfall is the worker as deployed. The other engines are the programs in tests/bench/peers, which import Footfall's fold,
so that only the engine around it differs. Start at Engine and Running.
"""

import asyncio
import contextlib
import json
import os
import pickletools
import sqlite3
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

from schemas.errors import RunError
from stream.bench.broker import GroupOffsets
from stream.operate.child_processes import die_with_parent
from stream.operate.supervisor import environment_of
from stream.process.settings import Settings

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "tests" / "bench" / "peers"
VENVS = ROOT / ".venv-peers"
STATUS, RECOVERY = "status.json", "recovery"
INTEGERS = ("BININT", "BININT1", "BININT2", "LONG1")  # pickle codes of an offset
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class Engine(Struct, frozen=True, kw_only=True):
    """One engine: its `program` and `venv`, a description of its `job`, and the `share` of Footfall's events that it reads.

    It reads at least `least` events, so that a run spans several of its commits.
    """

    name: str
    guarantee: str
    job: str
    group: str
    share: float = 1.0
    least: int = 10_000
    program: str = ""
    venv: str = ""
    package: str

    def command(self) -> list[str]:
        """Return the command line that starts the engine.

        Raises:
            RunError: its venv does not exist.
        """
        if not self.program:
            return [sys.executable, "-m", "stream.cli.main", "worker", "features"]
        python = VENVS / self.venv / "bin" / "python" if self.venv else Path(sys.executable)
        if not python.exists():
            raise RunError(f"engine {self.name}: found no {python}, expected its venv: run tests/bench/peers/setup")
        return [str(python), str(PEERS / self.program)]

    def events(self, footfall_events: int) -> int:
        """Return how many events the engine reads when Footfall reads `footfall_events`."""
        return max(self.least, round(footfall_events * self.share))

    def version(self) -> str:
        """Return the engine's package and version, from our installed packages or from the peer's pins."""
        if not self.venv:
            from importlib.metadata import version

            return f"{self.package} {version(self.package)}"
        pins = (PEERS / f"{self.venv}.txt").read_text().splitlines()
        return next(pin.replace("==", " ") for pin in pins if pin.startswith(f"{self.package}=="))


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            name="footfall",
            guarantee="effectively once: rows, totals and source offsets in one Kafka transaction",
            job="the worker as deployed",
            group="features",
            package="faust-streaming",
        ),
        Engine(
            name="stock-faust",
            guarantee="at least once; Faust commits offsets without waiting for its changelog",
            job="same fold and outputs; rows cached decoded, encoded and stored per event; no event-time alignment",
            group="twin",
            share=1 / 15,
            least=20_000,
            program="stock_faust.py",
            package="faust-streaming",
        ),
        Engine(
            name="quix",
            guarantee="exactly once: outputs, changelog and offsets in one Kafka transaction, every second",
            job="same fold and outputs, aligned by event time; rows cached decoded, encoded and written to RocksDB per event",
            group="quix",
            share=1 / 4,
            least=60_000,
            program="quix_streams.py",
            venv="quix",
            package="quixstreams",
        ),
        Engine(
            name="bytewax",
            guarantee="state exactly once, outputs at least once; recovery store is local SQLite, one epoch per second",
            job="same fold and outputs; rows decoded in memory, encoded per epoch; no event-time alignment, no replication",
            group="",
            share=1 / 2,
            least=100_000,
            program="bytewax_flow.py",
            venv="bytewax",
            package="bytewax",
        ),
    )
}


class Running:
    """One engine's process on one run's topics; an asynchronous context that kills the process at the end."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        """Run `engine` with the settings of a run."""
        self.engine, self.settings = engine, settings
        self._folder = tempfile.TemporaryDirectory(prefix="footfall-bench-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self._offsets = GroupOffsets(settings, f"{settings.app_id}-{engine.group}") if engine.group else None
        self.process: subprocess.Popen[bytes]

    async def __aenter__(self) -> Self:
        """Start the process."""
        if self._offsets is not None:
            await self._offsets.start()
        self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Kill the process and delete its folder."""
        self.kill()
        if self._offsets is not None:
            await self._offsets.close()
        self._folder.cleanup()

    def start(self) -> None:
        """Start the process, or start it again after a kill."""
        (self.folder / STATUS).unlink(missing_ok=True)
        environment = environment_of(
            self.settings,
            PYTHONPATH=str(ROOT),
            PYTHONUNBUFFERED="1",
            FOOTFALL_STATUS_FILE=str(self.folder / STATUS),
            FOOTFALL_BENCH_RECOVERY=str(self.folder / RECOVERY),
        )
        (self.folder / RECOVERY).mkdir(exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.engine.command(),
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(),  # noqa: PLW1509, the child only calls prctl
            )

    def kill(self) -> None:
        """Kill -9 the process."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    async def offsets(self) -> dict[tuple[str, int], int]:
        """Return the next durable offset by topic and partition.

        Raises:
            RunError: the process has exited.
        """
        if self.process.poll() is not None:
            raise RunError(f"engine {self.engine.name} exited with {self.process.returncode}: {self.last_log_lines()}")
        if self._offsets is None:
            return await asyncio.to_thread(recovered_offsets, self.folder / RECOVERY)
        return {(tp.topic, tp.partition): offset for tp, offset in (await self._offsets.offsets()).items()}

    async def committed(self) -> int:
        """Return how many events are durable."""
        return sum((await self.offsets()).values())

    def metrics(self) -> dict[str, float]:
        """Return a Footfall worker's /metrics by full sample name; empty if it does not answer."""
        try:
            text = self._get("/metrics")
        except (OSError, ValueError):
            return {}
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def ready(self) -> bool:
        """Return whether a Footfall worker's /readyz answers 200."""
        try:
            self._get("/readyz")
        except (OSError, ValueError):
            return False
        return True

    def cpu_seconds(self) -> float:
        """Return the process's CPU seconds over all its threads; 0 without /proc."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def memory_bytes(self) -> int:
        """Return the process's resident memory in bytes; 0 without /proc."""
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:")), 0)

    def last_log_lines(self) -> str:
        """Return the end of the process's log."""
        return (self.folder / "log").read_text(errors="replace")[-1500:]

    def _get(self, path: str) -> str:
        port = json.loads((self.folder / STATUS).read_text())["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text


def recovered_offsets(folder: Path) -> dict[tuple[str, int], int]:
    """Return the input offsets of the last complete epoch in a Bytewax recovery store; empty before the first."""
    path = folder / "part-0.sqlite3"
    if not path.exists():
        return {}
    query = """
        SELECT state_key, ser_change, max(snap_epoch) FROM snaps WHERE step_id = 'features.events'
        AND snap_epoch < (SELECT max(worker_frontier) FROM fronts) GROUP BY state_key"""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)) as store:
            rows = store.execute(query).fetchall()
    except sqlite3.OperationalError:  # the store is being created, or is briefly locked
        return {}
    found = {}
    for key, change, _ in rows:
        number, topic = key.split("-", 1)
        found[topic, int(number)] = integer_of(change)
    return found


def integer_of(pickled: bytes) -> int:
    """Read the one integer of a pickle without loading it; -2 and -1 (Kafka's beginning and end) become 0."""
    found = [value for code, value, _ in pickletools.genops(pickled) if isinstance(value, int) and code.name in INTEGERS]
    return max(0, found[-1])
