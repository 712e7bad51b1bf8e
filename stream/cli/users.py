"""Define `footfall users show USER`, which prints a user's committed row. Start at show_command."""

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stream.cli.options import AsJson, with_settings
from stream.process.settings import Settings

if TYPE_CHECKING:
    from stream.operate.user_row import UserRow

app = typer.Typer(no_args_is_help=True, help="Show users' rows.")


@app.callback()
def _users() -> None:
    """Keep `show` a named subcommand while it is the only one."""


@app.command("show")
@with_settings
def show_command(
    user: Annotated[str, typer.Argument(help="A user id.")],
    settings: Settings,
    role: Annotated[Literal["features", "triggers"], typer.Option(help="Role whose row to show.")] = "features",
    as_json: AsJson = False,
) -> None:
    """Show a user's features, last events and guard vector. Reads the changelog only, so no worker is involved."""
    import msgspec

    from stream.operate.user_row import read_user

    row = asyncio.run(read_user(settings, role, user))
    if as_json:
        sys.stdout.write(msgspec.json.encode(row).decode() + "\n")
    else:
        _print(row)


def _print(row: "UserRow") -> None:
    from stream.cli.show import print_table
    from stream.process.log import UNPRINTABLE

    def clean(value: object) -> str:
        return ("-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)).translate(UNPRINTABLE)

    spec = "" if row.spec_version is None else f", feature spec {row.spec_version}"
    where = f"partition {row.partition}, {row.row_bytes} bytes{spec}"
    print_table(["user", clean(row.user_id)], [["as of", _utc(row.at_ms)], ["row", where]])
    if row.reset:
        sys.stdout.write(f"reset: an earlier row was corrupt; it is kept in the changelog: {clean(row.damaged)}\n")
    if row.other_partitions:
        found = ", ".join(map(str, row.other_partitions))
        sys.stdout.write(f"split: partitions {found} have a row of this user too; a producer uses another partitioner\n")
    columns = ("kind", "item_id", "category", "amount", "text")
    guard = [[kind, clean(since), str(to)] for kind, (since, to) in row.guard.items()]
    sections = [
        (["source topic", "from offset", "to offset"], guard),
        (["feature", "value", "unit", "window"], [[f.name, clean(f.value), f.unit, f.window] for f in row.features]),
        (["category", "share"], [[clean(name), f"{share:.3f}"] for name, share in row.categories]),
        (
            ["last events", "kind", "item", "category", "amount", "text"],
            [[_utc(event["event_time_ms"]), *(clean(event[name]) for name in columns)] for event in row.history],
        ),
        (["campaign", "last fired"], [[clean(name), _utc(at_ms)] for name, at_ms in row.last_fired_ms.items()]),
    ]
    for titles, lines in sections:
        if lines:
            sys.stdout.write("\n")
            sys.stdout.flush()
            print_table(titles, lines)


def _utc(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_ms / 1000))
