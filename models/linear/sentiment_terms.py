"""Blend a network's sentiment logit with a TF-IDF model of the review's text, and store that model in a checkpoint.

The TF-IDF model weighs terms: the characters or words of a text, and pairs of them. This module serves a fitted model and
does not know how its terms were chosen. Start at SentimentTerms.blend.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
import torch
from msgspec import Struct
from torch import Tensor

from models.data.clean_text import clean_text
from models.linear.tfidf import MAX_TERMS, Terms, characters, words
from schemas.errors import ModelError

TERMS, TERM_WEIGHTS = "terms.json", "terms.safetensors"
CUTS = {"characters": characters, "words": words}
LEAST_PROBABILITY = 1e-9  # clamps a blend's probability, so that its logit stays finite


class SentimentTerms(NamedTuple):
    """A term model of sentiment, and the network's share of the blend with it, 0 to below 1."""

    terms: Terms
    network_share: float

    def blend(self, logits: Tensor, texts: Sequence[str | None]) -> Tensor:
        """Mix the probabilities of (N,) logits of positive sentiment with the terms'; a row without a text keeps its logit.

        Texts are cleaned, as in training.
        """
        blended = logits.double()
        reviews = {row: clean_text(text) for row, text in enumerate(texts) if text is not None}
        if not reviews:
            return blended
        rows, positive = torch.tensor(list(reviews)), self.terms.probabilities(list(reviews.values()), 2)[:, 1]
        mixed = self.network_share * blended[rows].sigmoid() + (1 - self.network_share) * torch.from_numpy(positive)
        return blended.index_put((rows,), torch.logit(mixed, eps=LEAST_PROBABILITY))


class _Table(Struct, frozen=True, forbid_unknown_fields=True):
    """All of terms.json: how texts are split into terms, and the terms in the order of their weights."""

    cut: str
    terms: list[str]


def terms_contents(blended: SentimentTerms) -> dict[str, bytes]:
    """Return the content of each file, by name."""
    terms = blended.terms
    (cut,) = (name for name, function in CUTS.items() if function is terms.cut)
    ordered = sorted(terms.columns, key=lambda term: terms.columns[term])
    share = np.array([blended.network_share])
    return {
        TERMS: msgspec.json.encode(_Table(cut, ordered)),
        TERM_WEIGHTS: safetensors.numpy.save(
            {"idf": terms.idf, "weights": terms.weights[0], "bias": terms.bias, "network_share": share}
        ),
    }


def read_terms(contents: Mapping[str, bytes]) -> SentimentTerms:
    """Read the files that `terms_contents` renders.

    Raises:
        ModelError: a file cannot be read, or its parts do not fit together.
    """
    try:
        cut, ordered = msgspec.structs.astuple(msgspec.json.decode(contents[TERMS], type=_Table))
        found = safetensors.numpy.load(contents[TERM_WEIGHTS])
    except (msgspec.DecodeError, UnicodeDecodeError, safetensors.SafetensorError, KeyError) as error:  # KeyError: bad dtype
        raise ModelError(f"found {TERMS} or {TERM_WEIGHTS} that cannot be read ({error})") from error
    columns = {term: column for column, term in enumerate(ordered)}
    shapes = {"idf": (len(columns),), "weights": (len(columns),), "bias": (1,), "network_share": (1,)}
    if cut not in CUTS or not 0 < len(columns) == len(ordered) <= MAX_TERMS:
        raise ModelError(
            f"found {len(ordered)} terms cut by {cut!r}, expected 1 to {MAX_TERMS} distinct terms cut by {' or '.join(CUTS)}"
        )
    if found.keys() != shapes.keys():
        raise ModelError(f"found tensors {sorted(found)} in {TERM_WEIGHTS}, expected {sorted(shapes)}")
    for name, shape in shapes.items():
        if found[name].shape != shape or found[name].dtype != np.float64:
            raise ModelError(f"found {name} of terms as {found[name].dtype} {found[name].shape}, expected float64 {shape}")
        if not np.isfinite(found[name]).all():
            raise ModelError(f"found {name} of terms with values that are not finite, expected finite numbers")
    if not (found["idf"] > 0).all():
        raise ModelError(f"found an idf of {found['idf'].min()} among the terms, expected only values above 0")
    share = float(found["network_share"][0])
    if not 0 <= share < 1:
        raise ModelError(f"found the network's share {share} in the blend with terms, expected at least 0 and less than 1")
    terms = Terms(CUTS[cut], columns, found["idf"], found["weights"][None], found["bias"], np.array([0, 1]))
    return SentimentTerms(terms, share)
