"""Terms served with numpy alone say what scikit-learn says, and cost no more than a text is long."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from models.linear.tfidf import MAX_TERMS, Cut, best_terms, characters, words
from models.network.losses import UNKNOWN
from schemas.errors import CannotFit
from schemas.fields import MAX_TEXT_CHARS
from tests.builders import ROOT

GOOD = ["很好用，质量不错", "Great mug!  Really GREAT", "love it 😍😍", "物流快\n\n包装好", "Straße gut", "good\tgood cup"]
BAD = ["太差了，不会再买", "Awful mug.  It BROKE", "broken 😡", "质量差\n 退货", "İt leaks", "bad bad cup"]
TEXTS = [f"{text} {mark}" for mark in ("", "!", "。") for text in GOOD + BAD]
SENTIMENTS = np.array([int(text in GOOD) for _ in range(3) for text in GOOD + BAD])
ASKED = [*TEXTS, "", " ", " \t\n ", "質量還不錯", "a\n\n\nb", "👍🏽👨‍👩‍👧", "unseen ẞ words", "mug " * 500, "x", "不"]
NOTHING: tuple[list[str], np.ndarray] = ([], np.zeros(0, np.int64))


@pytest.mark.parametrize(("cut", "settings"), [(characters, {"analyzer": "char"}), (words, {})])
@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_those_of_scikit_learn(cut: Cut, settings: dict[str, str], classes: int) -> None:
    labels = SENTIMENTS + (np.arange(len(SENTIMENTS)) % 5 == 0) if classes == 3 else SENTIMENTS
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, **settings)
    model = LogisticRegression(C=4.0, max_iter=300).fit(vectoriser.fit_transform(TEXTS), labels)

    terms = best_terms((TEXTS, labels), NOTHING, (cut,), (4.0,)).terms

    expected = model.predict_proba(vectoriser.transform(ASKED))
    np.testing.assert_allclose(terms.probabilities(ASKED, classes), expected, rtol=0, atol=1e-6)
    assert np.ptp(expected[:, 1]) > 0.5
    assert terms.probabilities([], classes).shape == (0, classes)


def test_a_class_that_training_never_met_has_no_probability() -> None:
    found = best_terms((TEXTS, SENTIMENTS * 2), NOTHING).terms.probabilities(["质量不错"], 4)

    assert found[0, [1, 3]].tolist() == [0, 0]
    assert found.sum() == pytest.approx(1)


def test_held_out_texts_choose_the_cut_and_the_strength() -> None:
    order = [" ".join(words) for words in (("ab", "cd"), ("ba", "dc"), ("cd", "ab"), ("dc", "ba"))] * 5
    same_letters = [f"{text} {n}" for n, text in enumerate(order)]
    labels = np.array([int("ab" in text) for text in same_letters])
    noise = np.array([*labels[:10], *(1 - labels[10:])])

    assert best_terms((same_letters, labels), (same_letters, labels), (characters, words)).terms.cut is words
    assert best_terms((TEXTS, SENTIMENTS), (TEXTS, SENTIMENTS)).strength == 10
    assert best_terms((same_letters, noise), (same_letters, labels), (words,)).strength == 1


def test_texts_of_unknown_class_teach_nothing() -> None:
    unknown = [*TEXTS, "质量不错"], np.array([*SENTIMENTS, UNKNOWN])

    found, expected = (best_terms(taught, NOTHING).terms for taught in (unknown, (TEXTS, SENTIMENTS)))

    assert found.columns == expected.columns
    np.testing.assert_array_equal(found.weights, expected.weights)


def test_texts_that_teach_nothing_are_refused() -> None:
    with pytest.raises(CannotFit, match="found 1 classes among 36 training texts"):
        best_terms((TEXTS, SENTIMENTS * 0), NOTHING)
    with pytest.raises(CannotFit, match="found no term that 2 of 2 training texts share"):
        best_terms((["ab", "cd"], np.array([0, 1])), NOTHING)


def test_a_cut_by_which_texts_share_nothing_leaves_the_others_to_choose_from() -> None:
    texts = [f"{chr(0x4E00 + n)}{'很好' if n % 2 else '太差'}{chr(0x5E00 + n)}" for n in range(40)]
    labelled = texts, np.arange(40) % 2

    with pytest.raises(CannotFit, match="found no term that 2 of 40"):
        best_terms(labelled, labelled, (words,))
    assert best_terms(labelled, labelled, (words, characters)).terms.cut is characters
    assert best_terms(labelled, labelled, (characters, words)).terms.cut is characters


def test_the_commonest_terms_are_kept_and_no_more_than_the_limit() -> None:
    pairs = [f"{chr(0x4E00 + n)}{chr(0x5200 + n % 97)}" for n in range(MAX_TERMS // 2 + 500)]
    texts = [f"{pair}{sentiment}" for pair in pairs for sentiment in "好坏"]

    terms = best_terms((texts, np.arange(len(texts)) % 2), NOTHING, (characters,), (1.0,)).terms

    assert len(terms.columns) == MAX_TERMS
    assert {"好", "坏"} < terms.columns.keys()


@pytest.mark.parametrize("text", ["a" * MAX_TEXT_CHARS, "a " * (MAX_TEXT_CHARS // 2), "ab " * 666, "\n" * MAX_TEXT_CHARS])
def test_a_text_has_at_most_two_terms_a_character(text: str) -> None:
    assert len(characters(text)) <= 2 * MAX_TEXT_CHARS
    assert len(words(text)) <= 2 * MAX_TEXT_CHARS


def test_the_scorer_loads_no_scikit_learn() -> None:
    program = "import sys, models.serving.scorer; sys.exit(', '.join(sorted({'sklearn', 'scipy'} & set(sys.modules))) or None)"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
