"""Give a command every setting as a flag, such as `--barrier-ms 100`, as well as FOOTFALL_BARRIER_MS and footfall.toml.

Flags are parsed as text and validated together with all settings. A bad value therefore gets the same error wherever it came
from. A password has no flag, because every user of a machine can read its command lines: use a file instead. Start at
with_settings.
"""

import inspect
import json
import types
import typing
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from stream.process.settings import Settings, load_settings

PANEL, KAFKA_PANEL = "Settings", "Settings of Kafka clients"
WORDS: dict[Any, str] = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "BOOLEAN"}

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


class SettingName(NamedTuple):
    """One setting: its field, its environment variable, its flag (none for a secret) and its default as text."""

    field: str
    variable: str
    flag: str | None
    default: str


def setting_names() -> list[SettingName]:
    """List every setting in order of declaration."""
    return [
        SettingName(name, variable(name, field), None if _is_secret(field) else _flag(name), _default(field))
        for name, field in Settings.model_fields.items()
    ]


def variable(name: str, field: FieldInfo) -> str:
    """Name the environment variable of a setting."""
    return field.alias or f"FOOTFALL_{name.upper()}"


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a function that takes `settings: Settings` into a typer command; other parameters are unchanged."""
    own = [parameter for parameter in inspect.signature(command).parameters.values() if parameter.name != "settings"]
    flags = [_parameter(name, field) for name, field in Settings.model_fields.items() if not _is_secret(field)]

    @wraps(command)
    def run(**given: Any) -> Any:
        settings = load_settings(**{flag.name: given.pop(flag.name) for flag in flags})
        return command(settings=settings, **given)

    kinds = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *flags)]
    hints = typing.get_type_hints(command, include_extras=True)
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(annotation=hints.get(parameter.name, parameter.annotation)) for parameter in kinds]
    )
    run.__annotations__ = {parameter.name: hints.get(parameter.name, parameter.annotation) for parameter in kinds}
    return run


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    choices = typing.get_args(_base(field)) if typing.get_origin(_base(field)) is Literal else ()
    one_of = f": {', '.join(choice or 'empty' for choice in choices)}" if choices else ""
    help_text = f"{field.description}{one_of} ({variable(name, field)}, default {_default(field)})"
    panel = KAFKA_PANEL if name.startswith("kafka_") else PANEL
    if _base(field) is bool:
        option = typer.Option(
            f"{_flag(name)}/--no-{name.replace('_', '-')}",
            help=help_text,
            show_default=False,
            rich_help_panel=panel,
        )
        kind: Any = bool | None
    else:
        option = typer.Option(_flag(name), help=help_text, metavar=_metavar(field), show_default=False, rich_help_panel=panel)
        kind = str | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _base(field: FieldInfo) -> Any:
    """Return a setting's type without `| None`."""
    if typing.get_origin(field.annotation) is not types.UnionType:
        return field.annotation
    (base,) = (kind for kind in typing.get_args(field.annotation) if kind is not type(None))
    return base


def _is_secret(field: FieldInfo) -> bool:
    return _base(field) is SecretStr


def _metavar(field: FieldInfo) -> str:
    base = _base(field)
    if typing.get_origin(base) is Literal:
        return "TEXT"
    return "JSON" if typing.get_origin(base) in (dict, list) else WORDS[base]


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return "none"
    if isinstance(value, Path):
        return f"the installed {'/'.join(value.parts[-2:])}" if value.is_absolute() else str(value)
    if isinstance(value, bool | dict | list):
        return json.dumps(value)
    return str(value)
