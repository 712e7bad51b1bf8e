"""A running process → the pages of settings, metrics and errors. Start at settings_page."""

import ast
import asyncio
import builtins
import inspect
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest.mock import MagicMock

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from docs.reference_pages import markdown as md
from stream.cli.options import setting_names
from stream.process import settings as settings_module
from stream.process.settings import Settings
from stream.roles.table import ROLES, Role
from stream.worker.build_app import build_app
from stream.worker.role_metrics import role_metrics

PACKAGES = ("schemas", "models", "stream")
TREE = "FootfallError"  # where the errors form one tree, its root
WORDS: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "text"}
ANY_VALUE = ("topic", "partition", "kind", "reason")  # labels whose values depend on the deployment and its events


def settings_page() -> str:
    """Render every setting with variable, flag, type, default and description: Kafka's own first, then ours."""
    kafka = [name for name in setting_names() if name.field.startswith("kafka_")]
    ours = [name for name in setting_names() if name not in kafka]
    return md.page(
        "Settings",
        md.paragraphs((settings_module.__doc__ or "").replace("Start at load_settings.", "")),
        "`footfall settings` prints each value in force. A setting is a flag of every command that reads settings, in the "
        "form `--barrier-ms`; secrets have no flag. In `footfall.toml` it is a line under its own name. "
        f"`{settings_module.CONFIG}` names another file.",
        "## Kafka clients\n\n" + settings_table([name.field for name in kafka]),
        "## Footfall\n\n" + settings_table([name.field for name in ours]),
    )


def settings_table(fields: list[str]) -> str:
    """Render settings as a table."""
    names = {name.field: name for name in setting_names()}
    rows = (
        [
            f"{md.code(field)}<br>{md.code(names[field].variable)}",
            setting_type(Settings.model_fields[field]),
            md.default(Settings.model_fields[field].default),
            md.prose(Settings.model_fields[field].description or ""),
        ]
        for field in fields
    )
    return md.table(["setting, variable", "type", "default", "description"], rows)


def setting_type(field: FieldInfo) -> str:
    """Say what a setting takes: a type with its range or pattern, or its choices."""
    bounds: dict[str, object] = {}
    for rule in field.metadata:
        for kind, name in ((Ge, "ge"), (Gt, "gt"), (Le, "le")):
            if isinstance(rule, kind):
                bounds[name] = getattr(rule, name)
        if getattr(rule, "pattern", None):
            bounds["pattern"] = rule.pattern
    span = md.limits(bounds.get("ge", bounds.get("gt")), bounds.get("le"), open_below="gt" in bounds)
    pattern = md.code(str(bounds["pattern"])) if "pattern" in bounds else ""
    return ", ".join(filter(None, (type_name(field.annotation), span, pattern)))


def type_name(annotation: Any) -> str:
    """Name a type of a setting."""
    options = [part for part in typing.get_args(annotation) if part is not type(None)]
    match typing.get_origin(annotation):
        case typing.Literal:
            return "one of " + ", ".join(md.code(choice or '""') for choice in options)
        case builtins.dict:
            return f"JSON object of {type_name(options[0])} → {type_name(options[1])}"
        case builtins.list:
            return f"JSON list of {type_name(options[0]).removeprefix('one of ')}"
        case typing.Annotated:
            return type_name(options[0])
        case None:
            return WORDS.get(annotation) or {"Path": "path", "SecretStr": "secret"}[annotation.__name__]
        case _:
            return type_name(options[0])  # a type or nothing


class RoleMetric(NamedTuple):
    """One metric as one role shows it, with the values of those labels that are known before any event."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str
    values: frozenset[tuple[str, str]]


def metrics_page() -> str:
    """Render every metric with type, labels, help and the roles that show it."""
    shown = {role: asyncio.run(metrics_of(role)) for role in ROLES}
    rows = []
    for name in dict.fromkeys(metric.name for metrics in shown.values() for metric in metrics):
        of_role = {role: metric for role, metrics in shown.items() for metric in metrics if metric.name == name}
        metric = next(iter(of_role.values()))
        roles = "all" if len(of_role) == len(ROLES) else ", ".join(of_role)
        rows.append([md.code(exposed(metric)), metric.type, labels(metric), md.prose(metric.help), roles])
    return md.page(
        "Metrics",
        "Each role serves `/metrics` in the Prometheus text format, beside `/livez` and `/readyz`, at the address of the "
        "[settings](settings.md) `http_host` and `http_port`.",
        md.table(["metric", "type", "labels", "meaning", "roles"], rows),
    )


async def metrics_of(role: Role) -> list[RoleMetric]:
    """Return what a role shows, from its own app that is built and not started; only the model is a stand-in."""
    model: Any = MagicMock() if role == "scorer" else None
    app = build_app(Settings.model_construct(), role, partitions=1, model=model)
    try:
        return [
            RoleMetric(
                metric.name,
                metric.type,
                tuple(getattr(metric, "_labelnames", ())),
                metric.documentation,
                frozenset(pair for sample in metric.samples for pair in sample.labels.items() if metric.type != "info"),
            )
            for metric in role_metrics(app, ready=True)
        ]
    finally:
        await app.outbox_producer.stop()


def exposed(metric: RoleMetric) -> str:
    """Name a metric as its samples are named."""
    suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
    return metric.name + suffix


def labels(metric: RoleMetric) -> str:
    """Render the labels of a metric, with the values of those that have a fixed set."""
    rendered = []
    for label in metric.labels:
        values = sorted(value for name, value in metric.values if name == label)
        fixed = f": {', '.join(map(md.code, values))}" if values and label not in ANY_VALUE else ""
        rendered.append(md.code(label) + fixed)
    return "; ".join(rendered)


class ErrorClass(NamedTuple):
    """An exception class as its source defines it."""

    name: str
    module: str
    bases: tuple[str, ...]
    doc: str


def errors_page() -> str:
    """Render every exception class below its base, or in the order of modules where they form no tree."""
    found = exception_classes()
    tree = list(dict.fromkeys(below(TREE, found)))
    groups = {TREE: tree} if tree else {}
    for error in found:
        if error not in tree:
            groups.setdefault("Others" if tree else error.module.split(".")[0], []).append(error)
    return md.page(
        "Errors",
        "The command line prints the text of these errors as one line on stderr, and ends with an "
        "[exit code](exit-codes.md). A text says what was found, what was expected and what to do.",
        *(f"## {group}\n\n{errors_table(errors)}" for group, errors in groups.items()),
    )


def errors_table(errors: list[ErrorClass]) -> str:
    """Render exception classes as a table."""
    rows = ([md.code(e.name), ", ".join(map(md.code, e.bases)), md.code(e.module), md.paragraphs(e.doc)] for e in errors)
    return md.table(["error", "is a", "module", "meaning"], rows)


def below(root: str, errors: list[ErrorClass]) -> Iterator[ErrorClass]:
    """Yield a class and all below it, depth first."""
    for error in errors:
        if error.name == root:
            yield error
    for error in errors:
        if root in error.bases:
            yield from below(error.name, errors)


def exception_classes() -> list[ErrorClass]:
    """Find the public exception classes of all packages in their sources, by module and place; imports none of them."""
    classes: list[ErrorClass] = []
    for package in PACKAGES:
        for path in sorted((md.ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(md.ROOT).with_suffix("").parts)
            classes += [
                ErrorClass(
                    node.name,
                    module,
                    tuple(ast.unparse(base) for base in node.bases),
                    inspect.cleandoc(ast.get_docstring(node) or ""),
                )
                for node in ast.parse(path.read_bytes()).body
                if isinstance(node, ast.ClassDef)
            ]
    known = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)}
    while more := {c.name for c in classes if c.name not in known and known & {base.split(".")[-1] for base in c.bases}}:
        known |= more
    own = known - set(vars(builtins))
    return [found for found in classes if found.name in own and not found.name.startswith("_")]
