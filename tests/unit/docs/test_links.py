"""Every relative link of the documentation leads to a file, and to a heading where it names one."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.front_matter import front_matter_plugin

ROOT = Path(__file__).parents[3]
README_LINES = 150
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *(ROOT / name for name in ("README.md", "DECISIONS.md", "CHANGELOG.md", "tests/README.md")),
        *(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
    )
)
PARSER = MarkdownIt("commonmark").enable("table").use(front_matter_plugin).use(anchors_plugin, max_level=6)


def tokens(text: str) -> Iterator[Token]:
    """Yield all tokens of a page, those inside paragraphs and cells too."""
    for block in PARSER.parse(text):
        yield block
        yield from block.children or ()


def links(text: str) -> list[str]:
    """Return where links and images of a page lead to."""
    found = [token.attrGet("href") or token.attrGet("src") for token in tokens(text)]
    return [unquote(str(target)) for target in found if target]


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as a code host and the site make them."""
    return frozenset(str(token.attrGet("id")) for token in tokens(path.read_text("utf-8")) if token.attrGet("id"))


def broken(page: Path, text: str) -> list[str]:
    """Say of each relative link of a page that leads nowhere what is missing."""
    wrong = []
    for link in links(text):
        target = urlsplit(link)
        if target.scheme or target.netloc:
            continue
        path = (page.parent / target.path).resolve() if target.path else page
        if not path.exists():
            wrong.append(f"{link}: no such file")
        elif target.fragment and path.suffix == ".md" and target.fragment not in anchors(path):
            wrong.append(f"{link}: no such heading")
    return wrong


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: str) -> None:
    assert broken(ROOT / page, (ROOT / page).read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a](missing.md)", ["missing.md: no such file"]),
        ("# Here\n\n| a |\n|---|\n| [b](#there) |", ["#there: no such heading"]),
        ("![c](missing.svg)", ["missing.svg: no such file"]),
        ("[d]\n\n[d]: missing.md#x", ["missing.md#x: no such file"]),
        ("`[e](missing.md)` and https://example.com", []),
    ],
)
def test_a_link_that_leads_nowhere_is_found(tmp_path: Path, text: str, said: list[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")

    assert broken(page, text) == said


def test_a_link_to_a_heading_is_found_by_its_words(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Two words: `code`, again\n\n# Again\n\n# Again\n", "utf-8")

    assert broken(page, "[a](#two-words-code-again) [b](page.md#again-1)") == []


def test_the_readme_stays_short_enough_to_read_at_once() -> None:
    found = len((ROOT / "README.md").read_text("utf-8").splitlines())
    assert found <= README_LINES, f"README.md has {found} lines, expected at most {README_LINES}: move detail to docs/"
