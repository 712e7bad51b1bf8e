"""Measure a tuned encoder on the test slice of reviews, head by head, beside baselines and its blend with TF-IDF.

All choices, such as the share of the blend, are made on the validation slice. Start at evaluate_text.
"""

from typing import Any

import numpy as np

from models.data.examples import Slice
from models.evaluation.baselines.review_baselines import majority, tf_idf
from models.evaluation.class_metrics import class_measures, prior_power, reweighted
from models.linear.linear_model import Floats, Indices, best_share, blend_losses
from models.linear.tfidf import Cut, singly_and_paired
from models.linear.words import Analyser
from models.network.encoder import Encoder
from models.network.losses import UNKNOWN
from models.network.text_heads import TextHeads
from models.serving.tuned_encoder import head_probabilities
from models.text.text_batches import ReviewRows

STARS = ("1", "2", "3", "4", "5")


def class_names(rows: ReviewRows) -> dict[str, tuple[str, ...]]:
    """Return the classes of every head, in the order of their numbers."""
    return {"sentiment": ("negative", "positive"), "rating": STARS, "category": rows.categories}


def evaluate_text(
    encoder: Encoder,
    heads: TextHeads,
    rows: ReviewRows,
    *,
    train_rows: Indices | None = None,
    ablations: dict[str, Analyser] | None = None,
) -> dict[str, Any]:
    """Measure every head on the test slice; `blend` is the mixture with TF-IDF that is best on the validation slice.

    `balanced` gives rare classes the weight that is best for macro-F1 on the validation slice, for every candidate.
    Baselines are fitted on the same rows as the model. `ablations` are other ways of splitting texts for TF-IDF.
    """
    train = rows.slices[Slice.TRAIN] if train_rows is None else train_rows
    validation, test = rows.slices[Slice.VALIDATION], rows.slices[Slice.TEST]
    scored = np.concatenate([validation, test])
    texts = [rows.texts[row] for row in scored]
    found = head_probabilities(heads, encoder.encode(texts))._asdict()
    result: dict[str, Any] = {}
    for head, names in class_names(rows).items():
        model: Floats | None = found[head]
        if model is None:
            continue
        labels: Indices = getattr(rows.labels, head)
        if (labels[test] == UNKNOWN).all():
            continue
        train_labelled = [rows.texts[row] for row in train], labels[train]
        validation_labelled = [rows.texts[row] for row in validation], labels[validation]
        baseline = tf_idf(train_labelled, validation_labelled, texts, len(names))
        share = best_share(blend_losses(model[: len(validation)], baseline[: len(validation)], labels[validation]).items())
        mixed = share * model + (1 - share) * baseline
        candidates = {
            "model": model,
            "tf_idf": baseline,
            "blend": mixed,
            "majority": majority(labels[train], len(names), len(scored)),
        }
        for name, analyser in (ablations or {}).items():
            candidates[f"tf_idf, {name}"] = tf_idf(train_labelled, validation_labelled, texts, len(names), _pairing(analyser))
        shares = candidates["majority"][0]
        result[head] = {"blend_share_of_model": round(share, 3)}
        for name, probabilities in candidates.items():
            validation_rows, test_rows = np.split(probabilities, [len(validation)])
            power = prior_power(validation_rows, labels[validation], shares)
            balanced = class_measures(reweighted(test_rows, shares, power), labels[test], names)
            result[head][name] = class_measures(test_rows, labels[test], names) | {
                "balanced": {"prior_power": power, "accuracy": balanced["accuracy"], "macro_f1": balanced["macro_f1"]}
            }
    return result


def _pairing(analyser: Analyser) -> Cut:
    return lambda text: singly_and_paired(analyser(text))
