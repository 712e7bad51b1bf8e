"""Measure predicted next categories and next items of test users against those that followed.

Start at evaluate_categories and evaluate_items.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from models.data.examples import Example
from models.evaluation.baselines.category_baselines import rank_categories, relevant_labels
from models.evaluation.baselines.item_baselines import rank_items
from models.evaluation.bootstrap import Floats, user_weights
from models.evaluation.candidates import Candidate, Setup
from models.evaluation.churn_evaluation import best_baseline
from models.evaluation.comparison import Replicates, compare
from models.evaluation.groups import hashed, measure_groups, user_facts, user_groups
from models.evaluation.metrics import item_ndcg, label_precision, label_statistics, mean, ranking_statistics, reliability
from models.evaluation.outcomes import silent_days
from models.evaluation.report_document import Head, Mistake

CATEGORY_MEASURES = ("map",)
ITEM_MEASURES = ("ndcg_10", "next_hit_rate_20", "next_mrr_20")


def evaluate_categories(
    train: Sequence[Example],
    test: Sequence[Example],
    candidates: Mapping[str, Candidate],
    clusters: Mapping[str, str],
    setup: Setup,
) -> tuple[Head, Replicates] | None:
    """Measure the category head on the test examples that one of its labels followed; None if there is none."""
    served = candidates[setup.served]
    relevant_all = relevant_labels(test, served.labels)
    known = np.flatnonzero(np.nan_to_num(relevant_all).sum(1) > 0)
    if served.categories is None or not len(known):
        return None
    measured, relevant = [test[place] for place in known.tolist()], relevant_all[known]
    baselines = rank_categories(train, measured, served.labels, clusters)
    scores = {
        name: found.categories[known]
        for name, found in candidates.items()
        if found.categories is not None and found.labels == served.labels
    } | baselines
    predicted = max(1, round(float(relevant.sum(1).mean())))
    statistics = {name: label_statistics(score, relevant, predicted=predicted) for name, score in scores.items()}
    weights = user_weights([example.request.user_id for example in measured], setup.replicates, setup.seed)
    compared = compare(statistics, weights, setup.served)
    best = best_baseline(compared, baselines, CATEGORY_MEASURES[0])
    every = {name: label_precision(scores[name], relevant) for name in (setup.served, best) if name}
    parts = measure_groups(
        user_groups(measured),
        None,
        weights,
        lambda picked: mean(every[setup.served][picked]),
        lambda picked: mean(every[best or setup.served][picked]),
    )
    head = Head(
        head="categories",
        n=len(measured),
        positives=int(relevant.sum()),
        users=len({example.request.user_id for example in measured}),
        served=setup.served,
        measures=CATEGORY_MEASURES,
        scorers=compared.scorers,
        differences=compared.differences,
        parts_measure=CATEGORY_MEASURES[0],
        parts=parts,
        mistakes=_category_mistakes(measured, scores[setup.served], relevant, served.labels, setup.mistakes),
        curves={"reliability": {setup.served: reliability(scores[setup.served].ravel(), relevant.ravel())}},
        notes=[
            f"{len(test) - len(measured)} of {len(test)} test examples are left out: what followed is unknown or not a label.",
            f"F1 uses the {predicted} best labels per user, the average number that follow.",
        ],
    )
    return head, compared.replicates


def evaluate_items(
    train: Sequence[Example], test: Sequence[Example], candidates: Mapping[str, Candidate], setup: Setup
) -> tuple[Head, Replicates] | None:
    """Measure ranked items on the test examples whose next items are known; None if there is none."""
    known = [place for place, example in enumerate(test) if example.items]
    if candidates[setup.served].items is None or not known:
        return None
    measured = [test[place] for place in known]
    relevant = [example.items or () for example in measured]
    baselines = rank_items(train, measured)
    ranked = {
        name: [found.items[place] for place in known] for name, found in candidates.items() if found.items is not None
    } | baselines
    weights = user_weights([example.request.user_id for example in measured], setup.replicates, setup.seed)
    compared = compare({name: ranking_statistics(lists, relevant) for name, lists in ranked.items()}, weights, setup.served)
    best = best_baseline(compared, baselines, ITEM_MEASURES[0])
    every = {name: item_ndcg(ranked[name], relevant) for name in (setup.served, best) if name}
    parts = measure_groups(
        user_groups(measured),
        None,
        weights,
        lambda picked: mean(every[setup.served][picked]),
        lambda picked: mean(every[best or setup.served][picked]),
    )
    catalogue = {item for example in train for item in example.items or ()}
    shown = {name: len({item for row in lists for item in row[:20]}) for name, lists in ranked.items()}
    head = Head(
        head="items",
        n=len(measured),
        positives=sum(map(len, relevant)),
        users=len({example.request.user_id for example in measured}),
        served=setup.served,
        measures=ITEM_MEASURES,
        scorers=compared.scorers,
        differences=compared.differences,
        parts_measure=ITEM_MEASURES[0],
        parts=parts,
        notes=[
            f"{len(test) - len(measured)} of {len(test)} test examples are left out: what followed is unknown.",
            f"Items are ranked over the whole catalogue; {len(catalogue)} items followed a training example. Distinct items "
            "in the top 20: " + ", ".join(f"{name} {count}" for name, count in shown.items()) + ".",
        ],
    )
    return head, compared.replicates


def _category_mistakes(
    measured: Sequence[Example], scores: Floats, relevant: Floats, labels: Sequence[str], count: int
) -> list[Mistake]:
    """Pick the users whose most probable label did not follow, most confident first."""
    top = scores.argmax(1)
    rows = np.arange(len(measured))
    confidence = np.where(relevant[rows, top] == 0, scores[rows, top], -np.inf)
    silent = silent_days(measured)
    found: dict[str, Mistake] = {}
    for place in np.argsort(-confidence, kind="stable"):
        if not np.isfinite(confidence[place]) or len(found) == count:
            break
        example = measured[place]
        actual = ", ".join(name for name, one in zip(labels, relevant[place], strict=True) if one)
        prediction = f"{labels[top[place]]} {scores[place, top[place]]:.3f}"
        found.setdefault(
            hashed(example.request.user_id),
            Mistake(hashed(example.request.user_id), prediction, actual, user_facts(example, silent[place])),
        )
    return list(found.values())
