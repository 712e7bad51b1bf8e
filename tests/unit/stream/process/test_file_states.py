"""A file or folder counts as changed whatever changes it: an edit, a rename over it, a new link target, a removal."""

import os
from pathlib import Path

import pytest

from stream.process.file_states import file_states


def edited(folder: Path) -> None:
    (folder / "sub" / "a").write_text("other")


def replaced(folder: Path) -> None:
    before = (folder / "sub" / "a").stat()
    (folder / "new").write_text("same")
    os.utime(folder / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (folder / "new").replace(folder / "sub" / "a")


def removed(folder: Path) -> None:
    (folder / "sub" / "a").unlink()


def added(folder: Path) -> None:
    (folder / "sub" / "b").touch()


def relinked(folder: Path) -> None:
    """Change a mounted secret as Kubernetes does: the link in the middle is replaced."""
    (folder / "v2").mkdir()
    (folder / "v2" / "secret").write_text("same")
    (folder / "data.tmp").symlink_to("v2")
    (folder / "data.tmp").replace(folder / "data")


@pytest.mark.parametrize("change", [edited, replaced, removed, added, relinked])
def test_every_kind_of_change_is_seen(change: object, tmp_path: Path) -> None:
    for name in ("sub", "v1"):
        (tmp_path / name).mkdir()
    (tmp_path / "sub" / "a").write_text("same")
    (tmp_path / "v1" / "secret").write_text("same")
    (tmp_path / "data").symlink_to("v1")
    paths = [tmp_path / "sub", tmp_path / "data" / "secret", tmp_path / "none"]
    before = file_states(paths)
    assert file_states(paths) == before

    change(tmp_path)  # type: ignore[operator]

    assert file_states(paths) != before


def test_a_missing_file_that_appears_is_a_change(tmp_path: Path) -> None:
    before = file_states([tmp_path / "later"])
    (tmp_path / "later").touch()
    assert file_states([tmp_path / "later"]) != before
