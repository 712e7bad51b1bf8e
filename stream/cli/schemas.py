"""`footfall schemas`: write the contract's documents, or say which are stale."""

import json
from pathlib import Path
from typing import Annotated

import typer


def schemas_command(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 and name the files that are stale.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the documents; default: the installed schemas package.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write the JSON Schemas and the AsyncAPI document that the code stands for."""
    import schemas
    from schemas.documents import stale, write

    directory = Path(schemas.__file__).parent if out is None else out
    names = stale(directory) if check else write(directory)
    if as_json:
        typer.echo(json.dumps({"directory": str(directory), "stale" if check else "written": names}))
    else:
        report(directory, names, check, "footfall schemas" if out is None else f"footfall schemas --out {out}")
    if check and names:
        raise typer.Exit(1)


def report(directory: Path, names: list[str], check: bool, command: str) -> None:
    """Say for people what was written or is stale, and the command that mends it."""
    for name in names:
        typer.echo(f"{'stale' if check else 'wrote'} {directory / name}")
    if check and names:
        typer.echo(f"{len(names)} documents differ from what the code says: run {command}", err=True)
    elif check:
        typer.echo(f"the documents in {directory} are what the code says")
