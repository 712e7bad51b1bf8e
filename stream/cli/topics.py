"""Define `footfall topics plan` and `footfall topics apply`, which create and configure the topics. Start at app."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.options import AsJson, with_settings
from stream.cli.show import print_table
from stream.process.settings import Settings

if TYPE_CHECKING:
    from stream.kafka.topic_admin import Change

app = typer.Typer(no_args_is_help=True, help="Compare the broker's topics with the settings, and create or alter them.")


@app.command("plan")
@with_settings
def plan_command(settings: Settings, as_json: AsJson = False) -> None:
    """Show what `topics apply` would create, alter or refuse. Exit code 3: it would refuse some."""
    _plan(settings, as_json)


@app.command("apply")
@with_settings
def apply_command(
    settings: Settings,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")] = False,
) -> None:
    """Create missing topics, and set retention and cleanup policy. Deletes nothing and adds no partitions."""
    from stream.kafka.topic_admin import apply

    if dry_run:
        _plan(settings, as_json)
        return
    changes = asyncio.run(apply(settings))
    _show(changes, as_json)
    if not changes and not as_json:
        sys.stderr.write("nothing to change\n")


def _plan(settings: Settings, as_json: bool) -> None:
    from stream.kafka.topic_admin import plan

    changes = asyncio.run(plan(settings))
    _show(changes, as_json)
    if any(change.action == "refused" for change in changes):
        raise typer.Exit(3)


def _show(changes: "list[Change]", as_json: bool) -> None:
    import msgspec

    if as_json:
        sys.stdout.write(msgspec.json.encode(changes).decode() + "\n")
        return
    print_table(["topic", "action", "detail"], [[change.topic, change.action, change.detail] for change in changes])
    counts = {action: sum(change.action == action for change in changes) for action in ("create", "alter", "ok", "refused")}
    sys.stderr.write(", ".join(f"{count} {action}" for action, count in counts.items() if count) + "\n")
