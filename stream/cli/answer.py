"""How a command answers: facts as one JSON object on stdout, bad input as one line on stderr and code 2."""

import sys
from typing import NoReturn

import typer


def print_json(result: object) -> None:
    """Print facts on stdout."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


def fail(error: Exception) -> NoReturn:
    """End with code 2 and what was wrong."""
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(2)
