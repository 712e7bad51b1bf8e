from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from models.data.clean_text import Change, clean_text
from models.data.examples import ReviewExample, Slice
from models.evaluation.baselines.review_baselines import tf_idf
from models.linear.tfidf import singly_and_paired
from models.linear.word_lists import bears_opinion, is_negation, stop_words
from models.linear.words import Part, analysers, joint, pieces, tagged, words
from models.network.encoder import Encoder
from models.network.encoder_parts import MINILM
from models.text.augmentation import (
    AugmentationConfig,
    augment_reviews,
    augment_text,
    delete,
    insert,
    load_translation,
    replace,
    swap,
)
from models.text.cleaning import Drop, DropConfig, clean_reviews, worth_training
from models.text.synonyms import word_neighbours
from models.training.history_augmentation import crop, jitter, mask, reorder
from schemas.errors import TrainingError
from schemas.scoring import HistoryEntry

STRONG = AugmentationConfig(swap_share=0.5, delete_share=0.4, insert_share=0.5, replace_share=0.5)
NEIGHBOURS = {
    "kettle": ("pot", "not", "bad"),
    "parcel": ("package", "box"),
    "arrived": ("came",),
    "yesterday": ("today",),
    "房间": ("客房", "不"),
    "酒店": ("宾馆",),
}
PROSE = """the kettle is not good and parcel arrived yesterday , don't buy it never great terrible
2 stars the box with a"""
SENTENCES = st.lists(st.sampled_from(PROSE.split()), min_size=1, max_size=25)
SEEDS = st.integers(0, 2**32)


def review(text: str, *, positive: bool | None = True, part: Slice = Slice.TRAIN, language: str = "en") -> ReviewExample:
    return ReviewExample(text=text, slice=part, user_id="u", event_time_ms=0, language=language, positive=positive)


def history(count: int) -> list[HistoryEntry]:
    return [HistoryEntry(700 * at * at, "click", f"i{at}", "tea", at, f"title {at}") for at in range(count)]


def test_reviews_are_cleaned_as_for_scoring_and_kept_once_in_the_earliest_slice_without_conflicts() -> None:
    examples = [
        review("fine"),
        review("fine", part=Slice.TEST),
        review("so so", positive=True),
        review("so so", positive=False, part=Slice.TEST),
        review("\ufeffｆｉｎｅ", positive=None),
        review("   "),
        review("other"),
        review("?"),
        review("much too long"),
        review("ab"),
    ]

    cleaned, changes = clean_reviews(examples)
    kept, dropped = worth_training(cleaned, DropConfig(min_characters=3, max_characters=7))

    assert [example.text for example in cleaned] == [text for e in examples if (text := clean_text(e.text))]
    assert [(e.text, e.slice) for e in kept] == [("fine", Slice.TRAIN), ("other", Slice.TRAIN)]
    assert changes == Counter({Change.INVISIBLE: 1, Change.NORMALISED: 1, Drop.EMPTY: 2, Change.SPACES: 1})
    assert dropped == Counter({Drop.DUPLICATE: 2, Drop.CONFLICT: 2, Drop.LONG: 1, Drop.SHORT: 1})


def test_words_keep_negations_and_chinese_is_cut_into_words() -> None:
    assert words("I DON\u2019T like it, at all!", "en") == ["i", "don't", "like", "it", "at", "all"]
    assert words("酒店房间很干净，不错。", "zh") == ["酒店", "房间", "很", "干净", "不错"]
    assert joint("zh").join(pieces("酒店房间很干净，不错。", "zh")) == "酒店房间很干净，不错。"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_stop_words_hold_no_negation_and_no_opinion_of_weight(language: str) -> None:
    found = stop_words(language)

    assert not [word for word in found if is_negation(word)]
    assert {"en": "the", "zh": "的"}[language] in found
    assert "good" not in found and "好" not in found


def test_parts_of_speech_are_told_in_chinese_and_refused_in_other_languages() -> None:
    assert dict(tagged("酒店房间很干净", "zh"))["酒店"] is Part.NOUN
    kept = analysers("zh")["nouns, verbs, adjectives, adverbs"]("这个酒店不好")
    assert "酒店" in kept and "这个" not in kept
    with pytest.raises(TrainingError, match="en or zh"):
        tagged("gut", "de")
    with pytest.raises(TrainingError, match="en, zh"):
        stop_words("de")


def test_english_parts_of_speech_need_a_package_and_say_so() -> None:
    try:
        import textblob  # noqa: F401
    except ImportError:
        with pytest.raises(TrainingError, match="pip install textblob"):
            tagged("The kettle broke", "en")
    else:
        assert dict(tagged("The kettle broke", "en"))["kettle"] is Part.NOUN


@given(SENTENCES, SEEDS)
def test_augmentation_leaves_opinions_and_what_is_negated_where_they_are(sentence: list[str], seed: int) -> None:
    text = " ".join(sentence)

    changed = augment_text(text, "en", STRONG, NEIGHBOURS, np.random.default_rng(seed)).split()

    assert [word for word in changed if bears_opinion(word)] == [word for word in sentence if bears_opinion(word)]
    assert negated(changed) == negated(sentence)


def negated(sentence: list[str]) -> list[tuple[str, str | None]]:
    """Return every negation with the word behind it."""
    return [(a, b) for a, b in zip(sentence, [*sentence[1:], None], strict=True) if is_negation(a)]


@given(SENTENCES, SEEDS)
def test_each_change_is_what_its_name_says(sentence: list[str], seed: int) -> None:
    def rng() -> np.random.Generator:
        return np.random.default_rng(seed)

    assert Counter(swap(sentence, 0.5, rng())) == Counter(sentence)
    shorter, longer = delete(sentence, 0.4, rng()), insert(sentence, 0.5, NEIGHBOURS, rng())
    assert Counter(shorter) <= Counter(sentence) and shorter
    assert len(sentence) - len(shorter) <= round(0.4 * len(sentence))
    assert Counter(longer) >= Counter(sentence)
    replaced = replace(sentence, 0.5, NEIGHBOURS, rng())
    assert all(a == b or b in NEIGHBOURS[a] for a, b in zip(sentence, replaced, strict=True))


def test_augmentation_changes_texts_and_equal_seeds_change_them_alike() -> None:
    text = "the parcel arrived yesterday with the kettle in a box"

    one, again, other = (augment_text(text, "en", STRONG, NEIGHBOURS, np.random.default_rng(seed)) for seed in (1, 1, 2))

    assert one == again != other
    assert one != text
    chinese = augment_text("酒店房间不错，房间很大", "zh", STRONG, NEIGHBOURS, np.random.default_rng(1))
    assert "不错" in chinese and chinese.count("不") == 1


def test_only_training_reviews_get_copies_with_the_label_of_their_text() -> None:
    examples = [review("the parcel arrived yesterday with a kettle"), review("the parcel arrived", part=Slice.TEST)]

    found = augment_reviews(examples, structs.replace(STRONG, copies=3), NEIGHBOURS, str.upper)

    assert found[:2] == examples
    assert {(e.slice, e.positive, e.user_id) for e in found[2:]} == {(Slice.TRAIN, True, "u")}
    assert 2 <= len(found) - 2 <= 4
    assert examples[0].text.upper() in {e.text for e in found}


def test_a_frozen_classifier_reads_the_same_sentiment_from_nearly_all_changed_texts() -> None:
    rng = np.random.default_rng(0)
    things = PLAIN.split()
    words = {True: ["not bad", "great", "works", "love"], False: ["not good", "terrible", "broke", "waste"]}

    def made(positive: bool) -> str:
        sentence = list(rng.choice(things, 10))
        sentence.insert(int(rng.integers(11)), str(rng.choice(words[positive])))
        return " ".join(sentence)

    def spaced(text: str) -> list[str]:
        return singly_and_paired(text.split())

    labels = np.arange(600) % 2
    texts = [made(bool(label)) for label in labels]
    changed = [augment_text(text, "en", CHANGE, NEIGHBOURS, rng) for text in texts]
    training = texts[:300], labels[:300]
    before, after = (tf_idf(training, training, found[300:], 2, spaced).argmax(1) for found in (texts, changed))

    assert (before == labels[300:]).mean() > 0.95
    assert (before == after).mean() > 0.97


PLAIN = "the kettle parcel box room door light of this shop with blue lid and handle that arrived yesterday"
CHANGE = AugmentationConfig()


def test_a_translation_is_named_by_module_and_function() -> None:
    assert load_translation("unicodedata:name")("a") == "LATIN SMALL LETTER A"
    for name in ("no_such_module:f", "unicodedata:nothing", "unicodedata", "unicodedata:unidata_version"):
        with pytest.raises(TrainingError, match="expected"):
            load_translation(name)


def test_neighbours_come_from_the_encoders_own_words() -> None:
    found = word_neighbours(
        Encoder.load(MINILM), ["hotel", "hotels", "motel", "banana", "mango", "xqzzy", "the"], min_cosine=0.2
    )

    assert set(found["hotel"]) & {"hotels", "motel"}
    assert "banana" not in found["hotel"]
    assert "xqzzy" not in found


@given(st.integers(0, 20), SEEDS)
def test_changed_histories_stay_sorted_and_invent_nothing(count: int, seed: int) -> None:
    entries, rng = history(count), np.random.default_rng(seed)

    cropped, masked = crop(entries, 0.5, rng), mask(entries, 0.5, rng)
    shuffled, moved = reorder(entries, 5_000, rng), jitter(entries, 2_000, rng)

    assert cropped == entries[count - len(cropped) :] and len(cropped) >= count / 2
    assert [(e.event_time_ms, e.kind) for e in masked] == [(e.event_time_ms, e.kind) for e in entries]
    assert all(
        a == b or b == HistoryEntry(a.event_time_ms, a.kind, None, None, 0, None) for a, b in zip(entries, masked, strict=True)
    )
    for changed in (shuffled, moved):
        times = [entry.event_time_ms for entry in changed]
        assert times == sorted(times) and len(times) == count
        assert Counter(entry.item_id for entry in changed) == Counter(entry.item_id for entry in entries)
    assert [e.event_time_ms for e in shuffled] == [e.event_time_ms for e in entries]
    assert [e.item_id for e in moved] == [e.item_id for e in entries]
    assert not entries or moved[-1].event_time_ms == entries[-1].event_time_ms
    place = {entry.item_id: entry.event_time_ms for entry in entries}
    assert all(abs(place[entry.item_id] - entry.event_time_ms) < 5_000 for entry in shuffled)


def test_the_committed_lists_are_all_there() -> None:
    import models.linear.word_lists as found

    assert {path.name for path in Path(found.FOLDER).iterdir()} == {
        "stop_en.txt",
        "stop_zh.txt",
        "negations.txt",
        "ratings.txt",
    }
