"""The command `footfall`: every verb in one place, and what an error looks like. Start at main.

A verb's module is imported when the verb is used, so that help comes at once. Exit codes: 0 done, 1 failed, 2 wrong
usage, 3 refused, 75 restart me, 78 a setting is wrong, 130 interrupted.
"""

import logging
import os
import sys

from stream.cli.early_stop import end_when_asked

end_when_asked(sys.argv[1:])  # before what takes a second to import

# isort: split
# ruff: noqa: E402, the signals come before the other imports
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

EXIT_CONFIG = 78
VERBS: Mapping[str, tuple[str, str, str]] = {  # verb → module, command or group in it, what it does
    "demo": ("stream.cli.demo", "demo_command", "See everything run: broker, made shop, roles, live figures."),
    "up": ("stream.cli.roles", "up_command", "Run all roles on this machine, and start again what dies."),
    "worker": ("stream.cli.roles", "worker_command", "Run one role: features, scorer or triggers."),
    "settings": ("stream.cli.settings", "settings_command", "List all settings with value and variable."),
    "topics": ("stream.cli.topics", "app", "Compare the broker's topics with the settings, and make them so."),
    "users": ("stream.cli.users", "app", "Show a user's row: features, last events, guard vector."),
    "state": ("stream.cli.state", "app", "Fold a role's state again: in place, or beside the one that serves."),
    "send": ("stream.cli.events", "send_command", "Publish an event log to Kafka."),
    "tail": ("stream.cli.events", "tail_command", "Show a topic's records as they come."),
    "dlq": ("stream.cli.dlq", "app", "Look at refused records, send them again, let a paused worker go on."),
    "simulate": ("stream.cli.simulate", "simulate_command", "Make a shop's event log with known truth."),
    "import": ("stream.cli.imports", "app", "Read foreign event files into an event log."),
    "record": ("stream.cli.record", "record_command", "Record topics, ours too, into an event log."),
    "replay": ("stream.cli.replay", "replay_command", "Replay an event log through all roles, without a broker."),
    "dataset": ("stream.cli.dataset", "app", "Cut a log into labelled examples, and search them for leaks."),
    "features": ("stream.cli.features", "app", "Rank features by what they tell of churn."),
    "train": ("stream.cli.training", "app", "Train, calibrate and test a model of users, or of texts."),
    "tune": ("stream.cli.tune", "tune_command", "Search for the settings that validate best."),
    "models": ("stream.cli.models", "app", "Keep models, promote the one that serves, go back to the former."),
    "evaluate": ("stream.cli.evaluate", "evaluate_command", "Measure a model beside every baseline; write a report."),
    "report": ("stream.cli.report", "app", "Compare reports of footfall evaluate."),
    "bench": ("stream.cli.bench", "app", "Measure this machine."),
    "schemas": ("stream.cli.schemas", "schemas_command", "Write the contract's JSON Schemas and AsyncAPI document."),
}


class Verbs(TyperGroup):
    """The group of all verbs; in the list of verbs each is only its name and what it does."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """List the verbs in their order."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a verb, or name it while all are listed."""
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
        """Write the list of verbs."""
        self._listing = True
        super().format_help(ctx, formatter)


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Interest, churn risk and ad triggers from a shop's event streams. Begin with: footfall demo",
)


@app.callback(invoke_without_command=True)
def _footfall(show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if show_version:
        from importlib.metadata import version

        sys.stdout.write(f"footfall {version('footfall')}\n")
        raise typer.Exit


def main() -> None:
    """Run the command line; whatever it raises becomes one line on stderr and an exit code."""
    logging.getLogger().addHandler(logging.NullHandler())  # libraries say nothing unless a role configures its log
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # the top of the command line: one line says what failed
        from schemas.errors import FootfallError, SettingsError

        if os.environ.get("FOOTFALL_LOG_LEVEL") == "debug":
            raise
        what = (
            f"{error}"
            if isinstance(error, FootfallError)
            else f"{type(error).__name__}: {error} (FOOTFALL_LOG_LEVEL=debug shows where)"
        )
        sys.stderr.write(f"footfall: {what}\n")
        sys.exit(EXIT_CONFIG if isinstance(error, SettingsError) else 1)


if __name__ == "__main__":
    main()
