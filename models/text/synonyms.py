"""Find the nearest words of each word in an encoder's own word embeddings, without a dictionary.

Only words that are one token have neighbours. This module does not know which words carry an opinion:
models.text.augmentation leaves those alone. Start at word_neighbours.
"""

from collections.abc import Iterable

import numpy as np

from models.network.encoder import Encoder

WORD_START = "\u2581"  # XLM-R marks tokens that begin a word; BERT marks those that do not
CONTINUED = "##"


def word_neighbours(
    encoder: Encoder, vocabulary: Iterable[str], *, most: int = 3, min_cosine: float = 0.4
) -> dict[str, tuple[str, ...]]:
    """Return for each word of the vocabulary, in lower case, up to `most` of its other words, nearest first."""
    pieces, vectors = encoder.word_vectors()
    wanted = {word.lower() for word in vocabulary}
    rows: dict[str, int] = {}
    for row, piece in enumerate(pieces):
        word = piece.removeprefix(WORD_START)
        if word in wanted and word.isalpha() and len(word) > 1 and not piece.startswith(CONTINUED):
            rows.setdefault(word, row)
    words = sorted(rows)
    if not words:
        return {}
    table = vectors[[rows[word] for word in words]]
    table = table - vectors.mean(0)  # all tokens share one large direction, which carries no meaning
    table /= np.linalg.norm(table, axis=1, keepdims=True) + 1e-9
    neighbours = {}
    for place, word in enumerate(words):
        cosines = table @ table[place]
        cosines[place] = -1
        nearest = np.argsort(-cosines, kind="stable")[:most]
        found = tuple(words[other] for other in nearest if cosines[other] >= min_cosine)
        if found:
            neighbours[word] = found
    return neighbours
