"""Count the items of training examples, initialise the item head from the counts, and choose how to mix both.

The mixture of network and counts that ranks the validation slice's items best is kept. Start at count_items.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from models.data.examples import Example, Slice
from models.network.inputs import Vocabulary
from models.network.network import Network
from models.serving.item_prior import ItemPrior, Journey, choose_mix, counted_chances, fit_item_prior
from models.training.training_data import Data
from schemas.time_units import DAY_MS

HISTORY_ITEMS = 10
MIXTURE_EXAMPLES = 1_500  # validation examples to choose the mixture on
ITEM_SCALE = 0.1


def count_items(examples: Sequence[Example], known: Vocabulary, fade_days: float) -> ItemPrior:
    """Count the items of examples; a user's examples share one vote, which halves every `fade_days`."""
    votes = Counter(example.request.user_id for example in examples)
    end_ms = max(example.landmark_ms for example in examples)
    weighted = [
        (example, 0.5 ** ((end_ms - example.landmark_ms) / (fade_days * DAY_MS)) / votes[example.request.user_id])
        for example in examples
    ]

    def journeys() -> Iterator[Journey]:
        for example, weight in weighted:
            history = [entry.item_id for entry in example.request.history if entry.item_id is not None][-HISTORY_ITEMS:]
            yield Journey([known.items.get(item, 0) - 1 for item in (*history, *(example.items or ()))], weight)

    def next_items() -> Iterator[tuple[int, float]]:
        for example, weight in weighted:
            yield from ((known.items[item] - 1, weight) for item in example.items or () if item in known.items)

    return fit_item_prior(journeys(), next_items(), len(known.items))


def item_directions(prior: ItemPrior, width: int) -> Tensor:
    """Return (V, W) vectors whose products follow how much likelier than by chance items occur pairs."""
    from scipy.sparse import csr_matrix
    from sklearn.utils.extmath import randomized_svd

    size = len(prior.popularity)
    likelier = np.log1p(prior.values / prior.popularity[prior.indices])
    pairs = csr_matrix((likelier, prior.indices, prior.indptr), shape=(size, size))
    kept = min(width, size - 1)
    left, strength, _ = randomized_svd(pairs + pairs.T, kept, random_state=0, n_iter=3)
    vectors = np.zeros((size, width), np.float32)
    vectors[:, :kept] = left * np.sqrt(strength)
    return torch.from_numpy(vectors * (ITEM_SCALE / max(float(vectors.std()), 1e-9)))


def choose_mixture(prior: ItemPrior, network: Network, data: Data) -> ItemPrior:
    """Choose the mixture that ranks the validation slice's next items best; without any, keep the even one."""
    held_out = data.slices[Slice.VALIDATION]
    held_out = held_out[(data.targets.items[held_out] >= 0).any(1)]
    if not len(held_out):
        return prior
    picked = np.sort(np.random.default_rng(0).permutation(held_out)[:MIXTURE_EXAMPLES])
    probabilities = []
    with torch.inference_mode():
        for start in range(0, len(picked), 256):
            batch = data.batch(picked[start : start + 256])
            probabilities.append(torch.softmax(network.item_logits(network.now(network.states(batch), batch)), dim=1).numpy())
    co_occurrence, own = counted_chances(prior, data.rows.items[picked], data.rows.lengths[picked])
    next_items = [[item for item in row if item >= 0] for row in data.targets.items[picked].tolist()]
    return choose_mix(prior, np.concatenate(probabilities), co_occurrence, own, next_items)
