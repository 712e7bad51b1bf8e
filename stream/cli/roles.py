"""Define `footfall worker ROLE`, which runs one role, and `footfall up`, which runs all roles. Start at worker_command."""

import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from stream.cli.options import with_settings
from stream.process.settings import Settings

RoleName = Literal["features", "scorer", "triggers"]


@with_settings
def worker_command(role: Annotated[RoleName, typer.Argument(help="Role to run in this process.")], settings: Settings) -> None:
    """Run one role until SIGTERM. Exit code 75 means restart it; 0 and 78 mean do not."""
    from stream.worker.run_role import run_role

    raise typer.Exit(run_role(settings, role))


@with_settings
def up_command(settings: Settings) -> None:
    """Run all roles on this machine, restart any that exit, and stop all of them on Ctrl-C or SIGTERM."""
    raise typer.Exit(asyncio.run(_up(settings)))


async def _up(settings: Settings) -> int:
    from stream.operate.supervisor import EXIT_CONFIG, Supervisor, environment_of, worker_command
    from stream.roles.table import ROLES

    changes = {"FOOTFALL_LOG_FORMAT": "text"} if settings.log_format == "auto" and sys.stderr.isatty() else {}
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def command(role: str) -> list[str]:
        ports = ["--http-port", str(settings.http_port + ROLES.index(role))] if settings.http_port else []
        return [*worker_command(role), *ports]

    with tempfile.TemporaryDirectory(prefix="footfall-") as directory:
        supervisor = Supervisor(
            environment_of(settings, **changes),
            Path(directory),
            command=command,
            drain_seconds=settings.drain_seconds,
            on_line=lambda role, line: print(line, file=sys.stderr, flush=True),  # noqa: T201, passes a child's log line through
        )
        await supervisor.start()
        waiting = [asyncio.create_task(stop.wait()), asyncio.create_task(supervisor.ended.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        left = await supervisor.stop()
    for failure in supervisor.failures:
        sys.stderr.write(f"footfall: role {failure}\n")
    if left:
        sys.stderr.write(f"footfall: found processes {left} still running, expected none: end them by hand\n")
    codes = [role.exit_code for role in supervisor.roles.values() if role.failure is not None]
    return EXIT_CONFIG if EXIT_CONFIG in codes else 1 if codes or left else 0
