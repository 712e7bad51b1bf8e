"""Define `footfall state reset` and `footfall state rebuild`, which fold a role's source records again. Start at app."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stream.cli.options import with_settings
from stream.cli.show import print_table
from stream.process.settings import Settings

if TYPE_CHECKING:
    from stream.operate.retained import Survey
    from stream.operate.state_rebuild import Rebuilt

app = typer.Typer(no_args_is_help=True, help="Rebuild a role's state: in place, or beside the serving one.")
RoleName = Annotated[Literal["features", "triggers"], typer.Argument(help="Role whose rows to rebuild.")]
Apply = Annotated[bool, typer.Option("--apply/--dry-run", help="Apply the change; the default only prints it.")]
EXIT_REFUSED = 3


@app.command("reset")
@with_settings
def reset_command(role: RoleName, settings: Settings, apply: Apply = False) -> None:
    """Delete a role's rows and committed offsets, so that it folds again from the earliest retained record.

    Stop the role's workers first. The role sends its outputs again with the same ids; campaigns may fire again.
    """
    from stream.operate.state_reset import apply_reset, plan_reset

    plan = asyncio.run(plan_reset(settings, role))
    _show_sources(plan.sources)
    _say(f"{plan.rows} rows in {plan.changelog} and the offsets of group {plan.group} {'are' if apply else 'would be'} deleted")
    if plan.members:
        _say(f"refused: group {plan.group} has {plan.members} running workers, expected none: stop the role first")
        raise typer.Exit(EXIT_REFUSED)
    if apply:
        asyncio.run(apply_reset(settings, plan))
        _say(f"done: start the role; it will fold {plan.sources.retained} records again")
    else:
        _say("nothing was changed: add --apply to apply it")


@app.command("rebuild")
@with_settings
def rebuild_command(role: RoleName, settings: Settings, apply: Apply = False) -> None:
    """Fold the retained records into a new changelog, the role's next generation, while the old one serves."""
    from stream.operate.state_rebuild import next_generation, plan_rebuild

    new = next_generation(settings, role)
    if not apply:
        serving, sources = asyncio.run(plan_rebuild(settings, role))
        _show_sources(sources)
        rows = sum(len(partition.rows) for partition in serving.values())
        _say(f"would fold {sources.retained} records into {new.changelog(role)}; {rows} current rows keep serving")
        _say("nothing was changed: add --apply to apply it")
        return
    _show_rebuilt(asyncio.run(_rebuild(settings, role)), new)


async def _rebuild(settings: Settings, role: Literal["features", "triggers"]) -> "Rebuilt":
    from rich.console import Console
    from rich.progress import Progress

    from stream.operate.state_rebuild import rebuild
    from stream.process.log import configure_logging

    configure_logging(settings, role)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("folding", total=None)
        return await rebuild(settings, role, lambda done, total: progress.update(task, completed=done, total=total))


def _show_sources(sources: "Survey") -> None:
    print_table(
        ["topic", "retained: folded again", "folded before, no longer retained"],
        [[topic.topic, str(topic.retained), str(topic.lost)] for topic in sources.topics],
    )
    if sources.lost:
        _say(f"{sources.lost} records that the current rows include are no longer retained: their contribution is lost")


def _show_rebuilt(found: "Rebuilt", new: Settings) -> None:
    import msgspec

    generations = msgspec.json.encode(new.generations).decode()
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    _say(
        f"{found.rows} rows in {found.changelog}: {found.equal} equal to the serving rows, {found.different} different, "
        f"{found.only_rebuilt} new; {found.only_serving} users only in the serving rows"
    )
    if found.lost:
        _say(f"{found.lost} records that the serving rows include are no longer retained: the new rows lack them")
    if found.ahead:
        _say(f"the serving generation lags by {found.ahead} records: let it catch up before you stop it")
    _say(f"to switch: stop the role, set FOOTFALL_GENERATIONS='{generations}', start it; to go back: restore the old value")
    _say("outputs sent since this rebuild will be sent once more, with the same ids")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
