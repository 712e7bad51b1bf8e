"""Run the command `footfall`: dispatch to a subcommand, and turn an exception into one line and an exit code.

A subcommand's module is imported only when it is used, so that --help is fast. Exit codes: 0 done, 1 failed, 2 wrong
usage, 3 refused, 75 restart the process, 78 correct a setting or the state first, 130 interrupted. Start at main.
"""

import logging
import os
import sys

from stream.cli.early_stop import exit_on_signal

exit_on_signal(sys.argv[1:])  # before the imports, which take a second

# isort: split
# ruff: noqa: E402, signal handlers are installed before the other imports
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

EXIT_CONFIG = 78
VERBS: Mapping[str, tuple[str, str, str]] = {  # name → module, command or group in it, help
    "demo": ("stream.cli.demo", "demo_command", "Run everything on one machine: broker, simulated shop, roles, live metrics."),
    "up": ("stream.cli.roles", "up_command", "Run all roles on this machine, and restart any that exit."),
    "worker": ("stream.cli.roles", "worker_command", "Run one role: features, scorer or triggers."),
    "settings": ("stream.cli.settings", "settings_command", "List all settings with their values and environment variables."),
    "topics": ("stream.cli.topics", "app", "Compare the broker's topics with the settings, and create or alter them."),
    "users": ("stream.cli.users", "app", "Show a user's row: features, last events, guard vector."),
    "state": ("stream.cli.state", "app", "Rebuild a role's state: in place, or beside the serving one."),
    "send": ("stream.cli.events", "send_command", "Publish an event log to Kafka."),
    "tail": ("stream.cli.events", "tail_command", "Print a topic's records as they arrive."),
    "dlq": ("stream.cli.dlq", "app", "List dead letters, replay them, or resume a paused worker."),
    "simulate": ("stream.cli.simulate", "simulate_command", "Simulate a shop's event log with known ground truth."),
    "import": ("stream.cli.imports", "app", "Import external event files into an event log."),
    "record": ("stream.cli.record", "record_command", "Record source and output topics into an event log."),
    "replay": ("stream.cli.replay", "replay_command", "Replay an event log through all roles, without a broker."),
    "dataset": ("stream.cli.dataset", "app", "Cut a log into labelled examples, and search them for leaks."),
    "features": ("stream.cli.features", "app", "Rank features by how well they predict churn."),
    "train": ("stream.cli.training", "app", "Train, calibrate and test a user model or a text encoder."),
    "tune": ("stream.cli.tune", "tune_command", "Search for the hyperparameters with the lowest validation loss."),
    "models": ("stream.cli.models", "app", "List, check, promote and roll back models in the registry."),
    "evaluate": ("stream.cli.evaluate", "evaluate_command", "Compare a model with every baseline, and write a report."),
    "report": ("stream.cli.report", "app", "Compare reports from footfall evaluate."),
    "bench": ("stream.cli.bench", "app", "Run benchmarks on this machine."),
    "schemas": ("stream.cli.schemas", "schemas_command", "Write the JSON Schemas and the AsyncAPI document of all messages."),
}


class Verbs(TyperGroup):
    """The group of all subcommands; --help lists them without importing their modules."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """List the subcommands in the order of VERBS."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a subcommand, or return a stub with its help while all are listed."""
        if cmd_name not in VERBS:
            return None
        module, name, does = VERBS[cmd_name]
        if self._listing:
            return TyperCommand(cmd_name, help=does)
        found = getattr(import_module(module), name)
        if isinstance(found, typer.Typer):
            group = typer.main.get_group(found)
            group.name = cmd_name
            return group
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(cmd_name)(found)
        return typer.main.get_command(single)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help with the list of subcommands."""
        self._listing = True
        super().format_help(ctx, formatter)


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Interest, churn risk and ad triggers from a shop's event streams. Start with: footfall demo",
)


@app.callback(invoke_without_command=True)
def _footfall(show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if show_version:
        from importlib.metadata import version

        sys.stdout.write(f"footfall {version('footfall')}\n")
        raise typer.Exit


def main() -> None:
    """Run the command line; print any exception as one line on stderr and exit with its code."""
    logging.getLogger().addHandler(logging.NullHandler())  # libraries log nothing unless a role configures logging
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # the top of the command line: print what failed in one line
        from schemas.errors import FootfallError, SettingsError, StartRefused

        if os.environ.get("FOOTFALL_LOG_LEVEL") == "debug":
            raise
        what = (
            f"{error}"
            if isinstance(error, FootfallError)
            else f"{type(error).__name__}: {error} (FOOTFALL_LOG_LEVEL=debug shows where)"
        )
        sys.stderr.write(f"footfall: {what}\n")
        sys.exit(EXIT_CONFIG if isinstance(error, SettingsError | StartRefused) else 1)


if __name__ == "__main__":
    main()
