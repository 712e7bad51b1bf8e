"""Imports point one way, schemas ← models.features ← models ← stream, and what the code must never call."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
OURS = ("schemas", "models", "stream")
SOURCES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_bytes()) for name in OURS for path in (ROOT / name).rglob("*.py")
}

# lowest first; a package imports from itself and from floors below its own, never from a package beside it
FLOORS = (
    ("schemas",),
    ("models.features", "models.data"),
    ("models.network",),
    ("models.linear",),
    ("models.serving",),
    ("models.evaluation",),
    ("models.training",),
    ("models.text",),
    ("stream.logs",),
    ("stream.process", "stream.fold"),
    ("stream.roles", "stream.kafka"),
    ("stream.worker", "stream.offline"),
    ("stream.operate",),
    ("stream.demo", "stream.bench"),
    ("stream.cli",),
)
PACKAGES = tuple(package for floor in FLOORS for package in floor)
# package → what it must not import although it lies below
FORBIDDEN_IMPORTS = {
    "models.features": ("models.data", "torch", "transformers", "safetensors"),
    "models.data": ("torch", "transformers", "safetensors"),
    "models": ("stream", "faust", "mode", "aiokafka"),
    "stream.kafka": ("models", "stream.logs"),
    "stream.roles": ("stream.kafka", "faust", "mode", "aiokafka"),
    "stream.fold": ("faust", "mode", "aiokafka"),
    "stream.offline": ("stream.kafka", "faust", "mode", "aiokafka"),
}
SCHEMAS_MAY_IMPORT = {*sys.stdlib_module_names, "msgspec", "yaml", "schemas"}

# file → why it may catch whatever was raised; a file need not exist yet
CATCH_ALL_ALLOWED = {
    "stream/process/exit_codes.py": "an unexpected error ends the process: Faust would pass over what the agent held",
    "stream/kafka/barrier.py": "an unexpected error of a flush ends the process before the ack",
    "stream/kafka/fetch_thread.py": "a commit that fails ends the app, as in the method of Faust that it replaces",
    "stream/kafka/recovery.py": "the top of a task: a restore that fails ends the app, as it would inside Faust's callback",
    "stream/roles/handler_errors.py": "an error of one record is its dead letter",
    "stream/worker/served_model.py": "a promoted model that does not load leaves the one in use at work",
    "stream/cli/main.py": "the top of the command line says what failed in one line",
    "stream/worker/run_role.py": "the top of a worker",
}

FORBIDDEN_MODULES = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}
CLOCKS = {
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "date.today",
    "datetime.date.today",
}


def imported(path: str, tree: ast.Module) -> Iterator[str]:
    """Yield the full name of every module a file imports, wherever in the file; relative imports made absolute."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def aliases(tree: ast.Module) -> dict[str, str]:
    """Map every name that an import binds to what it stands for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def called(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted name of everything a file refers to, with imported names written out."""
    names = aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            head, _, rest = ast.unparse(node).partition(".")
            yield ".".join(filter(None, (names.get(head, head), rest)))


def module_of(path: str) -> str:
    """Return the name under which a file is imported."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def catches_all(node: ast.ExceptHandler) -> bool:
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in caught)


def test_the_sources_are_found() -> None:
    assert {"schemas/codec.py", "models/features/__init__.py", "stream/__init__.py"} <= set(SOURCES)


def test_schemas_import_only_the_standard_library_msgspec_and_yaml() -> None:
    found = {path: {name.split(".")[0] for name in imported(path, tree)} for path, tree in SOURCES.items()}
    assert {
        path: extra for path, names in found.items() if path.startswith("schemas/") and (extra := names - SCHEMAS_MAY_IMPORT)
    } == {}


def package_of(module: str) -> str | None:
    """Return the package on a floor that a module belongs to."""
    return next((package for package in PACKAGES if within(module, (package,))), None)


def test_every_file_belongs_to_a_package_on_a_floor() -> None:
    assert [path for path in SOURCES if package_of(module_of(path)) is None and Path(path).name != "__init__.py"] == []


def test_imports_point_from_higher_floors_to_lower_ones() -> None:
    floor_of = {package: number for number, floor in enumerate(FLOORS) for package in floor}
    wrong = []
    for path, tree in SOURCES.items():
        here = package_of(module_of(path))
        for module in imported(path, tree):
            there = package_of(module)
            if here and there and here != there and floor_of[there] >= floor_of[here]:
                wrong.append(f"{path} imports {module}")
    assert wrong == []


@pytest.mark.parametrize("package", FORBIDDEN_IMPORTS)
def test_a_package_does_not_import_what_it_must_not_know(package: str) -> None:
    wrong = [
        f"{path} imports {module}"
        for path, tree in SOURCES.items()
        for module in imported(path, tree)
        if within(module_of(path), (package,)) and within(module, FORBIDDEN_IMPORTS[package])
    ]
    assert wrong == []


def test_no_two_files_outside_the_command_line_share_a_name() -> None:
    names = Counter(Path(path).name for path in SOURCES if not path.startswith("stream/cli/"))
    assert {name for name, count in names.items() if count > 1} <= {"__init__.py"}


def test_importing_the_features_loads_no_torch_and_no_kafka() -> None:
    modules = [path.removesuffix(".py").replace("/", ".") for path in SOURCES if path.startswith("models/features/")]
    names = ", ".join(module.removesuffix(".__init__") for module in sorted(modules))
    heavy = "{'torch', 'transformers', 'faust', 'aiokafka'}"
    program = f"import sys, {names}; sys.exit(', '.join(sorted({heavy} & set(sys.modules))) or None)"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("path", SOURCES)
def test_nothing_is_pickled_or_evaluated(path: str) -> None:
    assert [module for module in imported(path, SOURCES[path]) if within(module, FORBIDDEN_MODULES)] == []
    assert sorted(FORBIDDEN_CALLS & set(called(SOURCES[path]))) == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.startswith(("schemas/", "models/features/"))])
def test_time_is_an_argument_and_never_the_clock(path: str) -> None:
    assert sorted(CLOCKS & set(called(SOURCES[path]))) == []


def test_whatever_is_raised_is_caught_only_where_the_list_says_why() -> None:
    wrong = [
        f"{path}:{node.lineno}"
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and catches_all(node) and path not in CATCH_ALL_ALLOWED
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import torch\ntorch.load('x')", "torch.load"),
        ("import torch as t\nt.load('x')", "torch.load"),
        ("from torch import load as read\nread('x')", "torch.load"),
        ("from yaml import load\nload('x')", "yaml.load"),
        ("eval('1')", "eval"),
        ("from time import time as now\nnow()", "time.time"),
        ("from datetime import datetime\ndatetime.now()", "datetime.datetime.now"),
        ("import datetime as d\nd.datetime.now(d.UTC)", "datetime.datetime.now"),
        ("clock = __import__('time')\nimport time\nread = time.time", "time.time"),
    ],
)
def test_a_forbidden_name_is_found_under_any_alias(source: str, name: str) -> None:
    assert name in set(called(ast.parse(source)))


def test_relative_imports_and_bare_excepts_are_seen() -> None:
    assert list(imported("models/features/windows.py", ast.parse("from ..encoder import Encoder"))) == [
        "models.encoder.Encoder"
    ]
    assert list(imported("models/features/windows.py", ast.parse("from . import spec"))) == ["models.features.spec"]
    bare = [node for node in ast.walk(ast.parse("try: ...\nexcept: ...")) if isinstance(node, ast.ExceptHandler)]
    assert [catches_all(node) for node in bare] == [True]
