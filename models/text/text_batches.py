"""Turn review examples into token ids, labels and batches of similar length.

Every text is cleaned and tokenised once. The batches of an epoch depend only on its number and the seed. Knows no network.
Start at prepare.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.clean_text import clean_text
from models.data.examples import ReviewExample, Slice
from models.network.encoder import padded
from models.network.encoder_parts import Parts
from models.network.losses import UNKNOWN
from schemas.errors import TrainingError

Indices = NDArray[np.int64]

POOL_BATCHES = 32  # batches are cut from pools of this many, sorted by length: little padding, still random
MIN_CATEGORY_EXAMPLES = 2


class Labels(NamedTuple):
    """Labels of N reviews; UNKNOWN if not known."""

    sentiment: Indices  # 0 negative, 1 positive
    rating: Indices  # stars - 1, rounded
    category: Indices  # place in the list of categories

    def of(self, rows: Indices) -> "Labels":
        """Return the labels of some rows."""
        return Labels(*(column[rows] for column in self))


class ReviewRows(NamedTuple):
    """N reviews as token ids and labels."""

    texts: list[str]
    ids: list[list[int]]
    labels: Labels
    categories: tuple[str, ...]
    slices: dict[Slice, Indices]
    pad_id: int

    def batch(self, rows: Indices) -> tuple[Tensor, Tensor]:
        """Return (B, T) token ids and their mask, padded to the longest text."""
        length = padded(max(len(self.ids[row]) for row in rows))
        ids = np.full((len(rows), length), self.pad_id, np.int64)
        mask = np.zeros((len(rows), length), np.int64)
        for place, row in enumerate(rows):
            tokens = self.ids[row]
            ids[place, : len(tokens)] = tokens
            mask[place, : len(tokens)] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)


def prepare(examples: Sequence[ReviewExample], parts: Parts, max_tokens: int) -> ReviewRows:
    """Tokenise all texts, cut to `max_tokens`, and number the labels; categories are those of the training slice.

    Raises:
        TrainingError: the training, validation or test slice is empty, or no label is known.
    """
    slices = {
        part: np.array([row for row, example in enumerate(examples) if example.slice is part], np.int64) for part in Slice
    }
    for part in (Slice.TRAIN, Slice.VALIDATION, Slice.TEST):
        if not len(slices[part]):
            raise TrainingError(f"found no {part} reviews, expected at least one: use a longer log, or other split times")
    counts = Counter(examples[row].category for row in slices[Slice.TRAIN])
    categories = tuple(sorted(name for name, count in counts.items() if name is not None and count >= MIN_CATEGORY_EXAMPLES))
    categories = categories if len(categories) > 1 else ()
    labels = _labels(examples, categories)
    if all((column[slices[Slice.TRAIN]] == UNKNOWN).all() for column in labels):
        raise TrainingError(
            "found training reviews without stars, sentiment and category, expected one of the three: use a log with ratings"
        )
    parts.tokenizer.enable_truncation(max_tokens)
    texts = [clean_text(example.text) for example in examples]
    encoded = parts.tokenizer.encode_batch_fast([parts.prefix + text for text in texts])
    return ReviewRows(
        texts=texts,
        ids=[encoding.ids for encoding in encoded],
        labels=labels,
        categories=categories,
        slices=slices,
        pad_id=parts.pad_id,
    )


def _labels(examples: Sequence[ReviewExample], categories: tuple[str, ...]) -> Labels:
    place = {name: number for number, name in enumerate(categories)}
    return Labels(
        sentiment=np.array([UNKNOWN if e.positive is None else int(e.positive) for e in examples], np.int64),
        rating=np.array([UNKNOWN if e.stars is None else min(max(round(e.stars), 1), 5) - 1 for e in examples], np.int64),
        category=np.array([place.get(e.category or "", UNKNOWN) for e in examples], np.int64),
    )


def plan_epoch(rows: Indices, lengths: Indices, *, batch_rows: int, seed: int, epoch: int) -> list[Indices]:
    """Split the rows into random batches of similar length; every epoch has the same number of batches."""
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(rows)
    batches: list[Indices] = []
    for start in range(0, len(order), POOL_BATCHES * batch_rows):
        pool = order[start : start + POOL_BATCHES * batch_rows]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[at : at + batch_rows] for at in range(0, len(pool), batch_rows)]
    return [batches[place] for place in rng.permutation(len(batches))]
