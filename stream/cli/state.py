"""`footfall state reset` and `footfall state rebuild`: a role's rows folded again. Parses and delegates; start at app."""

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

app = typer.Typer(no_args_is_help=True, help="Fold a role's state again: in place, or beside the one that serves.")
RoleName = Annotated[Literal["features", "triggers"], typer.Argument(help="The role whose rows are meant.")]
Apply = Annotated[bool, typer.Option("--apply/--dry-run", help="Act; a dry run, the default, only says what would be done.")]
EXIT_REFUSED = 3


@app.command("reset")
@with_settings
def reset_command(role: RoleName, settings: Settings, apply: Apply = False) -> None:
    """Delete a role's rows and set its offsets back, so that it folds again from the earliest retained record.

    The role's workers must be stopped. What it sent will be sent again with the same ids; campaigns may fire again.
    """
    from stream.operate.state_reset import apply_reset, plan_reset

    plan = asyncio.run(plan_reset(settings, role))
    _show_sources(plan.sources)
    _say(f"{plan.rows} rows in {plan.changelog} and the offsets of group {plan.group} {'are' if apply else 'would be'} deleted")
    if plan.members:
        _say(f"refused: group {plan.group} has {plan.members} workers, expected none: stop the role first")
        raise typer.Exit(EXIT_REFUSED)
    if apply:
        asyncio.run(apply_reset(settings, plan))
        _say(f"done: start the role, it folds {plan.sources.retained} records again")
    else:
        _say("nothing was changed: --apply does it")


@app.command("rebuild")
@with_settings
def rebuild_command(role: RoleName, settings: Settings, apply: Apply = False) -> None:
    """Fold what is retained into a new changelog, under the role's next generation, while the old one serves."""
    from stream.operate.state_rebuild import next_generation, plan_rebuild

    new = next_generation(settings, role)
    if not apply:
        serving, sources = asyncio.run(plan_rebuild(settings, role))
        _show_sources(sources)
        rows = sum(len(partition.rows) for partition in serving.values())
        _say(f"would fold {sources.retained} records into {new.changelog(role)}; {rows} rows serve meanwhile")
        _say("nothing was changed: --apply does it")
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
        _say(f"{sources.lost} records that the rows rest on are no longer retained: what they told is lost")


def _show_rebuilt(found: "Rebuilt", new: Settings) -> None:
    import msgspec

    generations = msgspec.json.encode(new.generations).decode()
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    _say(
        f"{found.rows} rows in {found.changelog}: {found.equal} equal to those that serve, {found.different} different, "
        f"{found.only_rebuilt} new; {found.only_serving} users only in those that serve"
    )
    if found.lost:
        _say(f"{found.lost} records that the serving rows rest on are no longer retained: these rows do without them")
    if found.ahead:
        _say(f"the serving generation is {found.ahead} records behind: let it catch up before you stop it")
    _say(f"to switch: stop the role, set FOOTFALL_GENERATIONS='{generations}', start it; to go back: set it as it was")
    _say("what was sent since this rebuild will be sent again once, with the same ids")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
