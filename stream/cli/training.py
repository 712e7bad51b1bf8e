"""Define `footfall train`, and choose its subcommand (`users` or `texts`) by the preset if none is named. Start at app."""

from typing import Any

import typer
from typer.core import TyperGroup

from stream.cli.train import train_command
from stream.cli.train_text import train_text_command

TEXT_PRESETS = ("article", "cpu", "zh")  # copied from models/text/text_presets.py, whose import loads torch


class ChosenByPreset(TyperGroup):
    """A command group that, if no command is named, chooses it by the preset; the default is `users`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the command where none is named."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [command_for(args), *args]
        return super().parse_args(ctx, args)


def command_for(args: list[str]) -> str:
    """Return `texts` if the arguments hold a preset for texts, or --peft, which only texts have; otherwise `users`."""
    presets = [args[place + 1 : place + 2] for place, arg in enumerate(args) if arg == "--preset"]
    named = [preset for found in presets for preset in found]
    named += [arg.removeprefix("--preset=") for arg in args if arg.startswith("--preset=")]
    texts = any(preset in TEXT_PRESETS for preset in named) or any(arg.split("=")[0] == "--peft" for arg in args)
    return "texts" if texts else "users"


app = typer.Typer(cls=ChosenByPreset, no_args_is_help=True, help="Train a user model, or a text encoder on reviews.")
app.command("users")(train_command)
app.command("texts")(train_text_command)
