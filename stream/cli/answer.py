"""Print a command's result as one JSON object on stdout, or bad input as one line on stderr with exit code 2.

Start at print_json and fail.
"""

import sys
from typing import NoReturn

import typer


def print_json(result: object) -> None:
    """Print a result on stdout as one line of JSON."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


def fail(error: Exception) -> NoReturn:
    """Print the error on stderr and exit with code 2."""
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(2)
