"""Compute scores from score requests: calibrated probabilities of interest and return, next items, a review's sentiment.

Scoring blocks the calling thread. A request's scores depend on the other requests of its batch only by rounding error. This
module knows nothing of Kafka. Start at Scorer.score.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray

from models.features.spec import FEATURE_SPEC, HISTORY_EVENTS, KINDS, LIFETIME
from models.network.encoder import Encoder, Vectors, plan_batches
from models.network.inputs import Rows, arrange, collate, vocabulary
from models.network.network import Logits
from models.network.readable import unread_reasons
from models.network.survival import risk
from models.serving.checkpoint import Calibration, Checkpoint, Platt, encoder_address, load_checkpoint
from models.serving.item_categories import with_item_categories
from models.serving.item_prior import counted_chances, mix_items
from models.serving.registry import serving
from schemas.errors import ModelError
from schemas.scoring import HistoryEntry, ScoreRequest, SourcePosition, Timings
from schemas.signals import Unread
from schemas.time_units import DAY_MS

BATCH_ROWS = 64
BATCH_PADDED_EVENTS = 3_584
TOP_ITEMS = 20
UNDECIDED = 0.5  # the probability of a positive review that cannot be read
Probabilities = NDArray[np.float64]


class Scores(Struct, frozen=True, gc=False):
    """The scores of one request: every label, most probable first; survival[i] = P(no return within horizons_days[i]).

    `sentiment` is -1 (negative) to 1 (positive), null unless a review caused the request whose text the model can read;
    `unread` says why it cannot. `items` are the most probable next items with their probabilities; empty if the model has no
    item head.
    """

    interests: list[tuple[str, float]]
    survival: list[float]
    sentiment: float | None
    items: list[tuple[str, float]] = []
    unread: Unread | None = None


class Calibrated(Struct, frozen=True):
    """Probabilities of N requests: interest (N, K), hazards (N, H), positive sentiment (N,), and each one's top items.

    `unread` (N,) says why the model cannot read a review, whose positive sentiment is then UNDECIDED.
    """

    interest: Probabilities
    hazards: Probabilities
    positive: Probabilities
    items: list[list[tuple[str, float]]] = []
    unread: list[Unread | None] = []


class Scorer:
    """A checkpoint and the encoder it was trained with; threads may share it.

    `kinds_read` are the kinds of events in the training data; `knows_reviews` is true if it had labelled reviews.
    """

    def __init__(self, checkpoint: Checkpoint, encoder: Encoder) -> None:
        """Raise ModelError if the encoder is not the one that the checkpoint was trained with."""
        self._network, manifest, self._catalogue, self._item_categories, self._sentiment_terms = checkpoint
        contract = self._contract = manifest.contract
        if encoder.encoder_id != contract.encoder_id:
            raise ModelError(
                f"model {manifest.model_version} needs encoder {contract.encoder_id[:12]} ({contract.encoder_uri}), "
                f"found {encoder.short_id} ({encoder.uri}): load that encoder or train again with this one"
            )
        self.encoder = encoder
        self._known = vocabulary(contract.labels, self._catalogue.items if self._catalogue else ())
        self.model_version = manifest.model_version
        self.spec_version = contract.spec_version
        self.features = tuple(contract.features or FEATURE_SPEC.references)
        names = [reference.rpartition("@")[0] for reference in self.features]
        self._purchase_recency = names.index("purchase.recency_ms") if "purchase.recency_ms" in names else None
        self.churn_days = contract.churn_days
        self.labels = tuple(contract.labels)
        self.horizons_days = tuple(contract.horizons_days)
        self.returns = contract.returns
        self.ranks_items = self._catalogue is not None
        varied = dict(zip(names, contract.normalisation.std, strict=False))
        self.kinds_read = frozenset(kind for kind in KINDS if varied.get(f"{kind}.count.{LIFETIME}", 0) > 0)
        self.knows_reviews = contract.calibration.sentiment != Platt()

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        encoder_uri: str | None = None,
        threads: int | None = None,
        encoder: Encoder | None = None,
    ) -> "Scorer":
        """Load a checkpoint folder, or the promoted one of a registry, and its encoder.

        `encoder_uri` overrides the checkpoint's encoder URI. `encoder` and its cache are reused if the checkpoint was
        trained with the same encoder. `threads` limits torch in the whole process. Takes seconds, to read and hash the
        encoder's weights.

        Raises:
            ModelError: the checkpoint must not be used, or its encoder cannot be loaded or is a different one.
            RegistryError: no model of the registry is in production.
        """
        folder = serving(folder)
        checkpoint = load_checkpoint(folder)
        contract = checkpoint.manifest.contract
        if encoder is None or encoder.encoder_id != contract.encoder_id:
            encoder = Encoder.load(encoder_uri or encoder_address(folder, contract), threads=threads)
        return cls(checkpoint, encoder)

    def warm_up(self) -> None:
        """Score synthetic requests with short and long histories, so that the first real one is not slowed by set-up."""
        self.score([_warm_up_request(self.spec_version, len(self.features), n) for n in (1, HISTORY_EVENTS)])

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
        """Score requests; result i answers request i.

        Encodes texts that are not cached, then scores users in micro-batches of similar history length. An empty sequence
        returns at once. Blocks until the last micro-batch is done: call it through asyncio.to_thread.

        Raises:
            ModelError: a request was built by another feature spec; nothing is scored.
            FloatingPointError: the model returned NaN or infinity; the process should end.
        """
        if not requests:
            return []
        probabilities = self.probabilities(requests)
        survival = self._survival(requests, probabilities.hazards)
        if not all(np.isfinite(found).all() for found in (probabilities.interest, survival, probabilities.positive)):
            raise FloatingPointError(
                f"found NaN or infinity in scores of model {self.model_version}, expected finite numbers: restart "
                "the worker; if it happens again, use another machine"
            )
        return [
            Scores(
                interests=sorted(zip(self.labels, interest, strict=True), key=lambda entry: (-entry[1], entry[0])),
                survival=curve,
                sentiment=2 * positive - 1 if _has_review(request) and unread is None else None,
                items=items,
                unread=unread,
            )
            for request, interest, curve, positive, items, unread in zip(
                requests,
                probabilities.interest.tolist(),
                survival.tolist(),
                probabilities.positive.tolist(),
                probabilities.items,
                probabilities.unread,
                strict=True,
            )
        ]

    def probabilities(self, requests: Sequence[ScoreRequest]) -> Calibrated:
        """Return the probabilities of requests as arrays; hazards are timed from the event that `returns` names.

        Raises:
            ModelError: a request was built by another feature spec.
        """
        self._check_spec(requests)
        contract = self._contract
        requests = with_item_categories(requests, self._item_categories)
        rows, texts = arrange(requests, self._known, contract.network.max_events)
        table = text_table(self.encoder, texts)
        n = len(requests)
        interest = np.empty((n, len(self.labels)))
        hazards = np.empty((n, len(self.horizons_days)))
        positive = np.empty(n)
        items: list[list[tuple[str, float]]] = [[]] * n
        with torch.inference_mode():
            for batch in plan_batches(rows.lengths.tolist(), max_padded_tokens=BATCH_PADDED_EVENTS, max_rows=BATCH_ROWS):
                picked = np.array(batch)
                logits = self._network(collate(rows, picked, table, contract.normalisation))
                if self._sentiment_terms is not None:
                    reviews = [texts[place - 1] if place else None for place in rows.reviews[picked].tolist()]
                    logits = logits._replace(sentiment=self._sentiment_terms.blend(logits.sentiment, reviews))
                found = calibrate(logits, contract.calibration)
                interest[picked], hazards[picked], positive[picked] = found.interest, found.hazards, found.positive
                if self._catalogue is not None:
                    for row, best in zip(batch, self._best_items(logits, rows, picked), strict=True):
                        items[row] = best
        unread = self._unread(requests)
        positive[[reason is not None for reason in unread]] = UNDECIDED
        return Calibrated(interest, hazards, positive, items, unread)

    def _unread(self, requests: Sequence[ScoreRequest]) -> list[Unread | None]:
        """Return why the review of each request cannot be read; None where it can, or where there is none."""
        reviews = [row for row, request in enumerate(requests) if _has_review(request)]
        found: list[Unread | None] = [None] * len(requests)
        for row, reason in zip(
            reviews, unread_reasons(self.encoder, [requests[row].text or "" for row in reviews]), strict=True
        ):
            found[row] = reason
        return found

    def _survival(self, requests: Sequence[ScoreRequest], hazards: Probabilities) -> Probabilities:
        """Return survival (N, H) from each request's event on, given the silence before it."""
        silent = self._silent_days(requests)
        return np.stack([risk(hazards, silent, days, self.horizons_days) for days in self.horizons_days], axis=1)

    def _silent_days(self, requests: Sequence[ScoreRequest]) -> Probabilities:
        """Return (N,) days of silence at each request's event: 0, or since the newest purchase if hazards run from it."""
        at = self._purchase_recency
        if self.returns == "any" or at is None:
            return np.zeros(len(requests))
        return np.array([(request.features[at] or 0.0) / DAY_MS for request in requests], np.float64)

    def _best_items(self, logits: Logits, rows: Rows, picked: NDArray[np.int64]) -> list[list[tuple[str, float]]]:
        assert self._catalogue is not None  # the caller checks it
        names, prior = self._catalogue
        near, own = counted_chances(prior, rows.items[picked], rows.lengths[picked])
        chances = mix_items(prior, torch.softmax(logits.items, dim=1).numpy(), near, own)
        top = min(TOP_ITEMS, len(names))
        best = np.argpartition(-chances, top - 1, axis=1)[:, :top]
        return [
            sorted(((names[item], float(chance[item])) for item in found), key=lambda entry: (-entry[1], entry[0]))
            for found, chance in zip(best.tolist(), chances, strict=True)
        ]

    def _check_spec(self, requests: Sequence[ScoreRequest]) -> None:
        width = len(self.features)
        for request in requests:
            if request.spec_version != self.spec_version:
                raise ModelError(
                    f"model {self.model_version} needs feature spec {self.spec_version}, request {request.request_id} "
                    f"carries {request.spec_version}: redeploy the features role, or load a model of that spec"
                )
            if len(request.features) != width:
                raise ModelError(
                    f"feature spec {self.spec_version} has {width} features, request {request.request_id} "
                    f"carries {len(request.features)}: redeploy the features role"
                )


def _has_review(request: ScoreRequest) -> bool:
    return request.kind == "review" and request.text is not None


def text_table(encoder: Encoder, texts: list[str]) -> Vectors:
    """Return the (1 + N, D) vectors of the texts that `arrange` numbers; row 0 is no text."""
    return np.concatenate([np.zeros((1, encoder.dimension), np.float32), encoder.encode(texts)])


def calibrate(logits: Logits, calibration: Calibration) -> Calibrated:
    """Convert logits to calibrated probabilities in [0, 1]."""
    hazards = logits.hazards.double().numpy()
    scales = np.array([platt.scale for platt in calibration.hazards])
    biases = np.array([platt.bias for platt in calibration.hazards])
    return Calibrated(
        _probability(logits.interest.double().numpy(), calibration.interest),
        sigmoid(hazards * scales + biases),
        _probability(logits.sentiment.double().numpy(), calibration.sentiment),
    )


def sigmoid(values: Probabilities) -> Probabilities:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * values))


def _probability(logits: Probabilities, platt: Platt) -> Probabilities:
    return sigmoid(logits * platt.scale + platt.bias)


def _warm_up_request(spec_version: str, features: int, events: int) -> ScoreRequest:
    entry = HistoryEntry(0, KINDS[0], None, None, 0, "warm up")
    return ScoreRequest(
        request_id="warm-up",
        user_id="warm-up",
        event_id="warm-up",
        event_time_ms=0,
        kind="review",
        due="warm-up",
        source=SourcePosition(topic="warm-up", partition=0, offset=0, timestamp_ms=0),
        guard={},
        spec_version=spec_version,
        features=[None] * features,
        history=[entry] * events,
        categories=[],
        timings=Timings(sent_ms=0, folded_ms=0),
        text="warm up",
    )
