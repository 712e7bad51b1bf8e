"""Measure models and every baseline on the test slice of a dataset, head by head, and judge who wins.

Baselines are fitted on the earlier train and validation slices. Within a head, all scorers are measured with the same
bootstrap draws of users. This module runs no model: each candidate (a model, or a variant of one) comes with its
predictions. Start at evaluate.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from models.data.examples import Example, ReviewExample, Slice
from models.evaluation.baselines.churn_baselines import MIN_OUTCOMES
from models.evaluation.candidates import Candidate, Setup
from models.evaluation.churn_evaluation import BASELINES as CHURN_BASELINES
from models.evaluation.churn_evaluation import MEASURES as CHURN_MEASURES
from models.evaluation.churn_evaluation import evaluate_churn
from models.evaluation.comparison import Replicates, judge
from models.evaluation.interest_evaluation import evaluate_categories, evaluate_items
from models.evaluation.report_document import Head, Verdict
from models.evaluation.text_evaluation import evaluate_texts
from schemas.errors import EvaluationError

FITTED_ON = (Slice.TRAIN, Slice.VALIDATION)


class Evaluated(NamedTuple):
    """Every head that could be measured, and the verdict on it."""

    heads: list[Head]
    verdict: dict[str, Verdict]


def evaluate(
    examples: Sequence[Example],
    reviews: Sequence[ReviewExample],
    candidates: Mapping[str, Candidate],
    horizons_days: Sequence[int],
    clusters: Mapping[str, str],
    setup: Setup,
) -> Evaluated:
    """Measure every head on the test slice; candidates hold predictions for its examples and reviews, in this order.

    Raises:
        EvaluationError: no head could be measured.
    """
    train = [example for example in examples if example.slice in FITTED_ON]
    test = [example for example in examples if example.slice == Slice.TEST]
    heads, verdict = list[Head](), dict[str, Verdict]()
    churn, draws = evaluate_churn(train, test, candidates, horizons_days, setup) if test else ([], [])
    heads += churn
    if draws:
        verdict["churn"] = judge(draws, setup.served, tuple(CHURN_BASELINES), CHURN_MEASURES)
    interest = (
        [evaluate_categories(train, test, candidates, clusters, setup), evaluate_items(train, test, candidates, setup)]
        if test
        else []
    )
    train_reviews = [review for review in reviews if review.slice in FITTED_ON]
    test_reviews = [review for review in reviews if review.slice == Slice.TEST]
    for found in [*interest, *evaluate_texts(train_reviews, test_reviews, candidates, setup)]:
        if found is not None:
            head, replicates = found
            heads.append(head)
            verdict[head.head] = judge([replicates], setup.served, _baselines(replicates, candidates), head.measures)
    if not heads:
        raise EvaluationError(
            f"found {len(test)} test examples and {len(test_reviews)} test reviews, too few to measure any head, expected "
            f"{MIN_OUTCOMES} examples each of users who stayed away and who returned, or known next categories or items, or "
            "rated reviews: use a longer log"
        )
    return Evaluated(heads, verdict)


def _baselines(replicates: Replicates, candidates: Mapping[str, Candidate]) -> list[str]:
    return [name for name in replicates if name not in candidates]
