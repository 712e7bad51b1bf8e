import random
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from models.features.spec import FEATURE_SPEC, KINDS
from models.network.encoder import Encoder
from models.network.encoder_parts import RANDOM_TINY
from models.network.inputs import Normalisation
from models.network.network import Logits, Network, NetworkConfig
from models.network.rhythm import RHYTHM_NAMES
from models.serving.checkpoint import Calibration, Checkpoint, Contract, Manifest, Platt, Provenance, load_checkpoint
from models.serving.scorer import Scorer, calibrate
from schemas.codec import decode, encode
from schemas.errors import ModelError
from schemas.scoring import ScoreRequest
from schemas.signals import Unread
from tests.builders import NOW_MS, ROOT, history_entry, score_request

LABELS = ["books", "garden", "kitchen"]
HORIZONS = [1, 3, 7, 14, 30, 60]
WORDS = ("blue", "mug", "tent", "shoes", "dog", "bed", "lamp", "pan", "steel", "with", "lid", "and", "very", "long", "title")


def request(events: int = 5, **changes: Any) -> ScoreRequest:
    """A request of the current feature spec, random but for a seed of its own."""
    rng = random.Random(events)
    history = [
        history_entry(
            event_time_ms=NOW_MS - (events - i) * rng.randint(1_000, 10**7),
            kind=rng.choice(KINDS),
            category=rng.choice([None, *LABELS]),
            amount=rng.randint(0, 10**5),
            text=" ".join(rng.choices(WORDS, k=rng.randint(1, 12))),
        )
        for i in range(events)
    ]
    features = [rng.choice([None, rng.expovariate(1e-4)]) for _ in FEATURE_SPEC.names]
    fields: dict[str, Any] = {"spec_version": FEATURE_SPEC.version, "features": features, "history": history}
    return score_request(**fields | changes)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """A scorer with random weights, strong enough that differences would show."""
    encoder, numbers = Encoder.load(RANDOM_TINY), len(FEATURE_SPEC.names) + len(RHYTHM_NAMES)
    config = NetworkConfig(text_dimension=encoder.dimension, numbers=numbers, labels=len(LABELS), horizons=len(HORIZONS))
    contract = Contract(
        spec_version=FEATURE_SPEC.version,
        rhythm=list(RHYTHM_NAMES),
        returns="any",
        encoder_uri=encoder.uri,
        encoder_id=encoder.encoder_id,
        labels=LABELS,
        horizons_days=HORIZONS,
        network=config,
        normalisation=Normalisation([4.0] * numbers, [2.0] * numbers),
        calibration=Calibration(interest=Platt(3.0, 0.1), hazards=[Platt(3.0, -0.5)] * len(HORIZONS), sentiment=Platt(3.0)),
    )
    provenance = Provenance(command="", created_at="", data_fingerprint="", settings={}, metrics={}, licence="")
    manifest = Manifest(format_version=1, model_version="test-1", files={}, contract=contract, provenance=provenance)
    torch.manual_seed(0)
    return Scorer(Checkpoint(Network(config).eval(), manifest), encoder)


def test_whatever_a_decoded_request_may_hold_is_scored(scorer: Scorer) -> None:
    width, last_ms = len(FEATURE_SPEC.names), 4_102_444_800_000
    history = [history_entry(event_time_ms=at, amount=amount) for at in (0, last_ms) for amount in (-(2**53), 2**53)]
    extreme = [request(history=history, features=[value] * width, event_time_ms=0) for value in (-1e308, 1e308, None)]

    read = [decode(ScoreRequest, encode(one)) for one in extreme]

    assert all(0 <= probability <= 1 for scores in scorer.score(read) for probability in scores.survival)


def test_a_scorer_that_knows_items_scores_as_if_their_events_carried_the_category(scorer: Scorer) -> None:
    items = {"mug": LABELS[0], "rake": LABELS[1]}
    bare = [history_entry(item_id=item, category=None, text=None) for item in ("mug", "rake", "mug", "lamp")]
    named = [msgspec.structs.replace(entry, category=items.get(entry.item_id or "")) for entry in bare]
    provenance = Provenance(command="", created_at="", data_fingerprint="", settings={}, metrics={}, licence="")
    manifest = Manifest(format_version=2, model_version="test-1", files={}, contract=scorer._contract, provenance=provenance)
    knows = Scorer(Checkpoint(scorer._network, manifest, item_categories=items), scorer.encoder)

    found = knows.score([request(history=bare, categories=[])])

    assert found == scorer.score([request(history=named, categories=[(LABELS[0], 2 / 3), (LABELS[1], 1 / 3)])])
    assert found != scorer.score([request(history=bare, categories=[])])


def test_scores_do_not_depend_on_batch_mates(scorer: Scorer) -> None:
    requests = [request(i % 51, kind=KINDS[i % len(KINDS)], text="Lovely mug") for i in range(64)]

    together = scorer.score(requests)
    alone = [scorer.score([one])[0] for one in requests]

    assert {scores.survival[-1] for scores in together} != {together[0].survival[-1]}
    for one, many in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.survival, many.survival, atol=2e-3)
        assert dict(one.interests) == pytest.approx(dict(many.interests), abs=2e-3)
        assert one.sentiment == pytest.approx(many.sentiment, abs=2e-3)


def test_the_same_requests_score_the_same_again(scorer: Scorer) -> None:
    requests = [request(i) for i in (7, 50, 0, 20)]

    assert scorer.score(requests) == scorer.score(requests)


def test_every_label_is_scored_most_probable_first_and_survival_only_falls(scorer: Scorer) -> None:
    for scores in scorer.score([request(i) for i in range(20)]):
        probabilities = [probability for _, probability in scores.interests]
        assert sorted(label for label, _ in scores.interests) == LABELS
        assert probabilities == sorted(probabilities, reverse=True)
        assert len(scores.survival) == len(HORIZONS)
        assert scores.survival == sorted(scores.survival, reverse=True)
        assert all(0 <= p <= 1 for p in [*probabilities, *scores.survival])


def test_only_a_review_with_a_text_has_a_sentiment(scorer: Scorer) -> None:
    review, silent, search = scorer.score(
        [request(kind="review", text="Awful mug"), request(kind="review"), request(kind="search", text="awful mug")]
    )

    assert review.sentiment is not None
    assert -1 <= review.sentiment <= 1
    assert silent.sentiment is None
    assert search.sentiment is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", Unread.BLANK), (" \x00", Unread.BLANK), ("9/10", Unread.NO_WORDS), ("质量太差", Unread.UNKNOWN_TOKENS)],
)
def test_a_review_that_the_encoder_cannot_read_has_no_sentiment_but_a_reason(scorer: Scorer, text: str, reason: Unread) -> None:
    requests = [request(kind="review", text=text), request(kind="review", text="Awful mug"), request(kind="search", text=text)]

    unread, read, search = scorer.score(requests)

    assert (unread.sentiment, unread.unread) == (None, reason)
    assert (read.sentiment is None, read.unread, search.sentiment, search.unread) == (False, None, None, None)
    found = scorer.probabilities(requests)
    assert (found.unread, found.positive[0]) == ([reason, None, None], 0.5)


def test_full_width_text_scores_as_plain_text(scorer: Scorer) -> None:
    wide = scorer.score(
        [request(kind="review", text="Ａｗｆｕｌ ｍｕｇ"), request(history=[history_entry(text="Ｂｌｕｅ ｍｕｇ")])]
    )

    assert wide == scorer.score([request(kind="review", text="Awful mug"), request(history=[history_entry(text="Blue mug")])])


def test_a_request_of_another_feature_spec_is_refused_with_all_others(scorer: Scorer) -> None:
    with pytest.raises(ModelError, match=f"needs feature spec {FEATURE_SPEC.version}, request request-1 carries old"):
        scorer.score([request(), request(spec_version="old")])
    with pytest.raises(ModelError, match="carries 2"):
        scorer.score([request(features=[1.0, None])])


def test_no_requests_give_no_scores_and_warming_up_leaves_no_trace(scorer: Scorer) -> None:
    before = scorer.score([request()])

    scorer.warm_up()

    assert scorer.score([]) == []
    assert scorer.score([request()]) == before


def test_calibration_scales_and_shifts_every_horizon_by_itself() -> None:
    logits = Logits(torch.tensor([[0.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([2.0]), *[torch.zeros(1, 0)] * 2)
    calibration = Calibration(interest=Platt(1.0, 1.0), hazards=[Platt(1.0, 0.0), Platt(2.0, -2.0)], sentiment=Platt(0.5, 0.0))

    calibrated = calibrate(logits, calibration)

    np.testing.assert_allclose(calibrated.interest, [[1 / (1 + np.exp(-1))]])
    np.testing.assert_allclose(calibrated.hazards, [[1 / (1 + np.exp(-1)), 0.5]])
    np.testing.assert_allclose(calibrated.positive, [1 / (1 + np.exp(-1))])


def test_an_encoder_the_checkpoint_was_not_trained_with_is_refused(scorer: Scorer) -> None:
    contract = msgspec.structs.replace(scorer._contract, encoder_id="0" * 64)
    provenance = Provenance(command="", created_at="", data_fingerprint="", settings={}, metrics={}, licence="")
    manifest = Manifest(format_version=1, model_version="test-2", files={}, contract=contract, provenance=provenance)

    with pytest.raises(ModelError, match="needs encoder 000000000000"):
        Scorer(Checkpoint(scorer._network, manifest), scorer.encoder)


def test_the_committed_checkpoint_is_of_this_feature_spec_and_scores() -> None:
    assert load_checkpoint(ROOT / "models/checkpoints/demo").manifest.contract.spec_version == FEATURE_SPEC.version
    scorer = Scorer.load(ROOT / "models/checkpoints/demo")
    scorer.warm_up()

    good, bad = scorer.score([request(kind="review", text=text) for text in ("I love it. Perfect!", "Awful. It broke.")])

    assert 30 in scorer.horizons_days
    assert good.sentiment is not None
    assert bad.sentiment is not None
    assert good.sentiment > 0.5 > -0.5 > bad.sentiment
