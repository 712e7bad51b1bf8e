"""Hold a dataset's examples and reviews as arrays, slice by slice, and compute a network's logits for them.

Every distinct text is encoded once. Start at prepare.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.clean_text import clean_text
from models.data.examples import Example, ReviewExample, Slice
from models.network.encoder import Encoder, Vectors
from models.network.inputs import Batch, Normalisation, Rows, arrange, collate, fit_normalisation, vocabulary
from models.network.network import Logits, Network
from models.network.readable import unread_reasons
from models.network.survival import Exposures
from models.serving.scorer import text_table
from models.training.targets import Targets, make_targets
from schemas.signals import Unread

Indices = NDArray[np.int64]

PREDICTION_ROWS = 256


class Data(NamedTuple):
    """All examples of all slices as arrays, and the vectors of their texts."""

    rows: Rows
    targets: Targets
    table: Vectors
    normalisation: Normalisation
    slices: dict[Slice, Indices]

    def batch(self, picked: Indices, device: str = "cpu") -> Batch:
        """Collate the picked examples and move them to a device."""
        return Batch(*(part.to(device) for part in collate(self.rows, picked, self.table, self.normalisation)))

    def exposures(self, picked: Indices) -> Exposures:
        """Return the observed returns of the picked examples, in bins."""
        return Exposures(self.targets.exposure[picked].astype(np.float64), self.targets.returned[picked].astype(np.float64))


class Reviews(NamedTuple):
    """M reviews' cleaned texts, their vectors (M, D) and sentiment (M,): 1 is positive, 0 negative.

    `unread` counts by reason the reviews left out because the encoder cannot read them.
    """

    texts: list[str]
    vectors: Tensor
    positive: Tensor
    unread: Mapping[Unread, int] = {}


def prepare(
    examples: list[Example],
    labels: list[str],
    items: list[str],
    horizons: list[int],
    encoder: Encoder,
    *,
    max_events: int,
    next_items: int,
) -> Data:
    """Arrange the examples of all slices as arrays; normalisation is fitted on the train slice alone."""
    known = vocabulary(labels, items)
    rows, texts = arrange([example.request for example in examples], known, max_events)
    slices = {kind: np.flatnonzero([example.slice is kind for example in examples]) for kind in Slice}
    targets = make_targets(examples, known, horizons, next_items if items else 0)
    return Data(rows, targets, text_table(encoder, texts), fit_normalisation(rows.features[slices[Slice.TRAIN]]), slices)


def rated_reviews(encoder: Encoder, reviews: Sequence[ReviewExample], kind: Slice) -> Reviews:
    """Encode the reviews of a slice whose sentiment is known and which the encoder can read, as the scorer decides it."""
    known = [review for review in reviews if review.slice is kind and review.positive is not None]
    reasons = unread_reasons(encoder, [review.text for review in known])
    rated = [review for review, reason in zip(known, reasons, strict=True) if reason is None]
    texts = [clean_text(review.text) for review in rated]
    vectors = encoder.encode(texts) if rated else np.zeros((0, encoder.dimension), np.float32)
    positive = torch.tensor([float(review.positive or 0) for review in rated])
    return Reviews(texts, torch.from_numpy(vectors), positive, Counter(reason for reason in reasons if reason is not None))


def predict_logits(network: Network, data: Data, picked: Indices) -> Logits:
    """Return the blended logits of the picked rows, without items."""
    network.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(picked), PREDICTION_ROWS):
            batch = data.batch(picked[start : start + PREDICTION_ROWS])
            user = network.now(network.states(batch), batch)
            parts.append(network.plain.blend(network.unblended(user, batch), batch.numbers))
    if not parts:
        empty, config = torch.zeros(0, 0), network.config
        return Logits(torch.zeros(0, config.labels), torch.zeros(0, config.horizons), torch.zeros(0), empty, empty)
    return Logits(*(torch.cat(column) for column in zip(*parts, strict=True)))
