"""What users did so far → the items that simple scorers expect next, best first, of the whole catalogue.

Popularity, personal frequency, decayed co-occurrence and nearest sessions all learn from sequences of item ids, oldest
first; `sequences_of` makes them of training examples. All counts are sparse matrices. Start at rank_items.
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
RECENCY_DECAY = 0.5  # per place from the end of the sequence that is asked about
BACKWARD = 0.5  # what an item just before counts beside one just after
HALF_LIFE_DAYS = 30  # of what training sequences count, by their newest landmark
MAX_SEQUENCE = 50
NEIGHBOURS, MAX_NEIGHBOUR_SEQUENCES = 100, 20_000
ROWS = 512  # of one product of sparse matrices
POPULARITY_SHARE = 1e-6  # breaks ties, and fills lists that know too little


def rank_items(train: Sequence[Example], test: Sequence[Example]) -> dict[str, list[list[str]]]:
    """Return the TOP items of every baseline for every test example.

    Personal frequency counts what the request remembers, as a live model could. All that ask what goes together, and
    personal frequency with memory, also count what training examples of the user held and what followed them, whose labels
    end before the test slice: no live request carries that.
    """
    known = sequences_of(train)
    newest = {example.request.user_id: example.landmark_ms for example in sorted(train, key=_landmark)}
    users = sorted(known, key=newest.__getitem__)
    last_ms = max(newest.values(), default=0)
    weights = [0.5 ** ((last_ms - newest[user]) / DAY_MS / HALF_LIFE_DAYS) for user in users]
    carried = [_remembered(example) for example in test]
    asked = [_joined(known.get(example.request.user_id, []), seen) for example, seen in zip(test, carried, strict=True)]
    learnt = [known[user] for user in users]
    return {
        "popularity": popularity(learnt, asked),
        "personal_frequency": personal_frequency(learnt, carried),
        "personal_frequency_with_memory": personal_frequency(learnt, asked),
        "co_occurrence": co_occurrence(learnt, asked, weights),
        "nearest_sequences": nearest_sequences(learnt, asked),
    }


def sequences_of(examples: Sequence[Example]) -> dict[str, list[str]]:
    """Return user → items in order: of the history of all their examples, and what followed the newest."""
    seen: dict[str, dict[tuple[int, str], None]] = defaultdict(dict)
    followed: dict[str, tuple[str, ...]] = {}
    for example in sorted(examples, key=_landmark):
        user = example.request.user_id
        for entry in example.request.history:
            if entry.item_id is not None:
                seen[user][entry.event_time_ms, entry.item_id] = None
        for item in followed.pop(user, ()):
            seen[user].setdefault((example.landmark_ms - 1, item))
        followed[user] = example.items or ()
    return {user: [item for _, item in sorted(seen.get(user, {}))] + list(after) for user, after in followed.items()}


def popularity(learnt: Sequence[Sequence[str]], asked: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rank items by how many training users met them, the same for everybody."""
    place, popular = _catalogue(learnt)
    names = list(place)
    best = [names[row] for row in np.argsort(-popular, kind="stable")[:TOP]]
    return [best for _ in asked]


def personal_frequency(learnt: Sequence[Sequence[str]], asked: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rank the items that the user met most often, then the popular ones."""
    place, popular = _catalogue(learnt, asked)
    counts = _matrix(asked, place, [np.ones(len(sequence)) for sequence in asked])
    return _best(counts, place, popular)


def co_occurrence(
    learnt: Sequence[Sequence[str]], asked: Sequence[Sequence[str]], weights: Sequence[float] | None = None
) -> list[list[str]]:
    """Rank what stood near the user's newest items in other sequences, each of which counts as its weight says.

    Near counts more than far and after more than before: the decays are those that did best on public click sessions.
    """
    place, popular = _catalogue(learnt)
    together = _together(learnt, place, [1.0] * len(learnt) if weights is None else weights)
    recent = _matrix(asked, place, [_recency(len(sequence)) for sequence in asked])
    return _best(recent, place, popular, together)


def nearest_sequences(learnt: Sequence[Sequence[str]], asked: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rank the items of the NEIGHBOURS sequences most like the user's newest items, by cosine.

    The newest item itself, which all neighbours tend to hold, goes last.
    """
    learnt = learnt[-MAX_NEIGHBOUR_SEQUENCES:]
    place, popular = _catalogue(learnt)
    others = _matrix(learnt, place, [np.ones(len(sequence)) for sequence in learnt])
    others.data[:] = 1
    lengths = np.sqrt(np.maximum(others.sum(1), 1))
    normed = others.multiply(1 / lengths[:, None]).tocsr()
    recent = _matrix(asked, place, [_recency(len(sequence)) for sequence in asked])
    transposed, neighbours = normed.T.tocsr(), []
    for start in range(0, len(asked), ROWS):
        neighbours.append(_strongest(recent[start : start + ROWS] @ transposed, NEIGHBOURS))
    return _best(
        _stack(neighbours), place, popular, normed, [place.get(sequence[-1]) if sequence else None for sequence in asked]
    )


def _remembered(example: Example) -> list[str]:
    return [entry.item_id for entry in example.request.history if entry.item_id is not None]


def _joined(known: Sequence[str], seen: list[str]) -> list[str]:
    """Put what a test user's request remembers after what training knew of them; what both hold counts once."""
    remembered = set(seen)
    return [item for item in known if item not in remembered] + seen


def _landmark(example: Example) -> int:
    return example.landmark_ms


def _catalogue(*parts: Sequence[Sequence[str]]) -> tuple[dict[str, int], Floats]:
    """Number the items of all parts, and count of the first part how many sequences hold each."""
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
    """Return (sequences, items): the summed weights of each item's places in a sequence; unknown items are left out."""
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


def _together(sequences: Sequence[Sequence[str]], place: Mapping[str, int], weights: Sequence[float]) -> "csr_array[Any, Any]":
    """Return (items, items): how often and how near the second stood to the first in one sequence."""
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
    asked: "csr_array[Any, Any]",
    place: Mapping[str, int],
    popular: Floats,
    learnt: "csr_array[Any, Any] | None" = None,
    last: Sequence[int | None] = (),
) -> list[list[str]]:
    """Return the TOP items of every row of `asked`, times `learnt` where given; popularity breaks ties.

    `last` names an item per row, by its place, that goes last.
    """
    names = np.array(list(place), dtype=object)
    ties = POPULARITY_SHARE * popular / max(popular.max(initial=0), 1)
    ranked: list[list[str]] = []
    for start in range(0, asked.shape[0], ROWS):
        part = asked[start : start + ROWS]
        scores = (part if learnt is None else part @ learnt).toarray() + ties
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
