"""Load a model's folder and score the test slice of a dataset with it, as candidates for evaluation.

A folder holds a user model (footfall train) or a tuned text encoder (footfall train texts). Start at load_candidates.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.data.examples import Example, ReviewExample, Slice
from models.evaluation.bootstrap import Floats
from models.evaluation.candidates import Candidate
from models.evaluation.predict import predict_with
from models.evaluation.text_evaluation import SENTIMENTS, STAR_NAMES
from models.network.encoder import Encoder
from models.network.readable import unread_reasons
from models.serving.checkpoint import LEARNT_UNTIL_MS, Catalogue, encoder_address, load_checkpoint
from models.serving.item_prior import PARTS
from models.serving.scorer import UNDECIDED, Scorer
from models.serving.tuned_encoder import HEADS, head_probabilities, load_tuned
from schemas.errors import EvaluationError
from schemas.scoring import ScoreRequest, SourcePosition, Timings

SERVED, ALONE, FROZEN = "model", "network alone", "before fine-tuning"
FROZEN_TEXTS = 4000  # training reviews for the heads of the frozen encoder
FEW_LABELS = "few_labels.json"


class Loaded(NamedTuple):
    """Candidates to evaluate, by name, and facts about the model for the report."""

    candidates: dict[str, Candidate]
    model_version: str
    facts: dict[str, Any]


def load_candidates(
    folder: Path,
    examples: Sequence[Example],
    reviews: Sequence[ReviewExample],
    horizons_days: Sequence[int],
    returns: str,
    *,
    threads: int | None = None,
) -> Loaded:
    """Score the test slice as the model serves it, and as a variant: network without blend, or encoder before tuning.

    Raises:
        ModelError: the checkpoint cannot be used.
        ModelError: the folder of a tuned encoder cannot be used.
        ModelError: the encoder cannot be loaded.
        EvaluationError: model and dataset define the return differently, or training may have included the test slice.
    """
    test_reviews = [review for review in reviews if review.slice is Slice.TEST]
    if (folder / HEADS).is_file():
        return _text_candidates(folder, reviews, test_reviews, threads)
    test = [example for example in examples if example.slice is Slice.TEST]
    checkpoint = load_checkpoint(folder)
    encoder = Encoder.load(encoder_address(folder, checkpoint.manifest.contract), threads=threads)
    scorer = Scorer(checkpoint, encoder)
    if scorer.returns != returns:
        raise EvaluationError(
            f"model {scorer.model_version} was trained on returns of kind {scorer.returns!r}, the dataset has {returns!r}: "
            f"evaluate on a dataset built with --return {scorer.returns}"
        )
    until_ms = checkpoint.manifest.provenance.settings.get(LEARNT_UNTIL_MS, 0)
    if (first_ms := min((example.landmark_ms for example in test), default=until_ms)) < until_ms:
        raise EvaluationError(
            f"model {scorer.model_version} was trained on data until {_day(until_ms)}, but the test slice begins at "
            f"{_day(first_ms)}: evaluate on the dataset it was trained on, or on a later one"
        )
    candidates = {SERVED: _user_candidate(scorer, test, test_reviews, horizons_days)}
    shares, catalogue = checkpoint.network.plain.shares, checkpoint.catalogue
    terms = checkpoint.sentiment_terms
    if bool((shares < 1).any()) or (catalogue is not None and catalogue.prior.mix[0] < 1) or terms is not None:
        network = deepcopy(checkpoint.network)
        network.plain.shares.fill_(1.0)
        bare = checkpoint._replace(network=network, catalogue=_network_only(catalogue), sentiment_terms=None)
        candidates[ALONE] = _user_candidate(Scorer(bare, encoder), test, test_reviews if terms else [], horizons_days)
    manifest = checkpoint.manifest
    facts = {
        "trained by": manifest.provenance.command,
        "trained on data": manifest.provenance.data_fingerprint[:16],
        "encoder": manifest.contract.encoder_uri,
        "licence": manifest.provenance.licence,
        "network's share of the blend": ", ".join(
            f"{name} {share:.2f}"
            for name, share in zip(
                ("return", "categories", "sentiment"),
                (*shares.tolist(), 1.0 if terms is None else terms.network_share),
                strict=True,
            )
        ),
    }
    if catalogue is not None:
        facts["next items"] = ", ".join(
            f"{name.replace('_', ' ')} {share:.2f}" for name, share in zip(PARTS, catalogue.prior.mix.tolist(), strict=True)
        )
    return Loaded(candidates, scorer.model_version, facts)


def _day(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d}"


def _network_only(catalogue: Catalogue | None) -> Catalogue | None:
    """Return a catalogue that ranks items by the network's probabilities alone."""
    if catalogue is None:
        return None
    mix = np.array([part == "network" for part in PARTS], np.float32)
    return Catalogue(catalogue.items, catalogue.prior._replace(mix=mix))


def _user_candidate(
    scorer: Scorer, test: Sequence[Example], test_reviews: Sequence[ReviewExample], horizons_days: Sequence[int]
) -> Candidate:
    found = predict_with(scorer, test, horizons_days)
    reviews = scorer.probabilities([_request(review, scorer.spec_version) for review in test_reviews]) if test_reviews else None
    return Candidate(
        risk=found.risk,
        hazards=found.hazards,
        horizons_days=found.horizons_days,
        labels=found.labels,
        categories=found.categories,
        items=None if found.items is None else [[item for item, _ in row] for row in found.items],
        positive=None if reviews is None else reviews.positive,
        unread=() if reviews is None else reviews.unread,
    )


def _request(review: ReviewExample, spec_version: str) -> ScoreRequest:
    """Build a request that scores only a review's sentiment; nothing is known of its author."""
    from models.features.spec import FEATURE_SPEC

    return ScoreRequest(
        request_id="review",
        user_id=review.user_id or "nobody",
        event_id="review",
        event_time_ms=review.event_time_ms,
        kind="review",
        due="review",
        source=SourcePosition(topic="reviews", partition=0, offset=0, timestamp_ms=review.event_time_ms),
        guard={},
        spec_version=spec_version,
        features=[None] * len(FEATURE_SPEC.names),
        history=[],
        categories=[],
        timings=Timings(sent_ms=0, folded_ms=0),
        text=review.text,
    )


def _text_candidates(
    folder: Path, reviews: Sequence[ReviewExample], test_reviews: Sequence[ReviewExample], threads: int | None
) -> Loaded:
    encoder, heads, manifest = load_tuned(folder, threads=threads)
    texts = [review.text for review in test_reviews]
    found = head_probabilities(heads, encoder.encode(texts))
    unread = unread_reasons(encoder, texts)
    readable = np.array([reason is None for reason in unread], bool)
    kinds = manifest.heads.categories
    candidates = {
        SERVED: Candidate(
            positive=None if found.sentiment is None else np.where(readable, found.sentiment[:, 1], UNDECIDED),
            unread=unread,
            stars=found.rating,
            kind_labels=kinds,
            kinds=found.category,
        )
    }
    train = [review for review in reviews if review.slice is Slice.TRAIN]
    if train and test_reviews:
        candidates[FROZEN] = _frozen(Encoder.load(manifest.base_encoder_uri, threads=threads), train, texts, kinds)
    facts = {"base encoder": manifest.base_encoder_uri, "encoder": manifest.encoder_id[:16], "licence": manifest.licence}
    return Loaded(candidates, f"text-{manifest.encoder_id[:12]}", facts)


def _frozen(encoder: Encoder, train: Sequence[ReviewExample], texts: Sequence[str], kinds: tuple[str, ...]) -> Candidate:
    """Fit logistic regressions on the vectors of the encoder before tuning."""
    drawn = np.random.default_rng(0).permutation(len(train))[:FROZEN_TEXTS]
    sample = [train[place] for place in drawn.tolist()]
    vectors, test_vectors = encoder.encode([review.text for review in sample]), encoder.encode(list(texts))
    positive = _regression(
        vectors, [None if r.positive is None else SENTIMENTS[r.positive] for r in sample], test_vectors, SENTIMENTS
    )
    stars = _regression(vectors, [None if r.stars is None else str(round(r.stars)) for r in sample], test_vectors, STAR_NAMES)
    found = _regression(vectors, [r.category if r.category in kinds else None for r in sample], test_vectors, kinds)
    return Candidate(positive=None if positive is None else positive[:, 1], stars=stars, kind_labels=kinds, kinds=found)


def _regression(vectors: Any, truth: Sequence[str | None], test_vectors: Any, classes: Sequence[str]) -> Floats | None:
    """Return (M, C) probabilities of the classes; None if training contains fewer than two of them."""
    from sklearn.linear_model import LogisticRegression

    known = [row for row, name in enumerate(truth) if name is not None]
    if len({truth[row] for row in known}) < 2:
        return None
    model = LogisticRegression(C=10.0, max_iter=500).fit(vectors[known], [truth[row] for row in known])
    probabilities = np.zeros((len(test_vectors), len(classes)))
    probabilities[:, [list(classes).index(name) for name in model.classes_]] = model.predict_proba(test_vectors)
    return probabilities


def few_labels_points(result: Mapping[str, Any]) -> list[dict[str, float]]:
    """Flatten a few-label curve into points: the number of labels and the metrics reached.

    Metrics are the accuracy of model and TF-IDF by head (footfall train texts), or the churn AUC by horizon (footfall train).
    """
    points = []
    for point in result.get("points", []):
        found = {"labels": float(point["examples"])}
        for head, scorers in point["metrics"].items():
            for name in ("model", "tf_idf"):
                if (accuracy := scorers.get(name, {}).get("accuracy")) is not None:
                    found[f"{head}: accuracy of {name}"] = float(accuracy)
        for horizon, reached in point["metrics"].get("churn", {}).items():
            if reached["auc"] is not None:
                found[f"churn {horizon}: AUC"] = float(reached["auc"])
        points.append(found)
    return points
