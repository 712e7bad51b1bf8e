"""The committed reference is what the code says, and holds nothing of the machine that wrote it."""

import re
import sys
from pathlib import Path

import pytest

from docs.generate_reference import DIRECTORY, PAGES
from docs.reference_pages import markdown
from docs.reference_pages.commands import commands
from docs.reference_pages.process import ErrorClass, below, exception_classes
from models.features.spec import FEATURE_SPEC
from schemas.dead_letter import Reason
from schemas.topics import TABLE
from stream.cli import main
from stream.process.settings import Settings

MACHINE = (str(Path.home()), sys.prefix, str(markdown.ROOT))


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: render() for name, render in PAGES.items()}


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_what_the_code_says(name: str, pages: dict[str, str]) -> None:
    path = DIRECTORY / name
    committed = path.read_text("utf-8") if path.is_file() else ""
    first = next((f"line {n}: {new}" for n, (old, new) in enumerate(lines(committed, pages[name]), 1) if old != new), "")
    assert committed == pages[name], f"docs/reference/{name} is stale: run `make docs` and commit the page; {first}"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_first_that_it_is_generated_and_by_which_command(name: str, pages: dict[str, str]) -> None:
    heading, _, sentence, *_ = pages[name].split("\n")
    assert heading.startswith("# ")
    assert "generated" in sentence
    assert "`make docs`" in sentence


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_no_path_of_this_machine(name: str, pages: dict[str, str]) -> None:
    assert [path for path in MACHINE if path in pages[name]] == []


def test_pages_are_the_same_when_made_twice_and_ignore_the_environment(
    pages: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "footfall.toml").write_text('topic_prefix = "other."\n', "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOOTFALL_APP_ID", "another")
    monkeypatch.setenv("KAFKA_CLIENT_ID", "another")

    assert {name: render() for name, render in PAGES.items()} == pages


def test_every_setting_topic_feature_and_reason_is_listed(pages: dict[str, str]) -> None:
    wanted = {
        "settings.md": [f"`{info.alias or f'FOOTFALL_{name.upper()}'}`" for name, info in Settings.model_fields.items()],
        "topics.md": [f"`{topic.name}`" for topic in TABLE.values()],
        "features.md": [f"`{name}`" for name in FEATURE_SPEC.names],
        "messages.md": [f"`{reason}`" for reason in Reason] + [f"## {kind}\n" for kind in TABLE if not kind.endswith(".dlq")],
        "errors.md": [f"`{error.name}`" for error in exception_classes()],
    }
    missing = {name: [text for text in texts if text not in pages[name]] for name, texts in wanted.items()}
    assert missing == {name: [] for name in wanted}


def test_every_command_below_every_verb_has_a_section(pages: dict[str, str]) -> None:
    top = [found.path for found in commands() if found.path.count(" ") == 1]
    assert top == [f"footfall {name}" for name in main.VERBS]
    headings = re.findall(r"^##+ (.+)$", pages["commands.md"], re.MULTILINE)
    assert headings == [found.path for found in commands()]


def test_errors_of_one_tree_are_listed_from_the_root_down() -> None:
    names = [("Leaf", "Branch"), ("Root", "Exception"), ("Other", "ValueError"), ("Branch", "Root"), ("Twig", "Root")]
    errors = [ErrorClass(name, "schemas.errors", (base,), "") for name, base in names]

    assert [error.name for error in below("Root", errors)] == ["Root", "Branch", "Leaf", "Twig"]


def test_a_default_outside_the_project_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a path inside"):
        markdown.value(Path("/somewhere/else"))


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("a | b", "a \\| b"),
        ("`a|b` or *", "`a\\|b` or \\*"),
        ("dlq_max_percent", "dlq_max_percent"),
        ("<folder> [x]", "\\<folder\\> \\[x\\]"),
    ],
)
def test_prose_keeps_code_and_escapes_markup(text: str, rendered: str) -> None:
    assert markdown.prose(text) == rendered


def lines(old: str, new: str) -> list[tuple[str, str]]:
    """Pair the lines of two texts; the shorter one ends in empty lines."""
    left, right = old.split("\n"), new.split("\n")
    length = max(len(left), len(right))
    return list(zip(left + [""] * (length - len(left)), right + [""] * (length - len(right)), strict=True))
