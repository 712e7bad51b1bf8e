"""Clean a text before any model reads it: the one function for training, evaluation and scoring.

Compatible characters become plain ones (NFKC), emoji become their names, and entities, tags, addresses, invisible characters
and long repetitions go. Pure; nothing that carries an opinion is removed. Knows no model. Start at clean_text.
"""

import html
import re
import unicodedata
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

URL = re.compile(r"(?:https?://|www\.)[^\s\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]+", re.IGNORECASE)
TAG = re.compile(r"</?(?:br|p|b|i|em|strong|div|span|a|ul|li)\b[^<>]*>", re.IGNORECASE)
MOST_REPEATS = 3
REPEATED = re.compile(rf"([^\d\s])\1{{{MOST_REPEATS},}}")  # digits stay, because they are numbers
INVISIBLE = ("Cc", "Cf", "Co", "Cn", "Cs")  # Unicode categories: controls, formats such as U+FEFF, unassigned
PICTURE_STYLE = "\ufe0f"
JOINER = "\u200d"  # joins emoji, and letters of some scripts
FLAG = re.compile("([\U0001f1e6-\U0001f1ff])([\U0001f1e6-\U0001f1ff])")
FIRST_FLAG_LETTER = 0x1F1E6
PICTURE = "[\u2600-\u27bf\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\U0001f000-\U0001f2ff\U0001f300-\U0001faff]"
MODIFIER = "[\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff]"  # presentation, keycap, tone of skin
PICTURES = re.compile(f"{PICTURE}(?:{PICTURE}|{MODIFIER}|{JOINER})*")
STRAY = re.compile(f"{MODIFIER}|{JOINER}(?=\\s|$)|(?<!\\S){JOINER}")
STARS = re.compile("((?:[\u2605\u2b50\U0001f31f]\ufe0f?)+)(\u2606*)")  # full ones, then empty ones
IS_MODIFIER = re.compile(MODIFIER).match
NOT_PART_OF_A_NAME = re.compile(r"\b(?:heavy|black|white|sign|symbol|emoji|modifier|fitzpatrick|type-\d(?:-\d)?)\b")
NAMES = {  # where Unicode's name would say something else
    "\U0001f621": "angry face",  # POUTING FACE
    "\U0001f624": "angry face",  # FACE WITH LOOK OF TRIUMPH
    "\U0001f92c": "swearing face",  # SERIOUS FACE WITH SYMBOLS COVERING MOUTH
    "\u2764": "love",  # HEAVY BLACK HEART
    "\u2665": "love",  # BLACK HEART SUIT
    "\U0001f44c": "perfect",  # OK HAND SIGN
    "\U0001f44d": "thumbs up good",  # THUMBS UP SIGN
    "\U0001f44e": "thumbs down bad",  # THUMBS DOWN SIGN
}


class Change(StrEnum):
    """What was changed in a text."""

    ENTITIES = "html entities and tags replaced"
    INVISIBLE = "invisible characters removed"
    NORMALISED = "characters normalised (NFKC)"
    EMOJI = "emoji replaced by their names"
    URLS = "addresses removed"
    REPEATED = "repeated characters cut"
    SPACES = "white space joined"


class Cleaned(NamedTuple):
    """A text after cleaning, and what was changed; `text` is empty if nothing is left to read."""

    text: str
    changes: tuple[Change, ...]


_NESTED_ESCAPES = re.compile("&(?:amp;)+", re.IGNORECASE)


@lru_cache(1 << 14)
def clean_text(text: str) -> str:
    """Return the text as every model reads it; empty if it has neither letters nor digits. Cleaning again changes nothing."""
    return cleaned(text).text


def cleaned(text: str) -> Cleaned:
    """Clean a text and name the changes; the steps repeat until none changes anything, since one can make work for another."""
    changes: dict[Change, None] = {}
    before = None
    while text != before:
        before = text
        for change, step in _STEPS:
            if (found := step(text)) != text:
                changes[change] = None
                text = found
    return Cleaned(text if any(map(str.isalnum, text)) else "", tuple(changes))


def _entities(text: str) -> str:
    """Replace tags by spaces, and entities by their characters."""
    if "&" not in text and "<" not in text:
        return text
    text = _NESTED_ESCAPES.sub("&", text)  # each level would need a round of its own
    return TAG.sub(" ", html.unescape(text))


def _visible(text: str) -> str:
    """Remove invisible characters; line ends and tabs become spaces."""
    if text.isprintable():
        return text
    kept = (" " if character in "\t\r\n\x0b\x0c\x85" else character for character in text)
    return "".join(c for c in kept if c == JOINER or unicodedata.category(c) not in INVISIBLE)


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _with_names(text: str) -> str:
    """Replace emoji by their names in lower case, without tones of skin; equal ones in a row are named once, stars counted."""
    if text.isascii():
        return text
    text = STARS.sub(lambda run: f" {_stars(run[1].replace(PICTURE_STYLE, ''), run[2])} ", text)
    text = FLAG.sub(lambda pair: f" flag {_letter(pair[1])}{_letter(pair[2])} ", text)
    return STRAY.sub("", PICTURES.sub(lambda run: f" {_names(run[0])} ", text))


def _stars(full: str, empty: str) -> str:
    """Count the stars of a rating; a single one without empty ones is an ornament."""
    if len(full) == 1:
        return "1 star" if empty else "star"
    return f"{len(full)} stars"


def _names(run: str) -> str:
    named = (_name(character) for character in run if character != JOINER and not IS_MODIFIER(character))
    return " ".join(dict.fromkeys(name for name in named if name))


def _name(character: str) -> str:
    found = NAMES.get(character) or unicodedata.name(character, "").lower()
    return " ".join(NOT_PART_OF_A_NAME.sub(" ", found).split())


def _letter(character: str) -> str:
    return chr(ord("a") + ord(character) - FIRST_FLAG_LETTER)


def _without_addresses(text: str) -> str:
    return URL.sub(" ", text) if "://" in text or "www." in text.lower() else text


def _without_repeats(text: str) -> str:
    return REPEATED.sub(lambda run: run[1] * MOST_REPEATS, text)


def _spaced(text: str) -> str:
    return " ".join(text.split())


_STEPS: tuple[tuple[Change, Callable[[str], str]], ...] = (
    (Change.ENTITIES, _entities),
    (Change.INVISIBLE, _visible),
    (Change.NORMALISED, _normalised),
    (Change.EMOJI, _with_names),
    (Change.URLS, _without_addresses),
    (Change.REPEATED, _without_repeats),
    (Change.SPACES, _spaced),
)
