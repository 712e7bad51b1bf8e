"""Measure how the encoder and TF-IDF improve with more training reviews: what a label is worth.

The training sets are nested: a larger set contains every smaller one. Start at few_labels_curve.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from models.data.examples import Slice
from models.linear.linear_model import Indices
from models.text.text_batches import ReviewRows

Measures = dict[str, Any]


class CurvePoint(Struct, frozen=True):
    """The test metrics after training on `examples` reviews."""

    examples: int
    metrics: Measures


def few_labels_curve(
    rows: ReviewRows, sizes: Sequence[int], seed: int, train_and_measure: Callable[[Indices], Measures]
) -> list[CurvePoint]:
    """Train on random subsets of the training slice, smallest first; larger sizes are cut to the whole slice."""
    train = rows.slices[Slice.TRAIN]
    order = np.random.default_rng(seed).permutation(train)
    points = []
    for size in sorted({min(size, len(train)) for size in sizes}):
        points.append(CurvePoint(size, train_and_measure(np.sort(order[:size]))))
    return points


def plot_curve(points: Sequence[CurvePoint], path: str) -> None:
    """Draw AUC and macro-F1 of every head against the number of reviews, for the model and TF-IDF."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heads = sorted({head for point in points for head in point.metrics})
    figure, axes = pyplot.subplots(1, max(len(heads), 1), figsize=(5 * max(len(heads), 1), 4), squeeze=False)
    sizes = [point.examples for point in points]
    for axis, head in zip(axes[0], heads, strict=False):
        for name, line in (("model", "-"), ("tf_idf", "--")):
            for measure in ("auc", "macro_f1"):
                values = [point.metrics.get(head, {}).get(name, {}).get(measure) for point in points]
                axis.plot(sizes, values, line, marker="o", label=f"{name}, {measure}")
        axis.set(title=head, xlabel="labelled reviews", xscale="log", ylim=(None, 1))
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
