"""What an encoder cannot read has no sentiment: the same check in training, evaluation and scoring."""

from collections import Counter

import msgspec
import numpy as np
import pytest

from models.data import clean_text as clean_text_module
from models.data.clean_text import clean_text
from models.data.examples import ReviewExample, Slice
from models.evaluation import text_evaluation
from models.evaluation.candidates import Candidate, Setup
from models.evaluation.text_evaluation import evaluate_texts
from models.linear import sentiment_terms
from models.network import encoder as encoder_module
from models.network import inputs
from models.network.encoder import Encoder
from models.network.encoder_parts import MINILM, RANDOM_TINY
from models.network.inputs import arrange, vocabulary
from models.network.readable import unread_reasons
from models.serving.scorer import text_table
from models.text import cleaning, text_batches
from models.training import training_data
from models.training.training_data import rated_reviews
from schemas.signals import Unread
from tests.builders import history_entry, score_request
from tests.made_examples import made_reviews

FULL_WIDTH = "Ｇｒｅａｔ ｌａｍｐ，Ｉ ｌｏｖｅ ｉｔ"
PLAIN = "Great lamp,I love it"


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return Encoder.load(MINILM)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        FULL_WIDTH,
        "Tolle Lampe, ich liebe sie.",
        "Très déçu",
        "ok",
        "I am in a U.S. B & B",
        "\U0001f621",
        "\u2764\ufe0f",
        "★★★★☆",
        "Great 商品, it works perfectly and it also looks very good",
    ],
)
def test_an_english_encoder_reads_its_letters_and_the_names_of_emoji(minilm: Encoder, text: str) -> None:
    assert unread_reasons(minilm, [text]) == [None]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Unread.BLANK),
        ("   ", Unread.BLANK),
        ("\x00\x00", Unread.BLANK),
        ("!!!", Unread.BLANK),
        ("5/5", Unread.NO_WORDS),
        ("100 %", Unread.NO_WORDS),
        ("a" * 2000, Unread.NO_WORDS),
        ("非常好,我很喜欢,质量不错。", Unread.UNKNOWN_TOKENS),
        ("منتج رائع أحبه", Unread.UNKNOWN_TOKENS),
        ("Отличный товар, мне очень нравится", Unread.UNKNOWN_TOKENS),
        ("Εξαιρετικό προϊόν, το λατρεύω", Unread.UNKNOWN_TOKENS),
        ("아주 좋은 제품입니다", Unread.UNKNOWN_TOKENS),
        ("बहुत अच्छा उत्पाद, मुझे पसंद है", Unread.UNKNOWN_TOKENS),
        ("מוצר נהדר, אני אוהב אותו", Unread.UNKNOWN_TOKENS),
        ("สินค้าดีมาก ชอบมาก", Unread.UNKNOWN_TOKENS),
        ("とても良い商品です", Unread.UNKNOWN_TOKENS),
    ],
)
def test_an_english_encoder_names_why_it_cannot_read_a_text(minilm: Encoder, text: str, reason: Unread) -> None:
    assert unread_reasons(minilm, [PLAIN, text]) == [None, reason]


def test_a_vocabulary_of_letters_spells_every_word_and_still_reads() -> None:
    assert unread_reasons(Encoder.load(RANDOM_TINY), [PLAIN, "好东西"]) == [None, Unread.UNKNOWN_TOKENS]


@pytest.mark.parametrize(
    "module", [encoder_module, inputs, sentiment_terms, training_data, text_batches, text_evaluation], ids=lambda m: m.__name__
)
def test_training_evaluation_and_scoring_clean_with_one_function(module: object) -> None:
    assert vars(module)["clean_text"] is clean_text
    assert cleaning.cleaned is clean_text_module.cleaned


def test_a_review_has_one_vector_whichever_way_it_reaches_the_encoder() -> None:
    encoder = Encoder.load(RANDOM_TINY)
    entries = [history_entry(text="\x00 ", category="Ｌａｍｐ"), history_entry(text="Ｌａｍｐ", category=None)]
    asked = score_request(kind="review", text=FULL_WIDTH, review_id="r", history=entries)
    review = ReviewExample(text=FULL_WIDTH, slice=Slice.TRAIN, user_id="u", event_time_ms=0, language="en", positive=True)

    rows, texts = arrange([asked], vocabulary(["kitchen"]), 4)
    learnt = rated_reviews(encoder, [review], Slice.TRAIN)

    assert texts == ["Lamp", PLAIN] == [texts[0], *learnt.texts]
    assert rows.texts[0, :2].tolist() == [1, 1]
    served = text_table(encoder, texts)[rows.reviews[0]]
    np.testing.assert_array_equal(served, learnt.vectors[0].numpy())
    np.testing.assert_array_equal(served, encoder.encode([PLAIN])[0])


def test_training_leaves_out_the_reviews_that_scoring_cannot_read_and_counts_them() -> None:
    texts = ("good lamp", "  ", "7/10", "质量太差了", "bad lamp")
    reviews = [
        ReviewExample(text=text, slice=Slice.TRAIN, user_id="u", event_time_ms=0, language="en", positive=text != "bad lamp")
        for text in texts
    ]

    found = rated_reviews(Encoder.load(RANDOM_TINY), reviews, Slice.TRAIN)

    assert (found.texts, found.positive.tolist()) == (["good lamp", "bad lamp"], [1, 0])
    assert found.unread == Counter({Unread.BLANK: 1, Unread.NO_WORDS: 1, Unread.UNKNOWN_TOKENS: 1})


def test_an_evaluation_counts_the_reviews_without_sentiment_by_reason() -> None:
    reviews = made_reviews()
    train = [review for review in reviews if review.slice is not Slice.TEST]
    test = [review for review in reviews if review.slice is Slice.TEST]
    unread: list[Unread | None] = [Unread.BLANK, Unread.UNKNOWN_TOKENS, Unread.UNKNOWN_TOKENS, *[None] * (len(test) - 3)]
    served = Candidate(positive=np.array([float(review.positive or 0) for review in test]), unread=unread)

    [(head, _)] = evaluate_texts(train, test, {"model": served}, Setup(served="model", replicates=2))
    [(without, _)] = evaluate_texts(
        train, test, {"model": msgspec.structs.replace(served, unread=())}, Setup(served="model", replicates=2)
    )

    assert head.notes == [
        f"3 of {len(test)} reviews cannot be read, have no sentiment when served, and count as 0: blank 1, unknown_tokens 2"
    ]
    assert without.notes == []
