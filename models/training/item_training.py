"""Training examples → what is counted of their items, where the item head starts, and the mixture that it ends in.

Start at count_items.
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

HISTORY_SIGHT = 10
MIXED_ON = 1_500  # validation examples that choose the mixture
ITEM_SCALE = 0.1


def count_items(examples: Sequence[Example], known: Vocabulary, fade_days: float) -> ItemPrior:
    """Count the items of examples: a user's examples share one vote, which halves every `fade_days`."""
    votes = Counter(example.request.user_id for example in examples)
    end_ms = max(example.landmark_ms for example in examples)
    weighed = [
        (example, 0.5 ** ((end_ms - example.landmark_ms) / (fade_days * DAY_MS)) / votes[example.request.user_id])
        for example in examples
    ]

    def journeys() -> Iterator[Journey]:
        for example, weight in weighed:
            met = [entry.item_id for entry in example.request.history if entry.item_id is not None][-HISTORY_SIGHT:]
            yield Journey([known.items.get(item, 0) - 1 for item in (*met, *(example.items or ()))], weight)

    def wanted() -> Iterator[tuple[int, float]]:
        for example, weight in weighed:
            yield from ((known.items[item] - 1, weight) for item in example.items or () if item in known.items)

    return fit_item_prior(journeys(), wanted(), len(known.items))


def item_directions(prior: ItemPrior, width: int) -> Tensor:
    """Return (V, W) vectors whose products follow how much likelier items come together than by chance."""
    from scipy.sparse import csr_matrix
    from sklearn.utils.extmath import randomized_svd

    size = len(prior.popularity)
    likelier = np.log1p(prior.values / prior.popularity[prior.indices])
    together = csr_matrix((likelier, prior.indices, prior.indptr), shape=(size, size))
    kept = min(width, size - 1)
    left, strength, _ = randomized_svd(together + together.T, kept, random_state=0, n_iter=3)
    vectors = np.zeros((size, width), np.float32)
    vectors[:, :kept] = left * np.sqrt(strength)
    return torch.from_numpy(vectors * (ITEM_SCALE / max(float(vectors.std()), 1e-9)))


def choose_mixture(prior: ItemPrior, network: Network, data: Data) -> ItemPrior:
    """Choose the mixture that ranks the validation slice's next items best; without any the even one stays."""
    held_out = data.slices[Slice.VALIDATION]
    held_out = held_out[(data.targets.items[held_out] >= 0).any(1)]
    if not len(held_out):
        return prior
    picked = np.sort(np.random.default_rng(0).permutation(held_out)[:MIXED_ON])
    chances = []
    with torch.inference_mode():
        for start in range(0, len(picked), 256):
            batch = data.batch(picked[start : start + 256])
            chances.append(torch.softmax(network.item_logits(network.now(network.states(batch), batch)), dim=1).numpy())
    near, own = counted_chances(prior, data.rows.items[picked], data.rows.lengths[picked])
    wanted = [[item for item in row if item >= 0] for row in data.targets.items[picked].tolist()]
    return choose_mix(prior, np.concatenate(chances), near, own, wanted)
