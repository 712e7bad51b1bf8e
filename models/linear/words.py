"""Split texts into words for augmentation and for bag-of-words baselines.

To compare ways of splitting (ablations), words can be left out: stop words, or some parts of speech. The package rjieba
splits Chinese. In other languages a word is a run of letters and digits, with apostrophes inside. The encoder has its own
tokenizer and does not use this module. Start at words.
"""

import re
from collections.abc import Callable
from enum import StrEnum

from models.linear.word_lists import is_negation, stop_words
from schemas.errors import TrainingError

WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W\d_]+)*")

Analyser = Callable[[str], list[str]]


class Part(StrEnum):
    """The parts of speech that matter to opinions."""

    NOUN = "noun"
    VERB = "verb"
    ADJECTIVE = "adjective"
    ADVERB = "adverb"
    OTHER = "other"


CONTENT_PARTS = frozenset({Part.NOUN, Part.VERB, Part.ADJECTIVE, Part.ADVERB})
CHINESE_PARTS = {"n": Part.NOUN, "v": Part.VERB, "a": Part.ADJECTIVE, "d": Part.ADVERB, "z": Part.ADJECTIVE}
ENGLISH_PARTS = {"NN": Part.NOUN, "VB": Part.VERB, "JJ": Part.ADJECTIVE, "RB": Part.ADVERB}


def words(text: str, language: str) -> list[str]:
    """Return a text's words in lower case, without punctuation."""
    if language != "zh":
        return [word.replace("\u2019", "'") for word in WORD.findall(text.lower())]
    return [word for word in pieces(text.lower(), language) if WORD.search(word)]


def pieces(text: str, language: str) -> list[str]:
    """Split a text into words with their punctuation, for augmentation; joining them with `joint` restores the text."""
    if language != "zh":
        return text.split()
    import rjieba

    return list(rjieba.cut(text))


def joint(language: str) -> str:
    """Return the separator between two words of a language."""
    return "" if language == "zh" else " "


def tagged(text: str, language: str) -> list[tuple[str, Part]]:
    """Return a text's words in lower case, each with its part of speech.

    Raises:
        TrainingError: there is no tagger for the language, or its package is not installed.
    """
    if language == "zh":
        import rjieba

        found = [(word, CHINESE_PARTS.get(tag[:1], Part.OTHER)) for word, tag in rjieba.tag(text)]
    elif language == "en":
        try:
            from textblob.en import tag as tag_english
        except ImportError as error:
            raise TrainingError("found no package textblob, expected it for parts of speech: pip install textblob") from error
        found = [(word, ENGLISH_PARTS.get(tag[:2], Part.OTHER)) for word, tag in tag_english(text)]
    else:
        raise TrainingError(f"found language {language!r}, expected en or zh for parts of speech: run without --ablations")
    return [(word.lower(), part) for word, part in found if WORD.search(word)]


def analysers(language: str) -> dict[str, Analyser]:
    """Return the compared ways of splitting a text, by name; each raises TrainingError for a language without support."""
    stop = stop_words(language)
    return {
        "words": lambda text: words(text, language),
        "words without stop words": lambda text: [word for word in words(text, language) if word not in stop],
        "nouns, verbs, adjectives, adverbs": lambda text: [
            word for word, part in tagged(text, language) if part in CONTENT_PARTS or is_negation(word)
        ],
    }
