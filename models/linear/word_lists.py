"""Look up stop words, negations and opinion words (good, broken) in the files of lists/.

A Chinese word is a negation or an opinion word if it contains a character that this module lists.
A word with a digit counts as an opinion word. Start at is_negation.
"""

from functools import cache
from pathlib import Path

from schemas.errors import TrainingError

FOLDER = Path(__file__).parent / "lists"
MARKS = ".,;:!?\"'()[]，。！？；：、“”‘’（）…~～ "
CHINESE_NEGATIONS = frozenset("不没无未别莫勿非否")
CHINESE_RATINGS = frozenset("好坏差缺棒赞烂假满喜爱恨优劣退错慢快贵值垃圾失望推荐但却可太很最")


@cache
def word_list(name: str) -> frozenset[str]:
    """Return the words of a committed list."""
    return frozenset((FOLDER / f"{name}.txt").read_text(encoding="utf-8").split())


def stop_words(language: str) -> frozenset[str]:
    """Return a language's stop words; they never include negations.

    Raises:
        TrainingError: there is no list for the language.
    """
    if not (FOLDER / f"stop_{language}.txt").is_file():
        known = ", ".join(sorted(path.stem.removeprefix("stop_") for path in FOLDER.glob("stop_*.txt")))
        raise TrainingError(
            f"found language {language!r}, expected one with a list of stop words ({known}): run without --ablations"
        )
    return word_list(f"stop_{language}")


def bare(word: str) -> str:
    """Return a word in lower case without the punctuation around it."""
    return word.lower().replace("\u2019", "'").strip(MARKS)


def is_negation(word: str) -> bool:
    """Return whether a word, with or without punctuation, negates an opinion."""
    return bare(word) in word_list("negations") or not CHINESE_NEGATIONS.isdisjoint(word)


def bears_opinion(word: str) -> bool:
    """Return whether a rating depends on a word: negations, rating words and their qualifiers, and numbers."""
    plain = bare(word)
    return (
        is_negation(word)
        or plain in word_list("ratings")
        or not CHINESE_RATINGS.isdisjoint(plain)
        or any(character.isdigit() for character in plain)
    )
