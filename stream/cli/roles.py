"""Define `footfall worker ROLE`, which runs one role, and `footfall up`, which runs all roles. Start at worker_command."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from stream.cli.options import with_settings
from stream.process.settings import Settings, load_settings

RoleName = Literal["features", "scorer", "triggers"]
LAST_LINES_SECONDS = 1.0  # how long the end waits for a reader of the last lines


@with_settings
def worker_command(role: Annotated[RoleName, typer.Argument(help="Role to run in this process.")], settings: Settings) -> None:
    """Run one role until SIGTERM. Exit code 75 means restart it; 0 and 78 mean do not."""
    from stream.worker.run_role import run_role

    raise typer.Exit(run_role(settings, role))


@with_settings
def up_command(context: typer.Context, settings: Settings) -> None:
    """Run all roles on this machine, restart any that exit, and stop all of them on Ctrl-C or SIGTERM.

    A role that ends with 78 starts again when a file that it reads changes, or after five minutes; the others keep running.
    """
    flags = dict(context.params)
    raise typer.Exit(asyncio.run(_up(settings, lambda: load_settings(**flags))))


async def _up(settings: Settings, current_settings: Callable[[], Settings]) -> int:
    from stream.operate.role_files import files_of
    from stream.operate.supervisor import EXIT_CONFIG, Launch, Supervisor, environment_of, worker_command
    from stream.process.line_writer import LineWriter
    from stream.roles.table import ROLES

    changes = {"FOOTFALL_LOG_FORMAT": "text"} if settings.log_format == "auto" and sys.stderr.isatty() else {}
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    out = LineWriter(sys.stderr.fileno(), lambda lines: f"footfall: dropped {lines} log lines: stderr was not read\n")

    def launch(role: str) -> Launch:
        now = current_settings()
        ports = ["--http-port", str(now.http_port + ROLES.index(role))] if now.http_port else []
        return Launch(environment_of(now, **changes), files_of(now, role), [*worker_command(role), *ports])

    with tempfile.TemporaryDirectory(prefix="footfall-") as directory:
        supervisor = Supervisor(
            launch,
            Path(directory),
            drain_seconds=settings.drain_seconds,
            on_line=lambda role, line: out.write(f"{line}\n"),
        )
        await supervisor.start()
        await stop.wait()
        left = await supervisor.stop()
    for failure in supervisor.failures:
        out.write(f"footfall: role {failure}\n")
    if left:
        out.write(f"footfall: found processes {left} still running, expected none: end them by hand\n")
    out.drain(LAST_LINES_SECONDS)
    return EXIT_CONFIG if supervisor.failures else 1 if left else 0
