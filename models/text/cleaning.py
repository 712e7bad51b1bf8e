"""Clean the texts of reviews, drop those not worth training on, and count changes and drops by reason.

A text is cleaned as it is for scoring. This module knows no model. Start at clean_reviews.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct, structs

from models.data.clean_text import Change, cleaned
from models.data.examples import ReviewExample


class Drop(StrEnum):
    """Why a review was dropped."""

    EMPTY = "dropped: nothing is left"
    SHORT = "dropped: too short"
    LONG = "dropped: too long"
    DUPLICATE = "dropped: the same text again"
    CONFLICT = "dropped: the same text with another label"


class DropConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which texts to drop besides duplicates and conflicts; lengths count characters after cleaning."""

    min_characters: int = 1
    max_characters: int = 20_000


def clean_reviews(examples: Sequence[ReviewExample]) -> tuple[list[ReviewExample], Counter[Change | Drop]]:
    """Clean all reviews; drop those of which nothing is left."""
    counts: Counter[Change | Drop] = Counter()
    kept = []
    for example in examples:
        text, changes = cleaned(example.text)
        counts.update(changes)
        if text:
            kept.append(structs.replace(example, text=text))
        else:
            counts[Drop.EMPTY] += 1
    return kept, counts


def worth_training(examples: Sequence[ReviewExample], config: DropConfig) -> tuple[list[ReviewExample], Counter[Change | Drop]]:
    """Keep the first of equal cleaned texts; texts of another length, or with conflicting labels, are all dropped.

    Examples are in order of time, so a text that occurs in two slices is dropped from the later one.
    """
    counts: Counter[Change | Drop] = Counter()
    labels: defaultdict[str, set[tuple[bool | None, str | None]]] = defaultdict(set)
    for example in examples:
        labels[example.text].add((example.positive, example.category))
    seen: set[str] = set()
    distinct = []
    for example in examples:
        if len(example.text) < config.min_characters:
            counts[Drop.SHORT] += 1
        elif len(example.text) > config.max_characters:
            counts[Drop.LONG] += 1
        elif _conflict(labels[example.text]):
            counts[Drop.CONFLICT] += 1
        elif example.text in seen:
            counts[Drop.DUPLICATE] += 1
        else:
            seen.add(example.text)
            distinct.append(example)
    return distinct, counts


def _conflict(labels: set[tuple[bool | None, str | None]]) -> bool:
    """Return whether reviews of one text disagree about the sentiment. Categories may differ: short praise fits many."""
    return len({positive for positive, _ in labels if positive is not None}) > 1
