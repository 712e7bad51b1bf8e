"""Count a dataset's examples, users and known labels by slice, for its manifest. Start at count_examples."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from models.data.examples import Example, ReviewExample, Slice, churned_within


def count_examples(examples: Sequence[Example], horizons_days: Iterable[int]) -> dict[str, dict[str, Any]]:
    """Count by slice: examples, users and known labels; by horizon: known churn labels and the share that churned."""
    counts: dict[str, dict[str, Any]] = {}
    for name in Slice:
        found = [example for example in examples if example.slice == name]
        churn = {}
        for days in horizons_days:
            known = [churned for example in found if (churned := churned_within(example, days)) is not None]
            if known:
                churn[f"{days}d"] = {"known": len(known), "churned": round(sum(known) / len(known), 4)}
        counts[name.value] = {
            "examples": len(found),
            "users": len({example.request.user_id for example in found}),
            "at_events": sum(example.request.due != "landmark" for example in found),
            "returned_while_watched": sum(example.absent_ms is not None for example in found),
            "with_categories": sum(example.categories is not None for example in found),
            "with_items": sum(example.items is not None for example in found),
            "churn": churn,
        }
    return counts


def count_reviews(reviews: Iterable[ReviewExample]) -> dict[str, dict[str, int]]:
    """Count by slice: reviews, positive and negative ones, and those of each language."""
    counts: dict[str, Counter[str]] = {name.value: Counter(reviews=0, positive=0, negative=0) for name in Slice}
    for review in reviews:
        found = counts[review.slice.value]
        found["reviews"] += 1
        found["positive"] += review.positive is True
        found["negative"] += review.positive is False
        found[review.language] += 1
    return {name: dict(found) for name, found in counts.items()}
