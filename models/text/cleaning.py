"""Clean review texts, drop those not worth training on, and count changes and drops by reason.

Every function is pure: it takes texts and returns texts and reasons. Nothing that carries an opinion is removed. This module
knows no model. Start at clean_reviews.
"""

import html
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct, structs

from models.data.examples import ReviewExample

URL = re.compile(r"(?:https?://|www\.)[^\s\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]+", re.IGNORECASE)
TAG = re.compile(r"</?(?:br|p|b|i|em|strong|div|span|a|ul|li)\b[^<>]*>", re.IGNORECASE)
SPACES = re.compile(r"\s+")
INVISIBLE = ("Cc", "Cf", "Co", "Cn", "Cs")  # Unicode categories: controls, formats such as U+FEFF, unassigned
JOINER = "\u200d"  # joins emoji


class Reason(StrEnum):
    """What was changed in a text, or why it was dropped."""

    ENTITIES = "html entities and tags replaced"
    NORMALISED = "characters normalised (NFKC)"
    INVISIBLE = "invisible characters removed"
    URLS = "addresses removed"
    REPEATED = "repeated characters cut"
    SPACES = "white space joined"
    EMPTY = "dropped: nothing is left"
    SHORT = "dropped: too short"
    LONG = "dropped: too long"
    DUPLICATE = "dropped: the same text again"
    CONFLICT = "dropped: the same text with another label"


class CleaningConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to clean texts; lengths count characters after cleaning."""

    normalise: bool = True
    remove_urls: bool = True
    max_repeats: int = 3
    min_characters: int = 1
    max_characters: int = 20_000


class Cleaned(NamedTuple):
    """A text after cleaning, and what was changed; `text` is None if it is dropped."""

    text: str | None
    reasons: tuple[Reason, ...]


def clean_text(text: str, config: CleaningConfig) -> Cleaned:
    """Clean one text; cleaning it again changes nothing."""
    steps: list[tuple[Reason, Callable[[str], str]]] = [(Reason.ENTITIES, _entities), (Reason.INVISIBLE, remove_invisible)]
    if config.normalise:
        steps.append((Reason.NORMALISED, lambda found: unicodedata.normalize("NFKC", found)))
    if config.remove_urls:
        steps.append((Reason.URLS, lambda found: URL.sub(" ", found)))
    steps.append((Reason.REPEATED, lambda found: cut_repeats(found, config.max_repeats)))
    steps.append((Reason.SPACES, lambda found: SPACES.sub(" ", found).strip()))
    reasons = []
    for reason, change in steps:
        changed = change(text)
        if changed != text:
            reasons.append(reason)
            text = changed
    dropped = None
    if not any(character.isalnum() or ord(character) > 0x2000 for character in text):
        dropped = Reason.EMPTY
    elif len(text) < config.min_characters:
        dropped = Reason.SHORT
    elif len(text) > config.max_characters:
        dropped = Reason.LONG
    return Cleaned(text, tuple(reasons)) if dropped is None else Cleaned(None, (*reasons, dropped))


def _entities(text: str) -> str:
    """Replace tags by spaces, and entities by their characters, even if escaped twice."""
    while True:
        plain = TAG.sub(" ", html.unescape(text))
        if plain == text:
            return text
        text = plain


def remove_invisible(text: str) -> str:
    """Remove invisible characters; line ends and tabs become spaces."""
    kept = (" " if character in "\t\r\n\x0b\x0c\x85" else character for character in text)
    return "".join(c for c in kept if c == JOINER or unicodedata.category(c) not in INVISIBLE)


def cut_repeats(text: str, most: int) -> str:
    """Cut runs of one letter or mark to `most`; digits stay, because they are numbers."""
    return re.sub(rf"([^\d\s])\1{{{most},}}", lambda run: run[1] * most, text)


def clean_reviews(examples: Sequence[ReviewExample], config: CleaningConfig) -> tuple[list[ReviewExample], Counter[Reason]]:
    """Clean all reviews and keep the first of equal texts; texts with conflicting labels are all dropped.

    Examples are in order of time, so a text that occurs in two slices is dropped from the later one.
    """
    counts: Counter[Reason] = Counter()
    kept: list[ReviewExample] = []
    labels: defaultdict[str, set[tuple[bool | None, str | None]]] = defaultdict(set)
    for example in examples:
        text, reasons = clean_text(example.text, config)
        counts.update(reasons)
        if text is not None:
            kept.append(structs.replace(example, text=text))
            labels[text].add((example.positive, example.category))
    seen: set[str] = set()
    distinct = []
    for example in kept:
        if _conflict(labels[example.text]):
            counts[Reason.CONFLICT] += 1
        elif example.text in seen:
            counts[Reason.DUPLICATE] += 1
        else:
            seen.add(example.text)
            distinct.append(example)
    return distinct, counts


def _conflict(labels: set[tuple[bool | None, str | None]]) -> bool:
    """Return whether reviews of one text disagree about the sentiment. Categories may differ: short praise fits many."""
    return len({positive for positive, _ in labels if positive is not None}) > 1
