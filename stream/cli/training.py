"""`footfall train DATASET`: fit a user model, or a text encoder where the preset is one of texts. Start at app."""

from typing import Any

import typer
from typer.core import TyperGroup

from stream.cli.train import train_command
from stream.cli.train_text import train_text_command

TEXT_PRESETS = ("article", "cpu", "zh")  # models/text/text_presets.py, which loads torch


class MeantByPreset(TyperGroup):
    """A group whose command follows from the preset where none is named, and is `users` without one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the command."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [meant(args), *args]
        return super().parse_args(ctx, args)


def meant(args: list[str]) -> str:
    """Return `texts` where a preset of texts, or --peft, which only texts have, is among the arguments, else `users`."""
    presets = [args[place + 1 : place + 2] for place, arg in enumerate(args) if arg == "--preset"]
    named = [preset for found in presets for preset in found]
    named += [arg.removeprefix("--preset=") for arg in args if arg.startswith("--preset=")]
    texts = any(preset in TEXT_PRESETS for preset in named) or any(arg.split("=")[0] == "--peft" for arg in args)
    return "texts" if texts else "users"


app = typer.Typer(cls=MeantByPreset, no_args_is_help=True, help="Fit a model to a dataset: of users, or of review texts.")
app.command("users")(train_command)
app.command("texts")(train_text_command)
