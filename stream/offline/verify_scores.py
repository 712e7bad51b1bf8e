"""Score recorded requests again, and measure how far the new scores differ from the recorded signals.

Each request is scored in batches of two sizes, because the other rows of a batch change the last bits of a score. Scoring
blocks. This module knows no log. Start at score_differences.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from schemas.scoring import ScoreRequest
from schemas.signals import ChurnRisk, Interest, ReviewSentiment, Signal
from stream.roles.scorer_fold import render_signals

if TYPE_CHECKING:  # a verification without a model never loads torch
    from models.serving.scorer import Scorer, Scores

BATCHES = (8, 64)  # requests per batch
TOLERANCE = 2e-3
NOT_COMPARABLE = 1.0  # the difference of two signals without the same labels, horizons or review


class Scored(Struct, frozen=True):
    """A request's recorded signals: which models made them, and how far they differ from new scores.

    `difference` is the largest over signals and batch sizes. It is None where nothing was compared: no signal was
    recorded, no model was loaded, or another model made the signals.
    """

    signals: int
    model_versions: tuple[str, ...]
    difference: float | None


def score_differences(
    requests: Sequence[ScoreRequest], signals: Sequence[Sequence[Signal]], scorer: "Scorer | None"
) -> list[Scored]:
    """Compare signals with new scores of their requests; result i answers request i."""
    largest: list[float | None] = [None] * len(requests)
    if scorer is not None:
        own = [
            i
            for i, (request, made) in enumerate(zip(requests, signals, strict=True))
            if request.spec_version == scorer.spec_version and any(s.model_version == scorer.model_version for s in made)
        ]
        for size in BATCHES:
            for batch in (own[first : first + size] for first in range(0, len(own), size)):
                for i, scores in zip(batch, scorer.score([requests[i] for i in batch]), strict=True):
                    found = difference(requests[i], scores, signals[i], scorer)
                    largest[i] = max(found, largest[i] or 0.0)
    return [
        Scored(len(made), tuple(sorted({signal.model_version for signal in made})), found)
        for made, found in zip(signals, largest, strict=True)
    ]


def difference(request: ScoreRequest, scores: "Scores", recorded: Sequence[Signal], scorer: "Scorer") -> float:
    """Return the largest difference between a request's scores and the recorded signals of the same model."""
    rendered = render_signals(
        request,
        scores,
        scorer=scorer,
        received_ms=0,
        scored_ms=0,
    )
    rescored = {output.message.signal_id: output.message for output in rendered if isinstance(output.message, Signal)}
    own = [signal for signal in recorded if signal.model_version == scorer.model_version]
    return max(distance(signal, rescored.get(signal.signal_id)) for signal in own)


def distance(recorded: Signal, rescored: Signal | None) -> float:
    """Return the largest difference between the numbers of two signals, NOT_COMPARABLE where they cannot be compared."""
    match recorded, rescored:
        case Interest(), Interest():
            before = {score.label: score.probability for score in recorded.interests}
            now = {score.label: score.probability for score in rescored.interests}
            if before.keys() == now.keys():
                return max([abs(before[label] - now[label]) for label in now], default=0.0)
        case ChurnRisk(), ChurnRisk() if recorded.horizons_days == rescored.horizons_days:
            pairs = zip((*recorded.survival, recorded.probability), (*rescored.survival, rescored.probability), strict=False)
            return max(abs(a - b) for a, b in pairs) if len(recorded.survival) == len(rescored.survival) else NOT_COMPARABLE
        case ReviewSentiment(), ReviewSentiment() if recorded.review_id == rescored.review_id:
            if recorded.sentiment is not None and rescored.sentiment is not None:
                return abs(recorded.sentiment - rescored.sentiment)
            return 0.0 if recorded.sentiment is rescored.sentiment else NOT_COMPARABLE
    return NOT_COMPARABLE
