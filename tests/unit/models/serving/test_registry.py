"""The registry: what may serve, what served, and that nothing is ever half written."""

from pathlib import Path

import msgspec
import pytest

from models.serving.checkpoint import WEIGHTS
from models.serving.registry import PRODUCTION, Production, Registry, serving
from schemas.errors import ModelError, RegistryError
from tests.checkpoints import flip_a_byte, report, tiny_checkpoint

AT = "2026-11-01T00:00:00Z"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def added(registry: Registry, tmp_path: Path, seed: int) -> str:
    tiny_checkpoint(tmp_path / f"trained-{seed}", seed=seed)
    return registry.add(tmp_path / f"trained-{seed}")


def promote(registry: Registry, version: str) -> Production:
    return registry.promote(version, at=AT, command=f"footfall models promote {version}")


def test_an_added_checkpoint_is_whole_with_its_report_and_without_what_else_lay_there(
    registry: Registry, tmp_path: Path
) -> None:
    source = tmp_path / "trained"
    manifest = tiny_checkpoint(source)
    report(source, churn={"wins": True})
    (source / "optimizer.bin").write_bytes(b"gigabytes")

    version = registry.add(source)

    assert version == manifest.model_version
    assert registry.versions() == [version]
    assert sorted(path.name for path in registry.checkpoint(version).iterdir()) == ["manifest.json", WEIGHTS, "report.json"]
    assert [path.name for path in registry.folder.iterdir()] == [version]


def test_adding_again_changes_nothing_but_the_report(registry: Registry, tmp_path: Path) -> None:
    source = tmp_path / "trained"
    tiny_checkpoint(source)
    version = registry.add(source)
    report(source, churn={"wins": True})

    assert registry.add(source) == version
    assert (registry.checkpoint(version) / "report.json").is_file()
    assert registry.add(registry.checkpoint(version)) == version


def test_promotions_and_rollbacks_go_back_step_by_step(registry: Registry, tmp_path: Path) -> None:
    one, two, three = (added(registry, tmp_path, seed) for seed in (1, 2, 3))
    for version in (one, two, three):
        promote(registry, version)

    assert serving(registry.folder) == registry.folder / three
    assert registry.rollback(at=AT, command="footfall models rollback").current == two
    assert promote(registry, three).former() == two
    assert registry.rollback(at=AT, command="footfall models rollback").current == two
    assert registry.rollback(at=AT, command="footfall models rollback").current == one
    with pytest.raises(RegistryError, match="found no former model"):
        registry.rollback(at=AT, command="footfall models rollback")
    production = registry.production()
    assert production is not None
    assert [change.action for change in production.history] == [*["promote"] * 3, "rollback", "promote", *["rollback"] * 2]
    assert production.history[0].command == f"footfall models promote {one}"


def test_promoting_what_serves_writes_the_note_anew_and_no_history(registry: Registry, tmp_path: Path) -> None:
    version = added(registry, tmp_path, 1)
    promote(registry, version)
    before = (registry.folder / PRODUCTION).stat().st_mtime_ns

    assert len(promote(registry, version).history) == 1
    assert (registry.folder / PRODUCTION).stat().st_mtime_ns > before


def test_an_altered_checkpoint_is_neither_added_nor_promoted_nor_gone_back_to(registry: Registry, tmp_path: Path) -> None:
    one, two = (added(registry, tmp_path, seed) for seed in (1, 2))
    promote(registry, one)
    promote(registry, two)
    flip_a_byte(registry.checkpoint(one) / WEIGHTS)
    flip_a_byte(tmp_path / "trained-2" / WEIGHTS)

    with pytest.raises(ModelError, match="SHA-256"):
        promote(registry, one)
    with pytest.raises(ModelError, match="SHA-256"):
        registry.rollback(at=AT, command="")
    with pytest.raises(ModelError, match="SHA-256"):
        registry.add(tmp_path / "trained-2")
    assert serving(registry.folder) == registry.folder / two


def test_a_version_under_the_name_of_another_is_refused(registry: Registry, tmp_path: Path) -> None:
    one, two = (added(registry, tmp_path, seed) for seed in (1, 2))
    (registry.folder / two / WEIGHTS).write_bytes((registry.folder / one / WEIGHTS).read_bytes())
    (registry.folder / two / "manifest.json").write_bytes((registry.folder / one / "manifest.json").read_bytes())

    with pytest.raises(ModelError, match=f"holds {one}, expected {two}"):
        promote(registry, two)


@pytest.mark.parametrize("version", ["nothing", "../trained-1", ".", "", "a/b"])
def test_what_is_no_version_is_refused_with_the_versions_there_are(registry: Registry, tmp_path: Path, version: str) -> None:
    known = added(registry, tmp_path, 1)

    with pytest.raises(RegistryError, match=f"expected one of: {known}"):
        registry.checkpoint(version)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "what footfall models promote writes"),
        (b'{"format_version": 9, "current": "a", "history": []}', "has format 9 and 0 changes, expected format 1"),
        (
            b'{"format_version": 1, "current": "a", '
            b'"history": [{"action": "promote", "model_version": "b", "at": "", "command": ""}]}',
            "names a, expected b, the last of its history",
        ),
    ],
)
def test_an_edited_note_of_what_serves_is_refused(registry: Registry, content: bytes, text: str) -> None:
    registry.folder.mkdir()
    (registry.folder / PRODUCTION).write_bytes(content)

    with pytest.raises(RegistryError, match=text):
        registry.production()


def test_a_registry_in_which_nothing_serves_is_refused_and_a_checkpoint_folder_serves_itself(
    registry: Registry, tmp_path: Path
) -> None:
    added(registry, tmp_path, 1)

    with pytest.raises(RegistryError, match="expected a promoted one: run footfall models promote"):
        serving(registry.folder)
    assert serving(tmp_path / "trained-1") == tmp_path / "trained-1"


def test_what_is_written_is_what_is_read(registry: Registry, tmp_path: Path) -> None:
    production = registry.promote(added(registry, tmp_path, 1), at=AT, command="c", without_report="the first")

    assert registry.production() == production
    assert msgspec.json.decode((registry.folder / PRODUCTION).read_bytes())["history"][0]["without_report"] == "the first"
