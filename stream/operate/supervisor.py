"""Run the roles as child processes: start them, restart those that die, and end all of them on stop.

A role that ends with 78 (a person must act first) is refused: it starts again once a file that it reads changes, and the
other roles keep running. After any other end it is restarted. On Linux, no child outlives this process. The supervisor knows
a role only by its name. Start at Supervisor.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct, field
from pydantic import SecretStr

from schemas.errors import SettingsError
from stream.operate.child_processes import die_with_parent, running_processes
from stream.process.file_states import FileState, file_states
from stream.process.settings import Settings
from stream.roles.table import ROLES

STATUS_FILE = "FOOTFALL_STATUS_FILE"
EXIT_CONFIG = 78
BACK_OFF_SECONDS = (1.0, 30.0)  # before the first restart, and the maximum
STEADY_SECONDS = 60.0  # a role that ran this long starts over with the shortest back-off
KILL_MARGIN_SECONDS = 3.0  # a role exits by itself when it cannot drain in time; after this margin it is killed
LOOK_SECONDS = 1.0  # between two looks at the files of a refused role
RETRY_SECONDS = 300.0  # a refused role also starts again after this time: its broker may have changed, not its files
LAST_LINES, MAX_LINE = 8, 8000


class Launch(Struct, frozen=True):
    """What one role is started with, and the files that it reads: a change of one may end a refusal."""

    environment: Mapping[str, str]
    files: Sequence[Path] = ()
    command: Sequence[str] | None = None  # default: that of worker_command


class RoleProcess(Struct):
    """The state of one role: `port` of its server once it listens, `failure` while it is refused or given up."""

    role: str
    pid: int = 0
    port: int | None = None
    restarts: int = 0
    exit_code: int | None = None
    failure: str | None = None
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))


class Supervisor:
    """Keeps one process per role alive from start() to stop(); `roles` holds the state of each."""

    def __init__(
        self,
        launch: Callable[[str], Launch],
        directory: Path,
        *,
        roles: Sequence[str] = ROLES,
        drain_seconds: float = 8.0,
        restarts_at_most: int | None = None,
        on_line: Callable[[str, str], None] = lambda role, line: None,
    ) -> None:
        """Start each role as `launch(role)` says; status files go to `directory`, every log line to `on_line`.

        `launch` is called again after a refusal, and may raise SettingsError. Neither it nor `on_line` may block.
        `restarts_at_most` restarts in a row, without STEADY_SECONDS between them, make a role's failure final. With such a
        bound, a refusal is final, too.
        """
        self._launch, self._directory = launch, directory
        self._drain_seconds, self._restarts_at_most, self._on_line = drain_seconds, restarts_at_most, on_line
        self.roles = {role: RoleProcess(role) for role in roles}
        self.back_off_seconds, self.look_seconds, self.retry_seconds = BACK_OFF_SECONDS, LOOK_SECONDS, RETRY_SECONDS
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.sessions: set[int] = set()  # of every process ever started
        self._stopping = asyncio.Event()

    @property
    def restarts(self) -> int:
        """Count the restarts of all roles."""
        return sum(role.restarts for role in self.roles.values())

    @property
    def failures(self) -> list[str]:
        """List the roles that are refused or given up, each with its reason."""
        return [f"{role.role}: {role.failure}" for role in self.roles.values() if role.failure is not None]

    async def start(self) -> None:
        """Start every role; call it from the main thread.

        Raises:
            SettingsError: `launch` raised it; nothing was started.
        """
        launches = {role: self._launch(role) for role in self.roles}
        for role in self.roles.values():
            self._tasks.append(asyncio.create_task(self._keep(role, launches[role.role])))

    async def stop(self) -> list[int]:
        """End every role: SIGTERM, SIGKILL after the drain; return the processes still running, which should be none."""
        self._stopping.set()
        for child in self._children.values():
            _send(child, signal.SIGTERM)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._drain_seconds + KILL_MARGIN_SECONDS)
        for child in self._children.values():
            _send(child, signal.SIGKILL)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return running_processes(self.sessions)

    def refresh(self) -> None:
        """Read the status files of roles that have written one."""
        for role in self.roles.values():
            with suppress(OSError, ValueError):
                status = json.loads(self._status_file(role).read_bytes())
                if status["pid"] == role.pid:
                    role.port = int(status["port"])

    def _status_file(self, role: RoleProcess) -> Path:
        return self._directory / f"{role.role}.json"

    async def _keep(self, role: RoleProcess, launch: Launch) -> None:
        """Run one role, with restarts, until it is stopped or given up."""
        shortest, longest = self.back_off_seconds
        pause, in_a_row = shortest, 0
        while not self._stopping.is_set():
            started = time.monotonic()
            files = await asyncio.to_thread(file_states, launch.files)
            role.exit_code = await self._run(role, launch)
            if self._stopping.is_set():
                return
            if time.monotonic() - started >= STEADY_SECONDS:
                pause, in_a_row = shortest, 0
            in_a_row += 1
            refused = role.exit_code == EXIT_CONFIG
            why = f"{_exit_text(role.exit_code)}; last output: {last_log_lines(role.last_lines)}"
            if self._restarts_at_most is not None and (refused or in_a_row > self._restarts_at_most):
                role.failure = why
                return
            if refused:
                changed = await self._changed(role, launch, files, why)
                if changed is None:
                    return
                launch, pause = changed, shortest
            else:
                self._on_line(role.role, f"{role.role} {_exit_text(role.exit_code)}: restarting in {pause:g} s")
                if await self._stopped_within(pause):
                    return
                pause = min(longest, 2 * pause)
            role.restarts += 1

    async def _changed(
        self, role: RoleProcess, launch: Launch, files: Mapping[Path, FileState | None], why: str
    ) -> Launch | None:
        """Wait until files of a refused role differ from `files` and stay as they are; return how to start it, None on stop.

        It starts again after `retry_seconds` in any case.
        """
        seen = files
        names = ", ".join(map(str, launch.files)) or "no file"
        rest = f"it waits for a change of {names}, for at most {self.retry_seconds:g} s; other roles are not affected"
        role.failure = why
        self._on_line(role.role, f"{role.role} {why}: {rest}")
        deadline = time.monotonic() + self.retry_seconds
        while not await self._stopped_within(self.look_seconds):
            now = await asyncio.to_thread(file_states, launch.files)
            settled, seen = now == seen, now
            overdue = time.monotonic() >= deadline
            if not overdue and (now == files or not settled):
                continue
            different = sorted(str(path) for path in now.keys() | files.keys() if now.get(path) != files.get(path))
            try:
                changed = self._launch(role.role)
            except SettingsError as error:
                role.failure = str(error)
                self._on_line(role.role, f"{role.role} is not started: {error}: {rest}")
                files, deadline = now, time.monotonic() + self.retry_seconds
                continue
            cause = f"changed: {', '.join(different[:3])}" if different else f"after {self.retry_seconds:g} s"
            self._on_line(role.role, f"{role.role} starts again, {cause}")
            role.failure = None
            return changed
        return None

    async def _stopped_within(self, seconds: float) -> bool:
        """Wait; return at once, and true, when the supervisor is asked to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _run(self, role: RoleProcess, launch: Launch) -> int:
        """Run one process of a role to its end and return its exit code, negative for a signal."""
        role.port = None
        role.last_lines.clear()
        self._status_file(role).unlink(missing_ok=True)
        try:
            child = await asyncio.create_subprocess_exec(
                *(launch.command or worker_command(role.role)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**launch.environment, STATUS_FILE: str(self._status_file(role))},
                limit=1 << 20,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then ends the roles in order
                preexec_fn=die_with_parent(),
            )
        except OSError as error:  # no memory or no process left
            self._on_line(role.role, f"{role.role} could not be started: {error}")
            return 1
        role.pid = child.pid
        self.sessions.add(child.pid)
        self._children[role.role] = child
        if self._stopping.is_set():
            _send(child, signal.SIGTERM)
        if child.stdout is not None:
            await self._read(role, child.stdout)
        return await child.wait()

    async def _read(self, role: RoleProcess, lines: asyncio.StreamReader) -> None:
        while True:
            try:
                line = (await lines.readline()).decode(errors="replace").rstrip("\n")
            except ValueError:  # the line is longer than the limit and is dropped
                continue
            if not line and lines.at_eof():
                return
            role.last_lines.append(line[:MAX_LINE])
            self._on_line(role.role, line)


def worker_command(role: str) -> list[str]:
    """Return the command line of a role; -P stops Python from importing a `stream` in the current directory."""
    return [sys.executable, "-P", "-m", "stream.cli.main", "worker", role]


def environment_of(settings: Settings, **changes: str) -> dict[str, str]:
    """Return this process's environment plus every setting, so that a child gets the same settings in any directory."""
    environment = dict(os.environ)
    environment["FOOTFALL_CONFIG"] = os.devnull  # the settings already include the file
    for name, info in type(settings).model_fields.items():
        variable, value = info.alias or f"FOOTFALL_{name.upper()}", getattr(settings, name)
        environment.pop(variable, None)
        if value is not None:
            environment[variable] = _as_text(value)
    return environment | changes


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value.absolute())
    return json.dumps(value) if isinstance(value, bool | dict | list) else str(value)


def last_log_lines(lines: Iterable[str]) -> str:
    """Summarise why a role ended, from its last lines: log lines of level error, and lines that are not log lines."""
    errors = []
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            errors.append(line.strip())
        elif fields.get("level") in ("error", "critical"):
            errors.append(": ".join(str(fields[name]) for name in ("event", "reason", "error") if name in fields))
    return " | ".join(errors) or "nothing"


def _send(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal to a child and to its own children, unless it has ended."""
    if child.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)


def _exit_text(exit_code: int) -> str:
    return f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with code {exit_code}"
