"""One text has one clean form, whatever characters wrote it; what nobody can read is empty."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.clean_text import Change, clean_text, cleaned


@pytest.mark.parametrize(
    ("text", "clean", "changes"),
    [
        ("\ufeff做父母一定要有心态", "做父母一定要有心态", [Change.INVISIBLE]),
        ("good &amp;amp; cheap<br/>really", "good & cheap really", [Change.ENTITIES]),
        ("ＡＢＣ１２３", "ABC123", [Change.NORMALISED]),
        ("＆ａｍｐ；＜ｂｒ＞ｇｏｏｄ", "& good", [Change.NORMALISED, Change.ENTITIES]),
        ("see https://example.org/a?b=c now", "see now", [Change.URLS, Change.SPACES]),
        ("看www.example.org/价格，好", "看 价格,好", [Change.NORMALISED, Change.URLS]),
        ("soooooo goooood!!!!!!", "sooo goood!!!", [Change.REPEATED]),
        ("10000 pieces", "10000 pieces", []),
        ("a\tb\nc  d", "a b c d", [Change.INVISIBLE, Change.SPACES]),
        ("it's not good", "it's not good", []),
        ("de\u0301c\u0327u", "déçu", [Change.NORMALISED]),
    ],
)
def test_a_text_is_cleaned_and_the_changes_are_named(text: str, clean: str, changes: list[Change]) -> None:
    assert cleaned(text).text == clean == clean_text(text)
    assert sorted(cleaned(text).changes) == sorted(changes)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("\u2764\ufe0f\u2764\ufe0f", "love"),
        ("\U0001f621\U0001f621\U0001f621", "angry face"),
        ("fine\U0001f60d", "fine smiling face with heart-shaped eyes"),
        ("\U0001f44d\U0001f3fd ok", "thumbs up good ok"),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", "man woman girl"),
        ("from \U0001f1e9\U0001f1ea", "from flag de"),
        ("1\ufe0f\u20e3", "1"),
        ("★★★★☆", "4 stars"),
        ("\u2b50\ufe0f\u2b50\ufe0f", "2 stars"),
        ("★☆☆☆☆", "1 star"),
        ("★ fine ★", "star fine star"),
        ("\U0001f5d1\ufe0f after a day", "wastebasket after a day"),
        ("ක්\u200dෂ", "ක්\u200dෂ"),  # a joiner inside a word is part of its spelling
    ],
)
def test_emoji_get_their_names_and_stars_are_counted(text: str, clean: str) -> None:
    assert clean_text(text) == clean


@pytest.mark.parametrize("text", ["", "   ", "\x00\x00", " \u200b\x00 ", "...!", "https://example.org", "\ufe0f", "&nbsp;"])
def test_of_a_text_that_says_nothing_nothing_is_left(text: str) -> None:
    assert clean_text(text) == ""


@given(st.text(max_size=60) | st.text("&<>;#xab1Ａ＆；\u2764\ufe0f\u200d\U0001f3fd\U0001f1e9★☆ br/:w.ht", max_size=40))
def test_cleaning_what_is_clean_changes_nothing(text: str) -> None:
    once = clean_text(text)

    assert cleaned(once) == (once, ())
    assert not any(unicodedata.category(c) == "Cc" for c in once)


def test_escapes_of_escapes_are_read_however_deep() -> None:
    assert cleaned("&" + "amp;" * 400 + "lt;3 fine").text == cleaned("<3 fine").text
