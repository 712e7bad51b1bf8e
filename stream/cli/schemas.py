"""Define `footfall schemas`, which writes the message schemas, or lists the stale ones. Start at schemas_command."""

import json
from pathlib import Path
from typing import Annotated

import typer


def schemas_command(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; list stale files and exit with 1 if any.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default: the installed schemas package.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Generate the JSON Schemas and the AsyncAPI document from the code."""
    import schemas
    from schemas.documents import stale, write
    from stream.roles.table import ROLE_TOPICS

    directory = Path(schemas.__file__).parent if out is None else out
    names = stale(directory, ROLE_TOPICS) if check else write(directory, ROLE_TOPICS)
    if as_json:
        typer.echo(json.dumps({"directory": str(directory), "stale" if check else "written": names}))
    else:
        report(directory, names, check, "footfall schemas" if out is None else f"footfall schemas --out {out}")
    if check and names:
        raise typer.Exit(1)


def report(directory: Path, names: list[str], check: bool, command: str) -> None:
    """Print which documents were written or are stale, and the command that updates them."""
    for name in names:
        typer.echo(f"{'stale' if check else 'wrote'} {directory / name}")
    if check and names:
        typer.echo(f"{len(names)} documents are stale: run {command}", err=True)
    elif check:
        typer.echo(f"the documents in {directory} are up to date")
