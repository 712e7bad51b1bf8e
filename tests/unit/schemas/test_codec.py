import gzip
import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.codec import decode, decode_keyed, encode, encode_event, event_decoder
from schemas.dead_letter import Reason
from schemas.errors import DecodeError
from schemas.events import Event
from schemas.fields import MAX_EVENT_BYTES, MAX_LINES, MAX_TEXT_CHARS
from schemas.scoring import ScoreRequest
from schemas.signals import ReviewSentiment, Unread
from schemas.topics import SOURCES, TABLE
from tests.builders import (
    SAMPLES,
    USER,
    browse,
    click,
    interest,
    purchase,
    purchase_line,
    rating,
    review,
    review_sentiment,
    score_request,
    search,
)

KEY = USER.encode()
DECODERS = {kind: event_decoder(struct) for kind, struct in SOURCES.items()}
CLICK = encode(click())
MISSING = object()


def changed(kind: str, **fields: Any) -> bytes:
    """Encode the sample of a kind with fields replaced by any JSON value, or left out by MISSING."""
    sample = json.loads(encode(SAMPLES[kind]())) | fields
    return json.dumps({name: value for name, value in sample.items() if value is not MISSING}).encode()


def with_raw(kind: str, field: str, raw: bytes) -> bytes:
    """Encode the sample of a kind with the bytes of one field's value as given, JSON or not."""
    return changed(kind, **{field: "@"}).replace(b'"@"', raw)


def line(**fields: Any) -> dict[str, Any]:
    sample: dict[str, Any] = json.loads(encode(purchase_line())) | fields
    return {name: value for name, value in sample.items() if value is not MISSING}


REFUSED: Mapping[str, tuple[str, bytes | None, bytes | None, Reason]] = {
    # what arrives: (kind, key, value, reason)
    "no value": ("click", KEY, None, Reason.EMPTY_VALUE),
    "no bytes": ("click", KEY, b"", Reason.EMPTY_VALUE),
    "only a space": ("click", KEY, b" ", Reason.BAD_JSON),
    "not JSON": ("click", KEY, b"hello", Reason.BAD_JSON),
    "XML": ("click", KEY, b"<click/>", Reason.BAD_JSON),
    "single quotes": ("click", KEY, b"{'user_id': 'u-1'}", Reason.BAD_JSON),
    "truncated": ("click", KEY, CLICK[:-1], Reason.BAD_JSON),
    "truncated in a string": ("click", KEY, CLICK[: CLICK.index(b"mug") + 1], Reason.BAD_JSON),
    "trailing bytes": ("click", KEY, CLICK + b"x", Reason.BAD_JSON),
    "two objects": ("click", KEY, CLICK + CLICK, Reason.BAD_JSON),
    "a trailing comma": ("click", KEY, CLICK[:-1] + b",}", Reason.BAD_JSON),
    "a comment": ("click", KEY, b"/* click */" + CLICK, Reason.BAD_JSON),
    "a byte order mark": ("click", KEY, b"\xef\xbb\xbf" + CLICK, Reason.BAD_JSON),
    "UTF-16": ("click", KEY, CLICK.decode().encode("utf-16"), Reason.BAD_JSON),
    "gzip": ("click", KEY, gzip.compress(CLICK), Reason.BAD_JSON),
    "a schema registry's frame": ("click", KEY, b"\x00\x00\x00\x00\x07" + CLICK, Reason.BAD_JSON),
    "bytes that are not UTF-8": ("click", KEY, with_raw("click", "title", b'"\xff"'), Reason.BAD_JSON),
    "an escaped lone surrogate": ("click", KEY, with_raw("click", "title", b'"\\ud800"'), Reason.BAD_JSON),
    "a lone surrogate in bytes": ("click", KEY, with_raw("click", "title", b'"\xed\xa0\x80"'), Reason.BAD_JSON),
    "a raw control character": ("click", KEY, with_raw("click", "title", b'"a\x00b"'), Reason.BAD_JSON),
    "a rating of NaN": ("rating", KEY, with_raw("rating", "rating", b"NaN"), Reason.BAD_JSON),
    "a rating of Infinity": ("rating", KEY, with_raw("rating", "rating", b"Infinity"), Reason.BAD_JSON),
    "NaN in an unknown field": ("click", KEY, with_raw("click", "new", b"NaN"), Reason.BAD_JSON),
    "nesting of 20,000 unknown": ("click", KEY, with_raw("click", "new", b"[" * 20_000 + b"]" * 20_000), Reason.BAD_JSON),
    "an array": ("click", KEY, b"[]", Reason.WRONG_TYPE),
    "nesting of 20,000 at the top": ("click", KEY, b"[" * 20_000, Reason.WRONG_TYPE),
    "null": ("click", KEY, b"null", Reason.WRONG_TYPE),
    "a string": ("click", KEY, b'"click"', Reason.WRONG_TYPE),
    "a number": ("click", KEY, b"1", Reason.WRONG_TYPE),
    "an array of events": ("click", KEY, b"[" + CLICK + b"]", Reason.WRONG_TYPE),
    "a number as title": ("click", KEY, changed("click", title=5), Reason.WRONG_TYPE),
    "a number as user id": ("click", b"5", changed("click", user_id=5), Reason.WRONG_TYPE),
    "null as item": ("click", KEY, changed("click", item_id=None), Reason.WRONG_TYPE),
    "a time in a string": ("click", KEY, changed("click", event_time_ms="1790000000000"), Reason.WRONG_TYPE),
    "a time in ISO 8601": ("click", KEY, changed("click", event_time_ms="2026-09-21T14:13:20Z"), Reason.WRONG_TYPE),
    "a time with a fraction": ("click", KEY, changed("click", event_time_ms=1.5), Reason.WRONG_TYPE),
    "a time with an exponent": ("click", KEY, with_raw("click", "event_time_ms", b"1e12"), Reason.WRONG_TYPE),
    "a time of true": ("click", KEY, changed("click", event_time_ms=True), Reason.WRONG_TYPE),
    "a rating in a string": ("rating", KEY, changed("rating", rating="5"), Reason.WRONG_TYPE),
    "lines that are an object": ("purchase", KEY, changed("purchase", lines=line()), Reason.WRONG_TYPE),
    "a line that is null": ("purchase", KEY, changed("purchase", lines=[None]), Reason.WRONG_TYPE),
    "half an item": ("purchase", KEY, changed("purchase", lines=[line(quantity=0.5)]), Reason.WRONG_TYPE),
    "a flag in a string": ("visit", KEY, changed("visit", derived="true"), Reason.WRONG_TYPE),
    "an empty object": ("click", KEY, b"{}", Reason.MISSING_FIELD),
    "no user id": ("click", KEY, changed("click", user_id=MISSING), Reason.MISSING_FIELD),
    "no event time": ("click", KEY, changed("click", event_time_ms=MISSING), Reason.MISSING_FIELD),
    "no item": ("click", KEY, changed("click", item_id=MISSING), Reason.MISSING_FIELD),
    "a line without a price": ("purchase", KEY, changed("purchase", lines=[line(unit_price=MISSING)]), Reason.MISSING_FIELD),
    "an event of another topic": ("purchase", KEY, CLICK, Reason.MISSING_FIELD),
    "a rating of 1e400": ("rating", KEY, with_raw("rating", "rating", b"1e400"), Reason.OUT_OF_RANGE),
    "a rating of 0": ("rating", KEY, changed("rating", rating=0), Reason.OUT_OF_RANGE),
    "a rating of 5.1": ("rating", KEY, changed("rating", rating=5.1), Reason.OUT_OF_RANGE),
    "a negative price": ("purchase", KEY, changed("purchase", lines=[line(unit_price=-0.01)]), Reason.OUT_OF_RANGE),
    "a price over a thousand million": ("browse", KEY, changed("browse", price=1e10), Reason.OUT_OF_RANGE),
    "a quantity of 0": ("purchase", KEY, changed("purchase", lines=[line(quantity=0)]), Reason.OUT_OF_RANGE),
    "a negative quantity": ("purchase", KEY, changed("purchase", lines=[line(quantity=-1)]), Reason.OUT_OF_RANGE),
    "a purchase of nothing": ("purchase", KEY, changed("purchase", lines=[]), Reason.OUT_OF_RANGE),
    "a currency in lower case": ("purchase", KEY, changed("purchase", currency="eur"), Reason.OUT_OF_RANGE),
    "a currency and a newline": ("purchase", KEY, changed("purchase", currency="EUR\n"), Reason.OUT_OF_RANGE),
    "a negative time": ("click", KEY, changed("click", event_time_ms=-1), Reason.OUT_OF_RANGE),
    "a time in microseconds": ("click", KEY, changed("click", event_time_ms=1_790_000_000_000_000), Reason.OUT_OF_RANGE),
    "a time of 30 digits": ("click", KEY, with_raw("click", "event_time_ms", b"9" * 30), Reason.OUT_OF_RANGE),
    "a dwell of over a day": ("browse", KEY, changed("browse", dwell_ms=86_400_001), Reason.OUT_OF_RANGE),
    "a negative count of results": ("search", KEY, changed("search", result_count=-1), Reason.OUT_OF_RANGE),
    "an empty event id": ("click", KEY, changed("click", event_id=""), Reason.OUT_OF_RANGE),
    "an empty item": ("click", KEY, changed("click", item_id=""), Reason.OUT_OF_RANGE),
    "schema version 0": ("click", KEY, changed("click", schema_version=0), Reason.OUT_OF_RANGE),
    "an empty user id": ("click", b"", changed("click", user_id=""), Reason.OUT_OF_RANGE),
    "a user id with spaces": ("click", b"u 1", changed("click", user_id="u 1"), Reason.OUT_OF_RANGE),
    "a user id with a newline": ("click", b"u-1\n", changed("click", user_id="u-1\n"), Reason.OUT_OF_RANGE),
    "a user id with an umlaut": ("click", "ü".encode(), changed("click", user_id="ü"), Reason.OUT_OF_RANGE),
    "a user id of 65 characters": ("click", b"u" * 65, changed("click", user_id="u" * 65), Reason.OUT_OF_RANGE),
    "an event id of 65 characters": ("click", KEY, changed("click", event_id="e" * 65), Reason.TEXT_TOO_LONG),
    "a category of 65 characters": ("click", KEY, changed("click", category="c" * 65), Reason.TEXT_TOO_LONG),
    "a review of 2,001 characters": ("review", KEY, changed("review", text="ä" * 2_001), Reason.TEXT_TOO_LONG),
    "201 lines": ("purchase", KEY, changed("purchase", lines=[line()] * 201), Reason.TOO_MANY_LINES),
    "more than 256 kB": ("click", KEY, changed("click", new="x" * 256_000), Reason.TOO_LARGE),
    "more than 256 kB of rubbish": ("click", KEY, b"\xff" * 256_001, Reason.TOO_LARGE),
    "no key": ("click", None, CLICK, Reason.MISSING_KEY),
    "an empty key": ("click", b"", CLICK, Reason.MISSING_KEY),
    "another user's key": ("click", b"u-2", CLICK, Reason.KEY_MISMATCH),
    "a quoted key": ("click", b'"u-1"', CLICK, Reason.KEY_MISMATCH),
    "a key that is not UTF-8": ("click", b"\xff", CLICK, Reason.KEY_MISMATCH),
}
NOT_OF_DECODE = {
    Reason.UNKNOWN_CURRENCY,
    Reason.FROM_FUTURE,
    Reason.HANDLER_ERROR,
    Reason.SPEC_MISMATCH,
    Reason.MISPLACED_KEY,
}


@pytest.mark.parametrize("arrives", REFUSED)
def test_decoder_refuses_what_is_not_an_event_with_the_reason(arrives: str) -> None:
    kind, key, value, reason = REFUSED[arrives]
    with pytest.raises(DecodeError) as refused:
        DECODERS[kind](key, value)
    assert refused.value.reason is reason
    assert 0 < len(str(refused.value)) < 500


def test_every_reason_but_those_of_later_steps_is_reachable_by_decoding() -> None:
    assert {reason for *_, reason in REFUSED.values()} == set(Reason) - NOT_OF_DECODE


@pytest.mark.parametrize("kind", SOURCES)
def test_decoder_reads_back_what_was_encoded(kind: str) -> None:
    event = SAMPLES[kind]()
    assert isinstance(event, Event)
    assert DECODERS[kind](KEY, encode_event(event)) == event


@pytest.mark.parametrize("kind", SOURCES)
def test_decoder_ignores_unknown_fields(kind: str) -> None:
    value = changed(kind, new_field={"nested": [1, None]}, another="x")
    assert DECODERS[kind](KEY, value) == SAMPLES[kind]()


def test_decoder_keeps_the_last_of_duplicate_keys() -> None:
    value = CLICK[:-1] + b',"item_id":"mug-2"}'
    assert DECODERS["click"](KEY, value) == click(item_id="mug-2")


def test_decoder_accepts_what_lies_exactly_at_the_limits() -> None:
    filler = "x" * (MAX_EVENT_BYTES - len(changed("click", new="")))
    value = changed("click", new=filler)
    assert len(value) == MAX_EVENT_BYTES
    assert DECODERS["click"](KEY, value) == click()
    for event in (
        review(text="ä" * MAX_TEXT_CHARS),
        purchase(lines=[purchase_line()] * MAX_LINES),
        purchase(lines=[purchase_line(quantity=1, unit_price=0.0)]),
        rating(rating=5.0),
        click(event_time_ms=0),
        search(query=""),
    ):
        assert encode_event(event)


def test_decoder_accepts_a_surrogate_pair_and_whitespace_around() -> None:
    value = b"\n " + with_raw("click", "title", b'"\\ud83d\\ude00"') + b"\r\n"
    assert DECODERS["click"](KEY, value) == click(title="\N{GRINNING FACE}")


def test_decoder_accepts_a_whole_number_where_a_fraction_may_stand() -> None:
    assert DECODERS["rating"](KEY, changed("rating", rating=5)) == rating(rating=5.0)


@pytest.mark.parametrize("kind", SAMPLES)
def test_own_messages_are_read_back_as_they_were_sent(kind: str) -> None:
    assert decode(TABLE[kind].struct, encode(SAMPLES[kind]())) == SAMPLES[kind]()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.EMPTY_VALUE),
        (b"", Reason.EMPTY_VALUE),
        (b"{", Reason.BAD_JSON),
        (b"{}", Reason.MISSING_FIELD),
        (changed("score-request", features="none"), Reason.WRONG_TYPE),
        (changed("score-request", guard={"shop.clicks.v1": [1]}), Reason.WRONG_TYPE),
        (changed("score-request", history=[[1, "click"]]), Reason.WRONG_TYPE),
        (changed("score-request", text="x" * 2_001), Reason.TEXT_TOO_LONG),
        (changed("score-request", request_id=""), Reason.OUT_OF_RANGE),
        (encode(score_request(kind="bogus")), Reason.OUT_OF_RANGE),
        (changed("score-request", event_time_ms=2**63), Reason.OUT_OF_RANGE),
        (changed("score-request", history=[[1, "bogus", None, None, 0, None]]), Reason.OUT_OF_RANGE),
        (changed("score-request", history=[[1, "click", None, None, 2**63, None]]), Reason.OUT_OF_RANGE),
        (changed("score-request", history=[[2**63, "click", None, None, 0, None]]), Reason.OUT_OF_RANGE),
        (changed("score-request", categories=[["kitchen", -0.5]]), Reason.OUT_OF_RANGE),
        (changed("score-request", guard={"click": [0, 2**64]}), Reason.OUT_OF_RANGE),
        (changed("score-request", timings={"sent_ms": 2**70, "folded_ms": 0}), Reason.OUT_OF_RANGE),
        (changed("score-request", due="x" * 65), Reason.TEXT_TOO_LONG),
        (b" " * 256_001, Reason.TOO_LARGE),
    ],
)
def test_own_messages_are_refused_with_the_same_reasons(value: bytes | None, reason: Reason) -> None:
    with pytest.raises(DecodeError) as refused:
        decode(ScoreRequest, value)
    assert refused.value.reason is reason


@pytest.mark.parametrize(("key", "reason"), [(None, Reason.MISSING_KEY), (b"u-2", Reason.KEY_MISMATCH)])
def test_own_messages_are_refused_under_a_key_that_is_not_their_user(key: bytes | None, reason: Reason) -> None:
    with pytest.raises(DecodeError) as refused:
        decode_keyed(ScoreRequest, key, encode(score_request()))
    assert refused.value.reason is reason
    assert decode_keyed(ScoreRequest, KEY, encode(score_request())) == score_request()


def test_a_suppression_for_an_unknown_reason_is_out_of_range() -> None:
    with pytest.raises(DecodeError) as refused:
        decode(TABLE["suppression"].struct, changed("suppression", reason="colour"))
    assert refused.value.reason is Reason.OUT_OF_RANGE


def test_probabilities_stay_within_0_and_1() -> None:
    with pytest.raises(DecodeError) as refused:
        decode(type(interest()), changed("interest", interests=[{"label": "kitchen", "probability": 1.01}]))
    assert refused.value.reason is Reason.OUT_OF_RANGE


UNSENDABLE: Mapping[str, tuple[Event, Reason]] = {
    "a user id with a space": (click(user_id="u 1"), Reason.OUT_OF_RANGE),
    "a user id that is a number": (click(user_id=5), Reason.WRONG_TYPE),
    "a user id with a lone surrogate": (click(user_id="\ud800"), Reason.WRONG_TYPE),
    "a title with a lone surrogate": (click(title="\ud800"), Reason.WRONG_TYPE),
    "a title over the limit": (click(title="x" * 2_001), Reason.TEXT_TOO_LONG),
    "bytes as title": (click(title=b"x"), Reason.WRONG_TYPE),
    "an object as item": (click(item_id=object()), Reason.WRONG_TYPE),
    "a time in seconds with a fraction": (click(event_time_ms=1_790_000_000.5), Reason.WRONG_TYPE),
    "a time before 1970": (click(event_time_ms=-1), Reason.OUT_OF_RANGE),
    "a time of 80 bits": (click(event_time_ms=2**80), Reason.OUT_OF_RANGE),
    "a price of NaN": (browse(price=float("nan")), Reason.WRONG_TYPE),
    "an infinite price": (browse(price=float("inf")), Reason.WRONG_TYPE),
    "a negative price": (purchase(lines=[purchase_line(unit_price=-1.0)]), Reason.OUT_OF_RANGE),
    "201 lines": (purchase(lines=[purchase_line()] * 201), Reason.TOO_MANY_LINES),
    "no lines": (purchase(lines=[]), Reason.OUT_OF_RANGE),
    "more than 256 kB": (purchase(lines=[purchase_line(title="x" * 2_000)] * 200), Reason.TOO_LARGE),
    "no stars": (rating(rating=0.0), Reason.OUT_OF_RANGE),
}


@pytest.mark.parametrize("sent", UNSENDABLE)
def test_encoder_refuses_what_a_reader_would_refuse_or_read_differently(sent: str) -> None:
    event, reason = UNSENDABLE[sent]
    with pytest.raises(DecodeError) as refused:
        encode_event(event)
    assert refused.value.reason is reason


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)


def decoded_or_refused(kind: str, key: bytes | None, value: bytes | None) -> None:
    """Decode; whatever is not refused by DecodeError is an event that can be sent again as it is."""
    try:
        event = DECODERS[kind](key, value)
    except DecodeError as refused:
        assert refused.reason in set(Reason) - NOT_OF_DECODE
        return
    assert key == event.user_id.encode()
    assert DECODERS[kind](key, encode_event(event)) == event


@given(st.sampled_from(sorted(SOURCES)), st.none() | st.binary(max_size=8), st.none() | st.binary())
def test_random_bytes_are_refused_and_raise_nothing_else(kind: str, key: bytes | None, value: bytes | None) -> None:
    decoded_or_refused(kind, key, value)


@given(st.sampled_from(sorted(SOURCES)), st.data())
def test_events_with_damaged_bytes_are_read_or_refused(kind: str, data: st.DataObject) -> None:
    value = bytearray(encode(SAMPLES[kind]()))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(value)))
        length = data.draw(st.integers(0, 8))
        value[start : start + length] = data.draw(st.binary(max_size=8))
    decoded_or_refused(kind, KEY, bytes(value))


@given(st.sampled_from(sorted(SOURCES)), st.data())
def test_events_with_any_json_in_any_field_are_read_or_refused(kind: str, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(msgspec.structs.asdict(SAMPLES[kind]()))))
    decoded_or_refused(kind, KEY, changed(kind, **{field: data.draw(JSON_VALUES)}))


@given(st.binary())
@example(encode(score_request())[:-2])
def test_random_bytes_are_no_score_request_and_raise_nothing_else(value: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(ScoreRequest, value)


def test_a_null_sentiment_is_written_as_null_with_its_reason_and_a_known_one_without() -> None:
    null = review_sentiment(sentiment=None, unread=Unread.UNKNOWN_TOKENS)

    assert b'"sentiment":null,"unread":"unknown_tokens"' in encode(null)
    assert decode(ReviewSentiment, encode(null)) == null
    assert b"unread" not in encode(review_sentiment())
