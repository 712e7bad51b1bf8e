"""The command line → the pages of commands and of exit codes. Start at commands_page."""

import ast
import inspect
import re
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import typer

from docs.reference_pages import markdown as md
from stream.cli import main
from stream.cli.options import KAFKA_PANEL, PANEL
from stream.process import exit_codes

TYPES = {bool: "flag", int: "integer", float: "number", str: "text", Path: "path"}
EVERY_COMMAND = "every command"
USAGE = 2  # what typer ends with where an argument is wrong


class Command(NamedTuple):
    """One command with its whole name; a group has commands below it."""

    path: str
    command: Any
    is_group: bool


def commands() -> Iterator[Command]:
    """Yield every command and group, a group before what is below it, in the order of the source."""
    root = typer.main.get_command(main.app)
    context = root.make_context("footfall", ["--version"], resilient_parsing=True)

    def below(group: Any, path: str) -> Iterator[Command]:
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            if not found.hidden:
                is_group = hasattr(found, "list_commands")
                yield Command(f"{path} {name}", found, is_group)
                if is_group:
                    yield from below(found, f"{path} {name}")

    return below(root, "footfall")


def commands_page() -> str:
    """Render every command with its arguments and options; settings are named once, not at each command."""
    verbs = md.table(
        ["command", "what it does"],
        ([f"[`footfall {verb}`](#footfall-{verb})", md.prose(does)] for verb, (_, _, does) in main.VERBS.items()),
    )
    intro = (
        "`footfall COMMAND --help` prints the same facts. A command that reads settings takes "
        "[every setting](settings.md) as an option, which is not repeated below. `footfall --version` prints the version."
    )
    return md.page("Commands", intro, verbs, *(section(command) for command in commands()))


def section(found: Command) -> str:
    """Render one command: usage, help, arguments, options."""
    path, command, is_group = found
    level = "##" if path.count(" ") == 1 else "###"
    if is_group:
        return f"{level} {path}\n\n{md.paragraphs(command.help)}"
    shown = [parameter for parameter in command.params if not parameter.hidden and not is_setting(parameter)]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    options = [parameter for parameter in shown if parameter.param_type_name == "option"]
    takes_settings = len(shown) < len(command.params)
    usage = " ".join([path, *("[OPTIONS]" for _ in command.params[len(arguments) :][:1]), *map(placeholder, arguments)])
    blocks = [
        f"{level} {path}",
        f"    {usage}",
        md.paragraphs(command.help),
        md.table(["argument", "type", "meaning"], ([md.code(placeholder(p)), kind(p), meaning(p)] for p in arguments)),
        md.table(
            ["option", "type", "default", "meaning"],
            ([names(p), kind(p), md.code("required") if p.required else default(p), meaning(p)] for p in options),
        ),
        "Takes [every setting](settings.md) as an option." if takes_settings else "",
    ]
    return "\n\n".join(block for block in blocks if block)


def is_setting(parameter: Any) -> bool:
    """Tell the options that stand for settings, which the page of settings lists."""
    return getattr(parameter, "rich_help_panel", None) in (PANEL, KAFKA_PANEL)


def placeholder(argument: Any) -> str:
    """Name an argument as usage lines do."""
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name}]"


def names(option: Any) -> str:
    """Render the names of an option, the one that says no included."""
    return ", ".join(md.code(name) for name in (*option.opts, *option.secondary_opts))


def kind(parameter: Any) -> str:
    """Say what a parameter takes: a word of TYPES with its range, choices, or the form its metavar shows."""
    annotation = parameter.type_descriptor.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(md.code(str(choice)) for choice in typing.get_args(annotation))
    if parameter.multiple:
        (annotation,) = typing.get_args(annotation)
    word = md.code(parameter.metavar) if parameter.metavar and parameter.param_type_name == "option" else TYPES[annotation]
    span = md.limits(parameter.min, parameter.max)
    return ", ".join(part for part in (word, span, "repeatable" if parameter.multiple else "") if part)


def default(option: Any) -> str:
    """Render an option's default; a flag that is off has none."""
    if option.is_flag:
        return md.code((option.opts if option.default else option.secondary_opts)[0]) if option.secondary_opts else ""
    return "" if option.default in (None, "", [], ()) else md.default(option.default)


def meaning(parameter: Any) -> str:
    """Render the help of a parameter."""
    return md.prose(parameter.help or "")


def exit_codes_page() -> str:
    """Render every exit code, what ends with it, and what commands say of it.

    Raises:
        ValueError: the code ends with a number that the command line's module header does not explain.
    """
    sources = {EVERY_COMMAND: codes_of(main) | {USAGE}, "`footfall worker`": role_codes()}
    for verb, (module, _, _) in main.VERBS.items():
        sources.setdefault(f"`footfall {verb}`", set()).update(codes_of(import_module(module)))
    meanings = exit_meanings()
    if unknown := set().union(*sources.values()) - set(meanings):
        raise ValueError(
            f"found exit codes {sorted(unknown)}, which stream/cli/main.py does not explain: add them to its header"
        )
    rows = (
        [
            md.code(str(code)),
            md.prose(text),
            EVERY_COMMAND
            if code in sources[EVERY_COMMAND]
            else ", ".join(source for source, codes in sources.items() if code in codes),
        ]
        for code, text in meanings.items()
    )
    said = (
        [f"[`{found.path}`](commands.md#{found.path.replace(' ', '-')})", md.prose(sentence)]
        for found in commands()
        for sentence in sentences(found.command.help or "")
        if re.search(r"\b[Ee]xit (code|\d)", sentence)
    )
    return md.page(
        "Exit codes",
        md.table(["code", "meaning", "used by"], rows),
        "## Roles\n\nA role ends itself in one of two ways:",
        *(
            f"- {md.paragraphs(end.__doc__)}".replace("\n\n", "\n\n  ")
            for end in (exit_codes.end_process, exit_codes.end_stopped)
        ),
        "## What commands say\n\n" + md.table(["command", "exit code"], said),
    )


def role_codes() -> set[int]:
    """Return the codes that a role may end with."""
    return {code for name, code in vars(exit_codes).items() if name.startswith("EXIT_")}


def exit_meanings() -> dict[int, str]:
    """Read what each exit code means from the module header of the command line."""
    listed = re.search(r"Exit codes: (.*?)\.(?:\s|$)", inspect.cleandoc(main.__doc__ or ""), re.DOTALL)
    if listed is None:
        raise ValueError("stream/cli/main.py: found no line `Exit codes: 0 done, …` in its header, expected one")
    return {int(code): text for code, text in re.findall(r"(\d+) ([^,]+)", " ".join(listed[1].split()))}


def codes_of(module: ModuleType) -> set[int]:
    """Return the codes that a module's own calls of typer.Exit and sys.exit name, as numbers or as constants."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("typer.Exit", "sys.exit"):
            for part in (part for argument in node.args for part in ast.walk(argument)):
                named = getattr(module, part.id, None) if isinstance(part, ast.Name) else getattr(part, "value", None)
                if type(named) is int:
                    found.add(named)
    return found


def sentences(text: str) -> list[str]:
    """Cut help into sentences."""
    return re.split(r"(?<=[.])\s+", " ".join(text.split()))
