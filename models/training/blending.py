"""Fit linear models after the network: those whose scores are blended with the network's, and the sentiment head.

The validation slice chooses the penalty of each model and the network's share of the blend. A share of 0 means that the
plain model's scores are used alone. Start at blend.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.data.examples import Slice
from models.linear.linear_model import Loss, best_share, blend_losses, fit_best, fit_linear
from models.linear.sentiment_terms import CUTS, SentimentTerms
from models.linear.tfidf import best_terms
from models.network.losses import binary_loss
from models.network.network import Network
from models.training.objective import mean_hazard_loss
from models.training.training_data import Data, Reviews, predict_logits
from schemas.errors import CannotFit

LEAST_TO_CHOOSE = 20  # validation reviews, to choose sentiment terms
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)  # of the network in a blend; equal losses favour the network


def blend(network: Network, data: Data) -> dict[str, Any]:
    """Fit the plain models on the train slice, and choose the network's shares by loss on the validation slice.

    Plain interest reads only the user's category shares, plain hazards all other numbers: more inputs gained nothing
    (DECISIONS.md). Interest is refitted with the validation slice, which is closer to serving time; hazards keep the level
    of training.
    """
    training, held_out = data.slices[Slice.TRAIN], data.slices[Slice.VALIDATION]
    alone = predict_logits(network, data, held_out)  # the shares are 1: the network alone
    numbers = [data.batch(picked).numbers if len(picked) else torch.zeros(0, 0) for picked in (training, held_out)]
    exposure, returned, categories = (
        torch.from_numpy(part) for part in (data.targets.exposure, data.targets.returned, data.targets.categories)
    )

    def hazards(rows: Tensor) -> Loss:
        return lambda logits: mean_hazard_loss(logits, exposure[rows], returned[rows])

    def interest(rows: Tensor) -> Loss:
        return lambda logits: binary_loss(logits, categories[rows])

    is_share = torch.arange(network.plain.interest.in_features) >= network.plain.interest.in_features - network.config.labels
    shares, other_numbers = ([part * inputs if len(part) else part for part in numbers] for inputs in (is_share, ~is_share))
    chosen: dict[str, Any] = {}
    plain, rows = network.plain, (torch.from_numpy(training), torch.from_numpy(held_out))
    for place, (name, loss, layer, bias, logits, inputs) in enumerate(
        (
            ("hazards", hazards, plain.hazards, network.hazards.bias, alone.hazards, other_numbers),
            ("interest", interest, plain.interest, network.interest.bias, alone.interest, shares),
        )
    ):
        layer.bias.data.copy_(bias.detach())  # weights start at 0, and those of masked inputs stay 0
        penalty = fit_best(layer, inputs[0], loss(rows[0]), inputs[1], loss(rows[1]))
        losses: dict[float, float] = {}
        if len(held_out) and not (network.config.decoder and name == "interest"):  # a decoder's logits mean something else
            with torch.no_grad():
                other = layer(inputs[1])
                losses = {share: float(loss(rows[1])(share * logits + (1 - share) * other)) for share in SHARES}
        plain.shares[place] = share = best_share(losses.items())
        by_share = {f"{share:g}": round(value, 5) for share, value in losses.items()}
        chosen[name] = {"network_share": share, "penalty": penalty, "validation_loss": by_share}
    if len(held_out):
        fit_linear(plain.interest, torch.cat(shares), interest(torch.cat(rows)), chosen["interest"]["penalty"])
    return chosen


def fit_sentiment(network: Network, texts: dict[Slice, Reviews]) -> dict[str, Any]:
    """Fit the sentiment head to the training reviews' vectors; without reviews its weights are 0."""
    training, held_out = texts[Slice.TRAIN], texts[Slice.VALIDATION]
    torch.nn.init.zeros_(network.sentiment.weight)
    torch.nn.init.zeros_(network.sentiment.bias)
    if not len(training.positive):
        return {}
    scale = network.text_scale
    penalty = fit_best(
        network.sentiment,
        training.vectors * scale,
        lambda z: binary_loss(z.squeeze(1), training.positive),
        held_out.vectors * scale,
        lambda z: binary_loss(z.squeeze(1), held_out.positive),
    )
    return {"sentiment": {"penalty": penalty, "reviews": len(training.positive)}}


def fit_sentiment_terms(network: Network, texts: dict[Slice, Reviews]) -> tuple[SentimentTerms | None, dict[str, Any]]:
    """Fit TF-IDF with regression to the training reviews; choose its settings and its share on the validation slice.

    None if it gets no share, because the sentiment head alone is as good, or if nothing can be chosen: with too few reviews,
    or with one class alone, where whatever predicts that class most often would win.
    """
    training, held_out = texts[Slice.TRAIN], texts[Slice.VALIDATION]
    training_labels, truth = (reviews.positive.long().numpy() for reviews in (training, held_out))
    if len(truth) < LEAST_TO_CHOOSE or len(np.unique(truth)) < 2:
        return None, {}
    try:
        terms, strength = best_terms((training.texts, training_labels), (held_out.texts, truth), tuple(CUTS.values()))
    except CannotFit:
        return None, {}
    positive = sentiment_logits(network, held_out).double().sigmoid().numpy()
    losses = blend_losses(np.column_stack([1 - positive, positive]), terms.probabilities(held_out.texts, 2), truth)
    share = best_share(losses.items())
    chosen = {
        "network_share": share,
        "validation_loss": {f"{share:g}": round(value, 5) for share, value in losses.items()},
        "terms": {"cut": terms.cut.__name__, "strength": strength, "count": len(terms.columns)},
    }
    return (SentimentTerms(terms, share) if share < 1 else None), chosen


def sentiment_logits(network: Network, reviews: Reviews, terms: SentimentTerms | None = None) -> Tensor:
    """Return the (M,) logits of reviews being positive, from the network or from its blend with terms."""
    with torch.inference_mode():
        logits = torch.as_tensor(network.sentiment(reviews.vectors * network.text_scale).squeeze(1))
        return logits if terms is None else terms.blend(logits, reviews.texts)
