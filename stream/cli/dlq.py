"""Define `footfall dlq ls|show|replay|resume`: list dead letters, replay them, resume a paused worker. Start at app."""

import asyncio
import re
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.time_units import DAY_MS, HOUR_MS, MINUTE_MS
from stream.cli.options import AsJson, with_settings
from stream.cli.show import print_table
from stream.process.settings import Settings

if TYPE_CHECKING:
    from stream.operate.dead_letters import FoundLetter, LetterFilter

UNIT_MS = {"s": 1_000, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
SHOWN_CHARS = 2_000

Reason = Annotated[str | None, typer.Option("--reason", help="Only this reason code: bad_json, handler_error, …")]
Topic = Annotated[str | None, typer.Option("--topic", help="Only this source topic, by kind or name: click, purchase, …")]
Since = Annotated[str | None, typer.Option("--since", help="Only dead letters since: 30m, 2h, 7d, or an ISO 8601 time.")]

app = typer.Typer(no_args_is_help=True, help="List dead letters, replay them, or resume a paused worker.")


@app.command("ls")
@with_settings
def ls_command(
    settings: Settings, topic: Topic = None, reason: Reason = None, since: Since = None, as_json: AsJson = False
) -> None:
    """Count dead letters by source topic and reason, with the oldest and newest of each."""
    import msgspec

    from stream.operate.dead_letters import summary

    groups = asyncio.run(summary(settings, _wanted(settings, topic, reason, since)))
    if as_json:
        result = {"total": sum(group.count for group in groups), "groups": groups}
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
        return
    rows = [[group.topic, group.reason, str(group.count), _at(group.oldest_ms), _at(group.newest_ms)] for group in groups]
    print_table(["topic", "reason", "count", "oldest refused", "newest refused"], rows)
    sys.stderr.write(f"{sum(group.count for group in groups)} dead letters\n")


@app.command("show")
@with_settings
def show_command(
    settings: Settings,
    topic: Topic = None,
    reason: Reason = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Show the newest dead letters: reason, source, and the original bytes with control characters escaped."""
    import msgspec

    from stream.operate.dead_letters import newest

    for found in asyncio.run(newest(settings, _wanted(settings, topic, reason, since), limit)):
        sys.stdout.write((msgspec.json.encode(as_fields(found)).decode() if as_json else as_text(found)) + "\n")


@app.command("replay")
@with_settings
def replay_command(
    settings: Settings,
    topic: Topic = None,
    reason: Reason = None,
    since: Since = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Replay at most this many, oldest of each topic first.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send the original records to their topics; running it twice counts no event twice. Exit code 3: some were not sent."""
    import msgspec

    from stream.operate.dead_letters import OUTCOME_TEXTS

    replayed = asyncio.run(_replay(settings, _wanted(settings, topic, reason, since), limit, dry_run))
    for outcome, count in replayed.outcomes.items():
        if count:
            sys.stderr.write(f"{count} {'would be ' if dry_run else ''}{OUTCOME_TEXTS[outcome]}\n")
    for left in replayed.left:
        why = f": {escaped(left.why)}" if left.why else ""
        sys.stderr.write(
            f"  {left.outcome}: {escaped(left.topic)}/{left.partition}@{left.offset}, "
            f"in {left.letter_kind}/{left.letter_partition}@{left.letter_offset}{why}\n"
        )
    if not replayed.total:
        sys.stderr.write("no such dead letters\n")
    if as_json:
        result = {"dry_run": dry_run, "total": replayed.total, **replayed.outcomes, "left": replayed.left}
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    if replayed.total > replayed.outcomes["sent"]:
        raise typer.Exit(3)


@app.command("resume")
def resume_command(
    url: Annotated[str, typer.Argument(help="The worker's HTTP address, from /readyz or its log: http://127.0.0.1:…")],
    as_json: AsJson = False,
) -> None:
    """Resume a worker that paused after too many dead letters, and reset its count."""
    import json
    import urllib.request

    from schemas.errors import BrokerError
    from stream.worker.health import RESUME_HEADER

    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"found {url!r}, expected http://host:port", param_hint="URL")
    request = urllib.request.Request(f"{url.rstrip('/')}/resume", method="POST", headers={RESUME_HEADER: "1"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            found = json.loads(response.read())
    except (OSError, ValueError) as error:
        raise BrokerError(f"found no worker at {url}, expected its HTTP server: {error}") from error
    sys.stderr.write(f"{found['role']} {'resumed; it was paused: ' + found['was'] if found['was'] else 'was not paused'}\n")
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")


async def _replay(settings: Settings, wanted: "LetterFilter", limit: int | None, dry_run: bool) -> Any:
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    from stream.operate.dead_letters import Replayed, send_again

    replayed, console = Replayed(), Console(stderr=True)
    column = TextColumn("{task.description} {task.completed}")
    with Progress(column, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("dead letters read", total=None)

        async def show() -> None:
            while True:
                progress.update(task, completed=replayed.total)
                await asyncio.sleep(0.2)

        showing = asyncio.create_task(show())
        try:
            return await send_again(settings, wanted, limit=limit, dry_run=dry_run, replayed=replayed)
        finally:
            showing.cancel()


def _wanted(settings: Settings, topic: str | None, reason: str | None, since: str | None) -> "LetterFilter":
    from schemas.dead_letter import Reason as Code
    from schemas.topics import DEAD_LETTERED
    from stream.operate.dead_letters import LetterFilter

    kinds = {name: kind for kind in DEAD_LETTERED for name in (kind, settings.topics()[kind].name)}
    if topic is not None and topic not in kinds:
        raise typer.BadParameter(f"found {topic!r}, expected one of {', '.join(DEAD_LETTERED)}", param_hint="--topic")
    if reason is not None and reason not in set(Code):
        raise typer.BadParameter(f"found {reason!r}, expected one of {', '.join(Code)}", param_hint="--reason")
    return LetterFilter(
        kinds=DEAD_LETTERED if topic is None else [kinds[topic]],
        reason=None if reason is None else Code(reason),
        since_ms=0 if since is None else since_ms(since, int(time.time() * 1000)),
    )


def since_ms(text: str, now_ms: int) -> int:
    """Parse a start time: a duration before now, or an ISO 8601 time (UTC unless it names a zone)."""
    if span := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return now_ms - int(span[1]) * UNIT_MS[span[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"found {text!r}, expected 30m, 2h, 7d or an ISO 8601 time", param_hint="--since") from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def as_fields(found: "FoundLetter") -> dict[str, Any]:
    """Render a dead letter for a program; key, value and headers are base64, because they may not be text."""
    letter = found.letter
    return {
        "reason": letter.reason,
        "detail": letter.detail,
        "exception": letter.exception,
        "stacktrace": letter.stacktrace,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "timestamp_ms": letter.timestamp_ms,
        "refused_ms": found.refused_ms,
        "key_b64": letter.key,
        "value_b64": letter.value,
        "headers_b64": letter.headers,
    }


def as_text(found: "FoundLetter") -> str:
    """Render a dead letter for a terminal."""
    letter = found.letter
    lines = [
        f"{letter.topic} partition {letter.partition} offset {letter.offset}",
        f"  reason     {letter.reason}, refused {_at(found.refused_ms)}, arrived {_at(letter.timestamp_ms)}",
        f"  detail     {escaped(letter.detail)}",
    ]
    lines += [f"  raised     {escaped(letter.exception)} {escaped(place)}" for place in letter.stacktrace.split("\n") if place]
    lines += [f"  header     {escaped(name)}: {_text(value)}" for name, value in letter.headers]
    lines += [f"  key        {_text(letter.key)}", f"  value      {_text(letter.value)}"]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Escape characters that could control a terminal or forge a line, and truncate long text."""
    from stream.process.log import UNPRINTABLE

    shown = text[:SHOWN_CHARS].translate(UNPRINTABLE)
    return shown if len(text) <= SHOWN_CHARS else f"{shown}… ({len(text) - SHOWN_CHARS} more)"


def _text(data: bytes | None) -> str:
    return "none" if data is None else escaped(data.decode(errors="backslashreplace"))


def _at(at_ms: int) -> str:
    return "unknown" if at_ms < 0 else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_ms / 1000))
