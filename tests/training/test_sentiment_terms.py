"""What words say of a review's sentiment is blended in where validation wants it, stored to the byte and served as trained."""

import hashlib
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from models.data.examples import ReviewExample, Slice
from models.evaluation.candidates import Candidate, Setup
from models.evaluation.served_scores import ALONE, SERVED, load_candidates
from models.evaluation.text_evaluation import evaluate_texts
from models.features.spec import FEATURE_SPEC
from models.linear.linear_model import log_loss
from models.linear.sentiment_terms import TERM_WEIGHTS, TERMS, SentimentTerms, read_terms, terms_contents
from models.linear.tfidf import MAX_TERMS, Terms, characters, words
from models.network.encoder import Encoder
from models.network.encoder_parts import RANDOM_TINY
from models.network.network import Network, NetworkConfig
from models.serving.calibration import fit_platt
from models.serving.checkpoint import MANIFEST, Manifest, _read_sentiment_terms, load_checkpoint, save_checkpoint
from models.serving.checkpoint_files import RETRAIN, FileFacts
from models.serving.scorer import Scorer, sigmoid
from models.training.blending import LEAST_TO_CHOOSE, fit_sentiment, fit_sentiment_terms, sentiment_logits
from models.training.loop import LoopConfig
from models.training.optimisation import OptimiserConfig
from models.training.presets import TrainConfig
from models.training.train_user_model import Trained, train
from models.training.training_data import Reviews, rated_reviews
from schemas.errors import ModelError
from tests.builders import score_request
from tests.checkpoints import flip_a_byte
from tests.made_examples import made_examples, made_reviews

DIMENSION = 4


def review(seed: int, kind: Slice) -> ReviewExample:
    """The last word says the sentiment, long after the encoder has stopped reading."""
    happy, rng = seed % 2 == 0, random.Random(seed)
    filler = " ".join(rng.choices(["the", "mug", "that", "came", "with", "blue", "lid"], k=300))
    text = f"{filler} {'lovely' if happy else 'broken'} {seed}"
    return ReviewExample(text=text, slice=kind, user_id=str(seed), event_time_ms=0, language="en", positive=happy)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(RANDOM_TINY)


@pytest.fixture(scope="module")
def reviews() -> list[ReviewExample]:
    return [review(60 * place + row, kind) for place, kind in enumerate(Slice) for row in range(60)]


@pytest.fixture(scope="module")
def trained(reviews: list[ReviewExample], encoder: Encoder) -> Trained:
    config = TrainConfig(
        loop=LoopConfig(epochs=1), optimiser=OptimiserConfig(), batch_rows=32, width=16, blocks=1, heads=2, max_events=8
    )
    return train(made_examples(), reviews, "any", encoder, config)


def saved(trained: Trained, folder: Path, **changes: Any) -> Path:
    provenance = load_checkpoint(Path(__file__).parents[2] / "models" / "checkpoints" / "demo").manifest.provenance
    provenance = msgspec.structs.replace(provenance, settings={})
    parts = {"network": trained.network, "contract": trained.contract, "sentiment_terms": trained.sentiment_terms} | changes
    save_checkpoint(folder, name="terms", provenance=provenance, **parts)
    return folder


def asked(text: str | None, kind: str = "review") -> Any:
    return score_request(
        spec_version=FEATURE_SPEC.version, features=[None] * len(FEATURE_SPEC.names), kind=kind, text=text, history=[]
    )


def two_sided(seed: int, rows: int, told_by_words: float, told_by_vectors: float) -> Reviews:
    """Sentiment that words and vectors each tell a part of, independently of each other."""
    rng = np.random.default_rng(seed)
    said, drawn = rng.integers(0, 2, rows), rng.normal(size=(rows, DIMENSION))
    logits = told_by_words * (2 * said - 1) + told_by_vectors * drawn[:, 0]
    texts = [f"mug {('bad', 'good')[word]} {rng.integers(100)}" for word in said]
    vectors = torch.from_numpy(drawn).float()
    return Reviews(texts, vectors, torch.from_numpy(rng.random(rows) < sigmoid(logits)).float())


def fitted(told_by_words: float, told_by_vectors: float, held_out: int = 400) -> tuple[Network, dict[Slice, Reviews], Any]:
    torch.manual_seed(0)
    network = Network(NetworkConfig(text_dimension=DIMENSION, numbers=2, labels=1, horizons=1, width=4, heads=1, blocks=1))
    sizes = {Slice.TRAIN: 1500, Slice.VALIDATION: held_out, Slice.CALIBRATION: 10, Slice.TEST: 10}
    texts = {kind: two_sided(seed, size, told_by_words, told_by_vectors) for seed, (kind, size) in enumerate(sizes.items())}
    fit_sentiment(network, texts)
    return network, texts, fit_sentiment_terms(network, texts)


def loss_of(logits: torch.Tensor, reviews: Reviews) -> float:
    good = torch.sigmoid(logits.double()).numpy()
    return log_loss(np.column_stack([1 - good, good]), reviews.positive.long().numpy())


def test_the_blend_that_validation_picks_is_better_than_words_and_than_vectors_alone() -> None:
    network, texts, (terms, chosen) = fitted(2.0, 2.0)

    held_out = texts[Slice.VALIDATION]
    losses = {
        share: loss_of(sentiment_logits(network, held_out, SentimentTerms(terms.terms, share)), held_out)
        for share in (0.0, 1.0)
    }
    blended = loss_of(sentiment_logits(network, held_out, terms), held_out)

    assert 0 < terms.network_share == chosen["network_share"] < 1
    assert blended < min(losses.values()) - 0.01
    assert blended == pytest.approx(chosen["validation_loss"][f"{terms.network_share:g}"], abs=1e-5)


def test_terms_that_say_nothing_more_are_not_kept() -> None:
    _, _, (terms, chosen) = fitted(0.0, 4.0)

    assert terms is None
    assert chosen["network_share"] == 1
    assert fitted(4.0, 0.0)[2][0].network_share < 0.5


def test_without_held_out_reviews_nothing_is_chosen() -> None:
    assert fitted(4.0, 0.0, held_out=0)[2] == (None, {})


def test_held_out_reviews_of_one_sentiment_choose_nothing() -> None:
    network, texts, (terms, _) = fitted(4.0, 0.0)
    held_out = texts[Slice.VALIDATION]
    good = held_out.positive > 0
    happy = Reviews([text for text, kept in zip(held_out.texts, good, strict=True) if kept], held_out.vectors[good], good[good])

    assert terms is not None
    assert fit_sentiment_terms(network, texts | {Slice.VALIDATION: happy}) == (None, {})


def test_a_handful_of_held_out_reviews_chooses_nothing() -> None:
    network, texts, _ = fitted(4.0, 0.0)
    all_held_out = texts[Slice.VALIDATION]

    def few(count: int) -> dict[Slice, Reviews]:
        of_both = Reviews(all_held_out.texts[:count], all_held_out.vectors[:count], all_held_out.positive[:count])
        assert len(of_both.positive.unique()) == 2
        return texts | {Slice.VALIDATION: of_both}

    assert fit_sentiment_terms(network, few(LEAST_TO_CHOOSE))[0] is not None
    assert fit_sentiment_terms(network, few(LEAST_TO_CHOOSE - 1)) == (None, {})


def test_the_same_reviews_give_the_same_terms() -> None:
    once, again = (terms_contents(fitted(2.0, 2.0)[2][0]) for _ in range(2))

    assert once == again


def test_a_sentiment_that_the_encoder_cannot_read_is_learnt_from_terms(trained: Trained) -> None:
    assert trained.sentiment_terms is not None
    assert trained.metrics["sentiment"]["accuracy"] > 0.95
    assert trained.metrics["choices"]["sentiment"]["network_share"] == trained.sentiment_terms.network_share < 0.5


def test_the_blend_is_what_is_calibrated(trained: Trained, reviews: list[ReviewExample], encoder: Encoder) -> None:
    asked = rated_reviews(encoder, reviews, Slice.CALIBRATION)
    logits = sentiment_logits(trained.network, asked, trained.sentiment_terms).numpy()

    assert trained.contract.calibration.sentiment == fit_platt(logits, asked.positive.double().numpy())


def test_the_scorer_says_of_a_review_what_training_said(
    trained: Trained, reviews: list[ReviewExample], encoder: Encoder, tmp_path: Path
) -> None:
    test = [review for review in reviews if review.slice is Slice.TEST]
    logits = sentiment_logits(trained.network, rated_reviews(encoder, test, Slice.TEST), trained.sentiment_terms)
    platt = trained.contract.calibration.sentiment

    scores = Scorer.load(saved(trained, tmp_path), encoder=encoder).score([asked(review.text) for review in test])

    expected = 2 * sigmoid(platt.scale * logits.numpy() + platt.bias) - 1
    assert [one.sentiment for one in scores] == pytest.approx(expected.tolist(), abs=1e-6)
    assert scores[0].sentiment - scores[1].sentiment > 1  # type: ignore[operator]


def test_white_space_around_a_review_changes_nothing(trained: Trained, encoder: Encoder, tmp_path: Path) -> None:
    scorer = Scorer.load(saved(trained, tmp_path), encoder=encoder)

    bare, spaced = scorer.score([asked("the mug came broken"), asked("\n the mug came broken  \n\n")])

    assert spaced.sentiment == pytest.approx(bare.sentiment, abs=1e-6)


def test_an_evaluation_measures_what_is_served_and_says_the_share(
    trained: Trained, reviews: list[ReviewExample], tmp_path: Path
) -> None:
    found = load_candidates(saved(trained, tmp_path), made_examples(), reviews, (30,), "any")

    served, alone = found.candidates[SERVED].positive, found.candidates[ALONE].positive
    assert served is not None
    assert alone is not None
    assert trained.sentiment_terms is not None
    positive = np.array([review.positive for review in reviews if review.slice is Slice.TEST])
    assert served[positive].min() > served[~positive].max()
    assert alone[positive].min() < alone[~positive].max()
    assert f"sentiment {trained.sentiment_terms.network_share:.2f}" in found.facts["network's share of the blend"]


def test_the_baseline_of_a_report_learns_from_both_earlier_slices() -> None:
    made = made_reviews()
    late = [
        msgspec.structs.replace(one, slice=Slice.VALIDATION) if one.slice is Slice.TRAIN and not one.positive else one
        for one in made
    ]
    known, asked = ([one for one in late if (one.slice is Slice.TEST) is test] for test in (False, True))
    guess = Candidate(positive=np.full(len(asked), 0.5))

    for taught in (known, [one for one in made if one.slice is Slice.TRAIN]):
        (head, _), *_ = evaluate_texts(taught, asked, {"model": guess}, Setup(served="model", replicates=20))
        assert (head.scorers["tfidf_logistic"].metrics["auc"].value or 0) > 0.85


def test_only_reviews_with_a_text_are_cut_into_terms(trained: Trained, encoder: Encoder, tmp_path: Path) -> None:
    assert trained.sentiment_terms is not None
    cut: list[str] = []

    def seen(text: str) -> list[str]:
        cut.append(text)
        return characters(text)

    checkpoint = load_checkpoint(saved(trained, tmp_path))
    terms = trained.sentiment_terms._replace(terms=trained.sentiment_terms.terms._replace(cut=seen))
    requests = [asked("lovely", "search"), asked(None), asked("broken"), asked("lovely", "click"), asked("")]
    without = Scorer(checkpoint._replace(sentiment_terms=None), encoder).probabilities(requests).positive

    found = Scorer(checkpoint._replace(sentiment_terms=terms), encoder).probabilities(requests).positive

    assert cut == ["broken"]
    assert (found != without).tolist() == [False, False, True, False, False]


def test_a_sentiment_that_is_no_number_is_not_published(trained: Trained, encoder: Encoder, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(saved(trained, tmp_path))
    assert checkpoint.sentiment_terms is not None
    broken = checkpoint.sentiment_terms.terms._replace(bias=np.array([np.nan]))
    scorer = Scorer(checkpoint._replace(sentiment_terms=checkpoint.sentiment_terms._replace(terms=broken)), encoder)

    with pytest.raises(FloatingPointError, match="expected finite numbers: restart"):
        scorer.score([asked("lovely")])


def test_terms_come_back_byte_for_byte_and_belong_to_the_model_version(trained: Trained, tmp_path: Path) -> None:
    assert trained.sentiment_terms is not None
    found = load_checkpoint(saved(trained, tmp_path / "with"))
    bare = load_checkpoint(saved(trained, tmp_path / "without", sentiment_terms=None))

    assert found.sentiment_terms is not None
    assert terms_contents(found.sentiment_terms) == terms_contents(trained.sentiment_terms)
    assert {TERMS, TERM_WEIGHTS} < found.manifest.files.keys()
    assert bare.sentiment_terms is None
    assert bare.manifest.model_version != found.manifest.model_version


@pytest.mark.parametrize("file", [TERMS, TERM_WEIGHTS])
def test_terms_that_were_altered_are_refused(trained: Trained, tmp_path: Path, file: str) -> None:
    flip_a_byte(saved(trained, tmp_path) / file)

    with pytest.raises(ModelError, match=rf"{file} has \d+ bytes of SHA-256"):
        load_checkpoint(tmp_path)


def test_terms_that_are_no_terms_are_refused_with_one_remedy(trained: Trained, tmp_path: Path) -> None:
    folder = saved(trained, tmp_path)
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    (folder / TERMS).write_bytes(b"{}")
    files = manifest.files | {TERMS: FileFacts(sha256=hashlib.sha256(b"{}").hexdigest(), size=2)}

    with pytest.raises(ModelError, match="cannot be read") as refused:
        _read_sentiment_terms(folder, msgspec.structs.replace(manifest, files=files))

    assert str(refused.value).startswith(f"{folder}: ")
    assert str(refused.value).count(RETRAIN) == 1


def test_a_manifest_that_names_half_of_the_terms_is_refused(trained: Trained, tmp_path: Path) -> None:
    path = saved(trained, tmp_path) / MANIFEST
    manifest = msgspec.json.decode(path.read_bytes())
    del manifest["files"][TERMS]
    path.write_bytes(msgspec.json.encode(manifest))

    with pytest.raises(ModelError, match="names files"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"idf": np.array([0.0, 1.0])}, "found an idf of 0"),
        ({"idf": np.ones(3)}, r"found idf of terms as float64 \(3,\), expected float64 \(2,\)"),
        ({"weights": np.ones(2, np.float32)}, "found weights of terms as float32"),
        ({"bias": np.array([np.nan])}, "found bias of terms with values that are not finite"),
        ({"network_share": np.array([1.5])}, r"found the network's share 1\.5"),
        ({"surprise": np.ones(1)}, "'surprise'"),
    ],
)
def test_terms_that_do_not_fit_each_other_are_refused(changes: dict[str, Any], text: str) -> None:
    terms = Terms(characters, {"a": 0, "b": 1}, np.ones(2), np.ones((1, 2)), np.ones(1), np.array([0, 1]))
    contents = terms_contents(SentimentTerms(terms, 0.5))
    arrays = safetensors.numpy.load(contents[TERM_WEIGHTS])

    with pytest.raises(ModelError, match=text):
        read_terms(contents | {TERM_WEIGHTS: safetensors.numpy.save(arrays | changes)})
    with pytest.raises(ModelError, match="BF16"):
        read_terms(contents | {TERM_WEIGHTS: safetensors.torch.save({"idf": torch.ones(2, dtype=torch.bfloat16)})})
    with pytest.raises(ModelError, match="cannot be read"):
        read_terms(contents | {TERMS: b'{"cut": "words", "terms": ["\xff"]}'})
    for table in (b"{}", b'{"cut": "characters", "terms": ["a", "a"]}', b'{"cut": "eval", "terms": ["a", "b"]}'):
        with pytest.raises(ModelError, match="cannot be read|cut by"):
            read_terms(contents | {TERMS: table})


@pytest.mark.parametrize("count", [0, MAX_TERMS + 1])
def test_no_terms_and_more_than_the_limit_are_refused(count: int) -> None:
    columns = {str(column): column for column in range(count)}
    terms = Terms(words, columns, np.ones(count), np.ones((1, count)), np.ones(1), np.array([0, 1]))

    with pytest.raises(ModelError, match=f"found {count} terms cut by 'words', expected 1 to {MAX_TERMS}"):
        read_terms(terms_contents(SentimentTerms(terms, 0.5)))
