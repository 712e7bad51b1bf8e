"""Change training reviews at random into texts with the same rating, from a seeded generator.

Words are swapped or deleted, and similar words (neighbours) replace or precede them. Opinion words, negations and the words
next to a negation are never changed. No opinion word or negation is added. Neighbours and the translation function are
arguments, so this module knows no model. Start at augment_reviews.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

import numpy as np
from msgspec import Struct, structs

from models.data.examples import ReviewExample, Slice
from models.linear.word_lists import MARKS, bare, bears_opinion, is_negation
from models.linear.words import joint, pieces
from schemas.errors import TrainingError

Neighbours = Mapping[str, Sequence[str]]  # word in lower case → words that may replace it
Translate = Callable[[str], str]  # a text → its back-translation


class AugmentationConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much to change: shares are of a text's words; each text gets `copies` changed copies."""

    swap_share: float = 0.1
    delete_share: float = 0.1
    insert_share: float = 0.1
    replace_share: float = 0.1
    copies: int = 1
    seed: int = 1


def movable(words: Sequence[str]) -> list[int]:
    """Return the places of words that may change: they carry no opinion and are not next to a negation."""
    return [
        place
        for place, word in enumerate(words)
        if not bears_opinion(word)
        and not (place > 0 and is_negation(words[place - 1]))
        and not (place + 1 < len(words) and is_negation(words[place + 1]))
    ]


def swap(words: Sequence[str], share: float, rng: np.random.Generator) -> list[str]:
    """Swap neighbouring movable words, about `share` of all words."""
    changed = list(words)
    free = set(movable(words))
    pairs = [place for place in sorted(free) if place + 1 in free]
    for place in rng.permutation(pairs)[: round(share * len(words) / 2)]:
        changed[place], changed[place + 1] = changed[place + 1], changed[place]
    return changed


def delete(words: Sequence[str], share: float, rng: np.random.Generator) -> list[str]:
    """Delete about `share` of the words, movable ones only; at least one word stays."""
    free = movable(words)
    count = min(round(share * len(words)), len(words) - 1)
    gone = set(rng.permutation(free)[: max(count, 0)].tolist())
    return [word for place, word in enumerate(words) if place not in gone]


def insert(words: Sequence[str], share: float, neighbours: Neighbours, rng: np.random.Generator) -> list[str]:
    """Insert a neighbour before a word, for about `share` of the words."""
    changed = list(words)
    for place in sorted(_replaceable(words, share, neighbours, rng), reverse=True):
        changed.insert(place, _neighbour(words[place], neighbours, rng))
    return changed


def replace(words: Sequence[str], share: float, neighbours: Neighbours, rng: np.random.Generator) -> list[str]:
    """Replace about `share` of the words by a neighbour; punctuation around a word stays."""
    changed = list(words)
    for place in _replaceable(words, share, neighbours, rng):
        core = words[place].strip(MARKS)
        changed[place] = words[place].replace(core, _neighbour(words[place], neighbours, rng), 1)
    return changed


def _replaceable(words: Sequence[str], share: float, neighbours: Neighbours, rng: np.random.Generator) -> list[int]:
    """Draw the places of movable words that have a neighbour without an opinion."""
    places = [place for place in movable(words) if _allowed(words[place], neighbours)]
    return [int(place) for place in rng.permutation(places)[: round(share * len(words))]]


def _allowed(word: str, neighbours: Neighbours) -> list[str]:
    return [other for other in neighbours.get(bare(word), ()) if not bears_opinion(other)]


def _neighbour(word: str, neighbours: Neighbours, rng: np.random.Generator) -> str:
    allowed = _allowed(word, neighbours)
    return allowed[int(rng.integers(len(allowed)))]


def augment_text(text: str, language: str, config: AugmentationConfig, neighbours: Neighbours, rng: np.random.Generator) -> str:
    """Apply all four changes to one text, each to its configured share of the words."""
    words = pieces(text, language)
    words = replace(words, config.replace_share, neighbours, rng)
    words = insert(words, config.insert_share, neighbours, rng)
    words = swap(words, config.swap_share, rng)
    words = delete(words, config.delete_share, rng)
    return joint(language).join(words)


def augment_reviews(
    examples: Sequence[ReviewExample],
    config: AugmentationConfig,
    neighbours: Neighbours,
    translate: Translate | None = None,
) -> list[ReviewExample]:
    """Return the examples, then changed copies of the training ones; `translate` adds one copy each.

    A copy depends only on the seed and the review's place. Copies that equal their text are left out.
    """
    copies = []
    for place, example in enumerate(examples):
        if example.slice is not Slice.TRAIN:
            continue
        rng = np.random.default_rng((config.seed, place))
        texts = [augment_text(example.text, example.language, config, neighbours, rng) for _ in range(config.copies)]
        texts += [translate(example.text)] if translate is not None else []
        copies += [structs.replace(example, text=text) for text in dict.fromkeys(texts) if text != example.text]
    return [*examples, *copies]


def load_translation(name: str) -> Translate:
    """Return the function named `module:function`, which translates a text to another language and back.

    Raises:
        TrainingError: there is no such function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise TrainingError(f"found no {name!r} ({error}), expected module:function: install the module") from error
    if not callable(found):
        raise TrainingError(f"{name!r} is not a function, expected one that takes a text and returns its back-translation")
    translate: Translate = found
    return translate
