"""Rank the whole catalogue for each test user with simple baselines, best item first.

Popularity, personal frequency, decayed co-occurrence and nearest sessions learn from sequences of item ids, oldest first;
`sequences_of` builds them from training examples. All counts are sparse matrices. Start at rank_items.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from models.data.examples import Example
from models.evaluation.bootstrap import Floats
from schemas.time_units import DAY_MS

if TYPE_CHECKING:
    from scipy.sparse import csr_array

TOP = 20
DISTANCE_DECAY = 0.6  # per place between two items of one sequence
RECENCY_DECAY = 0.5  # per place from the end of the query sequence
BACKWARD = 0.5  # weight of an item just before, relative to one just after
HALF_LIFE_DAYS = 30  # of a training sequence's weight, by its newest landmark
MAX_SEQUENCE = 50
NEIGHBOURS, MAX_NEIGHBOUR_SEQUENCES = 100, 20_000
ROWS = 512  # per product of sparse matrices
POPULARITY_SHARE = 1e-6  # breaks ties, and fills lists that are too short


def rank_items(train: Sequence[Example], test: Sequence[Example]) -> dict[str, list[list[str]]]:
    """Return the TOP items of every baseline for every test example.

    `personal_frequency` counts only the items of the request's history, as a live model could. The baselines based on
    co-occurrence or neighbours, and `personal_frequency_with_memory`, also use the user's training examples and what
    followed them. Those labels end before the test slice, but no live request carries them.
    """
    known = sequences_of(train)
    newest = {example.request.user_id: example.landmark_ms for example in sorted(train, key=_landmark)}
    users = sorted(known, key=newest.__getitem__)
    last_ms = max(newest.values(), default=0)
    weights = [0.5 ** ((last_ms - newest[user]) / DAY_MS / HALF_LIFE_DAYS) for user in users]
    request_items = [_remembered(example) for example in test]
    queries = [
        _joined(known.get(example.request.user_id, []), items) for example, items in zip(test, request_items, strict=True)
    ]
    training = [known[user] for user in users]
    return {
        "popularity": popularity(training, queries),
        "personal_frequency": personal_frequency(training, request_items),
        "personal_frequency_with_memory": personal_frequency(training, queries),
        "co_occurrence": co_occurrence(training, queries, weights),
        "nearest_sequences": nearest_sequences(training, queries),
    }


def sequences_of(examples: Sequence[Example]) -> dict[str, list[str]]:
    """Return user → items in order: the history of all their examples, then what followed the newest."""
    histories: dict[str, dict[tuple[int, str], None]] = defaultdict(dict)
    followed: dict[str, tuple[str, ...]] = {}
    for example in sorted(examples, key=_landmark):
        user = example.request.user_id
        for entry in example.request.history:
            if entry.item_id is not None:
                histories[user][entry.event_time_ms, entry.item_id] = None
        for item in followed.pop(user, ()):
            histories[user].setdefault((example.landmark_ms - 1, item))
        followed[user] = example.items or ()
    return {user: [item for _, item in sorted(histories.get(user, {}))] + list(after) for user, after in followed.items()}


def popularity(training: Sequence[Sequence[str]], queries: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rank items by how many training users have them in their sequence; the ranking is the same for every user."""
    place, popular = _catalogue(training)
    names = list(place)
    best = [names[row] for row in np.argsort(-popular, kind="stable")[:TOP]]
    return [best for _ in queries]


def personal_frequency(training: Sequence[Sequence[str]], queries: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rank the items that occur most often in the user's sequence, then the popular ones."""
    place, popular = _catalogue(training, queries)
    counts = _matrix(queries, place, [np.ones(len(sequence)) for sequence in queries])
    return _best(counts, place, popular)


def co_occurrence(
    training: Sequence[Sequence[str]], queries: Sequence[Sequence[str]], weights: Sequence[float] | None = None
) -> list[list[str]]:
    """Rank items that stand near the user's newest items in the training sequences, weighted by `weights`.

    Near counts more than far, and after more than before. These decays did best on public click sessions.
    """
    place, popular = _catalogue(training)
    co_occurrences = _co_occurrences(training, place, [1.0] * len(training) if weights is None else weights)
    recent = _matrix(queries, place, [_recency(len(sequence)) for sequence in queries])
    return _best(recent, place, popular, co_occurrences)


def nearest_sequences(training: Sequence[Sequence[str]], queries: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rank the items of the NEIGHBOURS training sequences closest to the user's newest items, by cosine.

    The newest item itself goes last, because nearly all neighbours contain it.
    """
    training = training[-MAX_NEIGHBOUR_SEQUENCES:]
    place, popular = _catalogue(training)
    others = _matrix(training, place, [np.ones(len(sequence)) for sequence in training])
    others.data[:] = 1
    lengths = np.sqrt(np.maximum(others.sum(1), 1))
    normed = others.multiply(1 / lengths[:, None]).tocsr()
    recent = _matrix(queries, place, [_recency(len(sequence)) for sequence in queries])
    transposed, neighbours = normed.T.tocsr(), []
    for start in range(0, len(queries), ROWS):
        neighbours.append(_strongest(recent[start : start + ROWS] @ transposed, NEIGHBOURS))
    return _best(
        _stack(neighbours), place, popular, normed, [place.get(sequence[-1]) if sequence else None for sequence in queries]
    )


def _remembered(example: Example) -> list[str]:
    return [entry.item_id for entry in example.request.history if entry.item_id is not None]


def _joined(known: Sequence[str], items: list[str]) -> list[str]:
    """Append the items of a test request to the user's training items; an item of both counts once."""
    remembered = set(items)
    return [item for item in known if item not in remembered] + items


def _landmark(example: Example) -> int:
    return example.landmark_ms


def _catalogue(*parts: Sequence[Sequence[str]]) -> tuple[dict[str, int], Floats]:
    """Number the items of all parts, and count how many sequences of the first part contain each."""
    place: dict[str, int] = {}
    for sequences in parts:
        for sequence in sequences:
            for item in sequence:
                place.setdefault(item, len(place))
    popular = np.zeros(len(place))
    for sequence in parts[0]:
        popular[[place[item] for item in set(sequence)]] += 1
    return place, popular


def _recency(length: int) -> Floats:
    return np.asarray(RECENCY_DECAY ** np.arange(length - 1, -1, -1, dtype=np.float64))


def _matrix(sequences: Sequence[Sequence[str]], place: Mapping[str, int], weights: Sequence[Floats]) -> "csr_array[Any, Any]":
    """Return (sequences, items): the summed weights of each item's places in a sequence; unknown items are dropped."""
    from scipy.sparse import csr_array

    rows, columns, values = [], [], []
    for row, (sequence, weight) in enumerate(zip(sequences, weights, strict=True)):
        for item, value in list(zip(sequence, weight, strict=True))[-MAX_SEQUENCE:]:
            if item in place:
                rows.append(row)
                columns.append(place[item])
                values.append(value)
    matrix = csr_array((values, (rows, columns)), shape=(len(sequences), len(place)), dtype=np.float64)
    matrix.sum_duplicates()
    return matrix


def _co_occurrences(
    sequences: Sequence[Sequence[str]], place: Mapping[str, int], weights: Sequence[float]
) -> "csr_array[Any, Any]":
    """Return (items, items): how often and how near the second item stood to the first in one sequence."""
    from scipy.sparse import csr_array

    rows, columns, values = [], [], []
    for sequence, weight in zip(sequences, weights, strict=True):
        items = np.array([place[item] for item in sequence[-MAX_SEQUENCE:]], np.int64)
        first, second = np.triu_indices(len(items), 1)
        rows.append(items[first])
        columns.append(items[second])
        values.append(weight * DISTANCE_DECAY ** (second - first - 1))
    shape = (len(place), len(place))
    if not rows:
        return csr_array(shape, dtype=np.float64)
    one_way = csr_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)
    both = (one_way + BACKWARD * one_way.T).tocsr()
    both.setdiag(0)
    return both


def _best(
    queries: "csr_array[Any, Any]",
    place: Mapping[str, int],
    popular: Floats,
    training: "csr_array[Any, Any] | None" = None,
    last: Sequence[int | None] = (),
) -> list[list[str]]:
    """Return the TOP items of every row of `queries`, multiplied by `training` if given; popularity breaks ties.

    `last` gives the column of one item per row that goes last.
    """
    names = np.array(list(place), dtype=object)
    ties = POPULARITY_SHARE * popular / max(popular.max(initial=0), 1)
    ranked: list[list[str]] = []
    for start in range(0, queries.shape[0], ROWS):
        part = queries[start : start + ROWS]
        scores = (part if training is None else part @ training).toarray() + ties
        for row, item in enumerate(last[start : start + ROWS]):
            if item is not None:
                scores[row, item] = -1
        top = np.argpartition(-scores, min(TOP, scores.shape[1] - 1), axis=1)[:, :TOP]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
        ranked += names[np.take_along_axis(top, order, axis=1)].tolist()
    return ranked


def _strongest(matrix: "csr_array[Any, Any]", count: int) -> "csr_array[Any, Any]":
    """Keep the `count` largest values of every row."""
    matrix = matrix.tocsr()
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        if end - start > count:
            row = matrix.data[start:end]
            row[np.argpartition(-row, count)[count:]] = 0
    matrix.eliminate_zeros()
    return matrix


def _stack(parts: "list[csr_array[Any, Any]]") -> "csr_array[Any, Any]":
    from scipy.sparse import vstack

    return vstack(parts, format="csr")
