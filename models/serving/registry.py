"""A folder of checkpoints and the note of which one serves: production.json, replaced by renaming, never half written.

`<model_version>/` is a checkpoint folder; production.json says the current version and every change, with time and
command. Decides nothing about a model's worth. Start at Registry.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from models.serving.checkpoint import MANIFEST, Manifest, load_checkpoint
from schemas.errors import ModelError, RegistryError

PRODUCTION = "production.json"
FORMAT_VERSION = 1
MOVE = "move it away, then promote a model"
VERSION_NAME = re.compile(r"\w[\w.+-]{0,199}", re.ASCII)


class Change(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One change of what serves: after it, `model_version` did. `without_report` is why none was needed."""

    action: Literal["promote", "rollback"]
    model_version: str
    at: str
    command: str
    without_report: str | None = None


class Production(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of production.json: what serves, and every change since the first, oldest first."""

    format_version: int
    current: str
    history: list[Change]

    def former(self) -> str | None:
        """Return what a rollback goes to: the version promoted before the current one and not rolled back itself."""
        served: list[str] = []
        for change in self.history:
            if change.action == "promote":
                served.append(change.model_version)
            else:
                del served[-1:]
        return served[-2] if len(served) > 1 else None


class Registry:
    """The checkpoints of a folder; versions are the folders' names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def versions(self) -> list[str]:
        """List the versions that have a manifest, in alphabetical order."""
        return sorted(path.parent.name for path in self.folder.glob(f"[!.]*/{MANIFEST}"))

    def checkpoint(self, version: str) -> Path:
        """Return the checkpoint folder of a version.

        Raises:
            RegistryError: there is none.
        """
        if not VERSION_NAME.fullmatch(version) or not (self.folder / version / MANIFEST).is_file():
            known = ", ".join(self.versions()) or "none"
            raise RegistryError(f"found no model {version} in {self.folder}, expected one of: {known}; see footfall models ls")
        return self.folder / version

    def production(self) -> Production | None:
        """Read what serves; None before the first promotion.

        Raises:
            RegistryError: production.json was edited, or is of another format.
        """
        path = self.folder / PRODUCTION
        try:
            production = msgspec.json.decode(path.read_bytes(), type=Production)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except msgspec.DecodeError as error:
            raise RegistryError(f"{path}: {error}, expected what footfall models promote writes: {MOVE}") from error
        if production.format_version != FORMAT_VERSION or not production.history:
            found = f"format {production.format_version} and {len(production.history)} changes"
            raise RegistryError(f"{path} has {found}, expected format {FORMAT_VERSION} and a history: {MOVE}")
        if production.current != (last := production.history[-1].model_version):
            raise RegistryError(f"{path} says {production.current}, expected {last}, its history's last: {MOVE}")
        return production

    def add(self, source: Path) -> str:
        """Copy a checkpoint folder into the registry, after every byte of it was checked; returns its version.

        What is copied is what the manifest names, and the JSON and HTML beside it: report and run card. A version that
        is there already stays as it is, but takes those.

        Raises:
            ModelError: the checkpoint, or the one that is there already, is altered.
        """
        manifest = load_checkpoint(source).manifest
        version = manifest.model_version
        if not VERSION_NAME.fullmatch(version):
            raise RegistryError(
                f"found model version {version!r}, expected letters, digits and ._+-: rename its folder, train again"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / version
        if target.exists():
            self._check(target, version)
            if source.resolve() != target.resolve():
                for path in _reports(source, manifest):
                    _replace(target / path.name, path.read_bytes())
            return version
        with tempfile.TemporaryDirectory(prefix=".adding-", dir=self.folder) as staging:
            copy = Path(staging) / version
            for path in (source / MANIFEST, *(source / name for name in manifest.files), *_reports(source, manifest)):
                (copy / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy / path.relative_to(source))
            self._check(copy, version)
            os.rename(copy, target)
        return version

    def promote(self, version: str, *, at: str, command: str, without_report: str | None = None) -> Production:
        """Let a version serve, after every byte of it was checked; where it does already, the note is written anew."""
        self._check(self.checkpoint(version), version)
        change = Change(action="promote", model_version=version, at=at, command=command, without_report=without_report)
        with self._locked():
            production = self.production()
            if production is None:
                return self._write([change])
            return self._write(production.history if production.current == version else [*production.history, change])

    def rollback(self, *, at: str, command: str) -> Production:
        """Let the former version serve again, after every byte of it was checked.

        Raises:
            RegistryError: there is none.
            ModelError: it was altered since.
        """
        with self._locked():
            production = self.production()
            former = None if production is None else production.former()
            if production is None or former is None:
                raise RegistryError(f"found no former model in {self.folder}, expected two promotions: promote another model")
            self._check(self.checkpoint(former), former)
            change = Change(action="rollback", model_version=former, at=at, command=command)
            return self._write([*production.history, change])

    def _write(self, history: list[Change]) -> Production:
        production = Production(format_version=FORMAT_VERSION, current=history[-1].model_version, history=history)
        _replace(self.folder / PRODUCTION, msgspec.json.format(msgspec.json.encode(production)) + b"\n")
        return production

    def _check(self, folder: Path, version: str) -> None:
        if (found := load_checkpoint(folder).manifest.model_version) != version:
            raise ModelError(f"{folder} holds {found}, expected {version}: add the checkpoint again")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one command at a time change what serves."""
        if not self.folder.is_dir():
            raise RegistryError(f"found no registry {self.folder}, expected one: footfall models promote FOLDER makes it")
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def serving(folder: Path) -> Path:
    """Return the checkpoint folder to load: that of a registry's current version, or the folder itself.

    Raises:
        RegistryError: it is a registry in which nothing serves.
    """
    registry = Registry(folder)
    production = registry.production()
    if production is not None:
        return registry.checkpoint(production.current)
    if not (folder / MANIFEST).is_file() and registry.versions():
        raise RegistryError(f"found models in {folder} and none of them promoted: run footfall models promote VERSION")
    return folder


def _reports(folder: Path, manifest: Manifest) -> list[Path]:
    """List the JSON and HTML beside a checkpoint that are no part of it."""
    own = {MANIFEST, *manifest.files}
    return [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".html") and path.name not in own]


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader, and a machine that loses power, has the old content or the new."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
