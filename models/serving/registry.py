"""Keep checkpoints in a folder, and record in production.json which one serves.

`<model_version>/` is a checkpoint folder. production.json holds the current version and every change with its time and
command. It is replaced by renaming, so it is never partially written. This module does not judge a model's quality.
Start at Registry.
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
    """One change of the production model to `model_version`. `without_report` is why no report was needed."""

    action: Literal["promote", "rollback"]
    model_version: str
    at: str
    command: str
    without_report: str | None = None


class Production(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of production.json: the version that serves, and every change, oldest first."""

    format_version: int
    current: str
    history: list[Change]

    def former(self) -> str | None:
        """Return the target of a rollback: the version promoted before the current one and not rolled back itself."""
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
            RegistryError: the registry has no such version.
        """
        if not VERSION_NAME.fullmatch(version) or not (self.folder / version / MANIFEST).is_file():
            known = ", ".join(self.versions()) or "none"
            raise RegistryError(f"found no model {version} in {self.folder}, expected one of: {known}; see footfall models ls")
        return self.folder / version

    def production(self) -> Production | None:
        """Read production.json; None before the first promotion.

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
            raise RegistryError(f"{path} has {found}, expected format {FORMAT_VERSION} and at least 1 change: {MOVE}")
        if production.current != (last := production.history[-1].model_version):
            raise RegistryError(f"{path} names {production.current}, expected {last}, the last of its history: {MOVE}")
        return production

    def add(self, source: Path) -> str:
        """Verify every byte of a checkpoint folder, copy it into the registry, and return its version.

        Copies the files that the manifest names, and the JSON and HTML beside them: report and run card. A version that is
        already in the registry is kept; only its JSON and HTML are replaced.

        Raises:
            ModelError: the checkpoint, or the version already in the registry, was altered.
        """
        manifest = load_checkpoint(source).manifest
        version = manifest.model_version
        if not VERSION_NAME.fullmatch(version):
            raise RegistryError(
                f"found model version {version!r}, expected letters, digits and ._+-: rename its folder and train again"
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
        """Verify every byte of a version and put it into production; if it is already, rewrite production.json unchanged."""
        self._check(self.checkpoint(version), version)
        change = Change(action="promote", model_version=version, at=at, command=command, without_report=without_report)
        with self._locked():
            production = self.production()
            if production is None:
                return self._write([change])
            return self._write(production.history if production.current == version else [*production.history, change])

    def rollback(self, *, at: str, command: str) -> Production:
        """Verify every byte of the former version and put it back into production.

        Raises:
            RegistryError: there is no former version.
            ModelError: the former version was altered.
        """
        with self._locked():
            production = self.production()
            former = None if production is None else production.former()
            if production is None or former is None:
                raise RegistryError(
                    f"found no former model in {self.folder} to go back to, expected two promotions: promote another model"
                )
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
        """Hold the registry's lock, so that only one command at a time changes production.json."""
        if not self.folder.is_dir():
            raise RegistryError(f"found no registry {self.folder}, expected one: create it with footfall models promote FOLDER")
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def serving(folder: Path) -> Path:
    """Return the checkpoint folder to load: that of a registry's current version, or the folder itself.

    Raises:
        RegistryError: the folder is a registry without a promoted model.
    """
    registry = Registry(folder)
    production = registry.production()
    if production is not None:
        return registry.checkpoint(production.current)
    if not (folder / MANIFEST).is_file() and registry.versions():
        raise RegistryError(f"found models in {folder}, expected a promoted one: run footfall models promote VERSION")
    return folder


def _reports(folder: Path, manifest: Manifest) -> list[Path]:
    """List the JSON and HTML files beside a checkpoint that its manifest does not name."""
    own = {MANIFEST, *manifest.files}
    return [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".html") and path.name not in own]


def _replace(path: Path, content: bytes) -> None:
    """Replace a file atomically and durably: after a power loss it has the old content or the new."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
