"""Say which texts an encoder cannot read, for training, evaluation and scoring alike. Start at unread_reasons."""

from collections.abc import Sequence

from models.data.clean_text import clean_text
from models.network.encoder import Encoder
from schemas.signals import Unread

MAX_UNKNOWN_SHARE = 0.2  # of a text's tokens


def unread_reasons(encoder: Encoder, texts: Sequence[str]) -> list[Unread | None]:
    """Return why the encoder cannot read each text; None where it can.

    A language in the encoder's letters passes this check, although the encoder may never have learnt it.
    """
    read = [clean_text(text) for text in texts]
    unknown = encoder.unk_ratio(read)
    return [_reason(text, float(share)) for text, share in zip(read, unknown, strict=True)]


def _reason(text: str, unknown_share: float) -> Unread | None:
    if not text:
        return Unread.BLANK
    if not _has_words(text):
        return Unread.NO_WORDS
    return Unread.UNKNOWN_TOKENS if unknown_share > MAX_UNKNOWN_SHARE else None


def _has_words(text: str) -> bool:
    """Return whether a text has letters other than one repeated; a single character can be a word in scripts without case."""
    letters = {letter for letter in text.lower() if letter.isalpha()}
    return len(letters) > 1 or any(letter.upper() == letter for letter in letters)
