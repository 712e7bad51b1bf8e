"""Words and values → the Markdown of reference pages: tables, code, defaults. Knows no page. Start at table."""

import inspect
import json
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
GENERATED = "This page is generated from the code by `make docs`: change the code, not the page."
CODE = re.compile(r"(`+[^`]*`+)")
MARKUP = re.compile(r"[\\|*<>\[\]~^#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")  # an underscore inside a word is none
DAY_MS = 86_400_000


def page(title: str, *blocks: str) -> str:
    """Join blocks to a page that begins by saying how it is made."""
    return "\n\n".join((f"# {title}", GENERATED, *(block for block in blocks if block))) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Render a table; cells are Markdown already. A table without rows is empty text."""
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *lines])


def code(text: str) -> str:
    """Render text as code inside a table cell; nothing stays nothing."""
    if not text:
        return ""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text.replace('|', chr(92) + '|')}{fence}"


def prose(text: str) -> str:
    """Escape what Markdown would read as markup, but for code in backticks; line breaks become spaces."""
    parts = CODE.split(" ".join(text.split()))
    return "".join(part.replace("|", "\\|") if part.startswith("`") else MARKUP.sub(r"\\\g<0>", part) for part in parts)


def paragraphs(docstring: str | None) -> str:
    """Render a docstring's prose; sections such as Raises are left out."""
    text = re.split(r"\n\s*(?:Raises|Returns|Yields|Args):\n", inspect.cleandoc(docstring or ""))[0]
    return "\n\n".join(prose(paragraph) for paragraph in text.split("\n\n") if paragraph.strip())


def value(found: object) -> str:
    """Render a default as text.

    Raises:
        ValueError: a path outside the project, which other machines do not have.
    """
    if found is None:
        return ""
    if isinstance(found, Path):
        if found.is_absolute() and not found.is_relative_to(ROOT):
            raise ValueError(f"found the default {found}, expected a path inside {ROOT} or a relative one")
        return (found.relative_to(ROOT) if found.is_absolute() else found).as_posix()
    if isinstance(found, Enum):
        return str(found.value)
    return json.dumps(found, ensure_ascii=False) if isinstance(found, bool | dict | list | tuple) else str(found)


def default(found: object) -> str:
    """Render a default as code; an absolute path is said to be installed."""
    text = value(found) or ('""' if found == "" else "")
    return code(text) + (" (installed)" if isinstance(found, Path) and found.is_absolute() else "")


def duration(milliseconds: int) -> str:
    """Say a duration in the largest unit that divides it."""
    if milliseconds < 0:
        return "for ever"
    for unit_ms, unit in ((DAY_MS, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if milliseconds % unit_ms == 0:
            return f"{milliseconds // unit_ms} {unit}"
    return f"{milliseconds} ms"


def limits(lowest: object, highest: object, *, open_below: bool = False) -> str:
    """Say a range of numbers."""
    above = "more than" if open_below else "at least"
    if lowest is not None and highest is not None and not open_below:
        return f"{lowest} to {highest}"
    parts = [f"{above} {lowest}"] if lowest is not None else []
    return ", ".join(parts + ([f"at most {highest}"] if highest is not None else []))
