import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letter import (
    MAX_HEADER_BYTES,
    MAX_ORIGINAL_HEADERS_BYTES,
    Reason,
    bounded,
    headers_of,
    is_whole,
    read_dead_letter,
)
from schemas.fields import MAX_EVENT_BYTES
from tests.builders import dead_letter

DEFAULT_RECORD_LIMIT = 1_048_576


@pytest.mark.parametrize("reason", Reason)
def test_a_dead_letter_is_read_back_from_its_record(reason: Reason) -> None:
    letter = dead_letter(reason=reason, key=b"\xff", value=b"\x00not JSON")
    assert read_dead_letter(letter.key, letter.value, headers_of(letter)) == letter


def test_a_dead_letter_without_key_value_or_timestamp_is_read_back() -> None:
    letter = dead_letter(key=None, value=None, timestamp_ms=-1)
    assert read_dead_letter(None, None, headers_of(letter)) == letter


@given(st.text(max_size=2_000))
def test_headers_are_bounded_and_readable_whatever_the_detail_holds(detail: str) -> None:
    headers = headers_of(dead_letter(detail=detail))
    assert all(len(value) <= MAX_HEADER_BYTES for _, value in headers)
    assert read_dead_letter(None, None, headers).reason is Reason.BAD_JSON


def test_a_detail_with_a_lone_surrogate_is_sent_with_a_question_mark() -> None:
    headers = headers_of(dead_letter(detail="title \ud800"))
    assert read_dead_letter(None, None, headers).detail == "title ?"


def test_a_detail_cut_inside_a_character_is_still_read() -> None:
    read = read_dead_letter(None, None, headers_of(dead_letter(detail="x" + "ä" * MAX_HEADER_BYTES)))
    assert read.detail.startswith("xäää")
    assert read.detail.endswith("\N{REPLACEMENT CHARACTER}")


def test_headers_that_others_put_behind_ours_are_ignored() -> None:
    letter = dead_letter()
    assert read_dead_letter(letter.key, letter.value, (*headers_of(letter), ("empty", b""))) == letter


def test_original_headers_are_kept_in_front_of_ours_even_under_our_names() -> None:
    letter = dead_letter(headers=(("traceparent", b"00-1"), ("x-error-code", b"theirs"), ("empty", b"")))

    headers = headers_of(letter)

    assert headers[:3] == letter.headers
    assert read_dead_letter(letter.key, letter.value, headers) == letter


def test_an_error_of_the_code_is_read_back_with_its_type_and_places() -> None:
    letter = dead_letter(reason=Reason.HANDLER_ERROR, exception="KeyError", stacktrace="a.py:1 f\nb.py:2 g")
    assert read_dead_letter(letter.key, letter.value, headers_of(letter)) == letter


def test_a_dead_letter_of_before_there_were_exceptions_is_read() -> None:
    headers = tuple(header for header in headers_of(dead_letter()) if not header[0].endswith(("exception", "stacktrace")))
    assert read_dead_letter(b"u-1", b"?", headers) == dead_letter()


def test_headers_over_the_limit_are_replaced_by_their_size_and_hash() -> None:
    headers = (("trace", b"x" * MAX_ORIGINAL_HEADERS_BYTES),)
    letter = bounded(dead_letter(headers=headers))
    assert letter.headers == ()
    assert letter.detail.startswith(f"original headers of {MAX_ORIGINAL_HEADERS_BYTES + 5} bytes, sha256 ")


def test_a_dead_letter_that_lost_bytes_is_not_whole() -> None:
    assert is_whole(bounded(dead_letter()))
    for lost in ({"key": b"k" * 256_001}, {"value": b"v" * 256_001}, {"headers": (("h", b"x" * 64_000),)}):
        assert not is_whole(bounded(dead_letter(**lost)))


def test_a_record_without_our_headers_is_refused() -> None:
    with pytest.raises(KeyError, match="x-error-code"):
        read_dead_letter(b"u-1", b"{}", ())


@pytest.mark.parametrize("change", [{"x-error-code": b"colour"}, {"__streams.errors.offset": b"last"}], ids=str)
def test_a_record_with_a_reason_or_position_of_another_writer_is_refused(change: dict[str, bytes]) -> None:
    headers = dict(headers_of(dead_letter())) | change
    with pytest.raises(ValueError, match="colour|last"):
        read_dead_letter(b"u-1", b"{}", tuple(headers.items()))


def test_a_value_at_the_limit_is_kept_whole() -> None:
    letter = dead_letter(value=b"x" * MAX_EVENT_BYTES, key=b"k" * MAX_EVENT_BYTES)
    assert bounded(letter) == letter


def test_a_value_over_the_limit_is_replaced_by_its_size_and_hash() -> None:
    value = b"x" * (MAX_EVENT_BYTES + 1)
    letter = bounded(dead_letter(value=value, reason=Reason.TOO_LARGE))
    assert (letter.value, letter.key, letter.reason) == (None, b"u-1", Reason.TOO_LARGE)
    assert f"original value of {len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()}" in letter.detail


def test_size_and_hash_of_an_oversize_value_survive_a_long_detail() -> None:
    value = b"x" * (MAX_EVENT_BYTES + 1)
    headers = headers_of(bounded(dead_letter(value=value, detail="found " * 1_000)))
    assert hashlib.sha256(value).hexdigest() in read_dead_letter(None, None, headers).detail


def test_a_dead_letter_fits_a_default_broker_whatever_its_key_and_value_were() -> None:
    for key, value in ((b"k" * 1_000_000, b"v"), (b"k" * MAX_EVENT_BYTES, b"v" * MAX_EVENT_BYTES), (b"k", b"v" * 1_000_000)):
        letter = bounded(dead_letter(key=key, value=value, detail="x" * 5_000, headers=(("h", b"x" * 63_999),)))
        headers = sum(len(name) + len(text) for name, text in headers_of(letter))
        assert len(letter.key or b"") + len(letter.value or b"") + headers < DEFAULT_RECORD_LIMIT - 2_000


def test_an_oversize_key_is_replaced_by_its_size_and_hash() -> None:
    key = b"k" * (MAX_EVENT_BYTES + 1)
    letter = bounded(dead_letter(key=key))
    assert letter.key is None
    assert letter.detail.startswith(f"original key of {len(key)} bytes, sha256 {hashlib.sha256(key).hexdigest()}; JSON is")
