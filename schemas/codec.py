"""Decode the bytes of a record into a struct, or raise DecodeError with a reason code; encode structs as JSON.

Decoding ignores unknown fields. `encode_event` refuses an event that `event_decoder` would refuse or change. This module
knows JSON and the limits on messages. It knows neither Kafka nor features. Start at event_decoder.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import msgspec

from schemas.dead_letter import Reason
from schemas.errors import DecodeError
from schemas.events import Event
from schemas.fields import MAX_EVENT_BYTES, MAX_ID_CHARS, USER_ID_PATTERN
from schemas.scoring import ScoreRequest
from schemas.signals import Signal

T = TypeVar("T", bound=msgspec.Struct)
U = TypeVar("U", bound=ScoreRequest | Signal)
EventDecoder = Callable[[bytes | None, bytes | None], Event]


def event_decoder(struct: type[Event]) -> EventDecoder:
    """Build the decoder of one source topic: a record's (key, value) in, a validated event out.

    The decoder raises DecodeError unless the record is a valid event of the user that its key names.
    """
    decode = msgspec.json.Decoder(struct).decode

    def decode_event(key: bytes | None, value: bytes | None) -> Event:
        if not value:
            raise DecodeError(Reason.EMPTY_VALUE, "found no value, expected a JSON object")
        if len(value) > MAX_EVENT_BYTES:
            raise DecodeError(Reason.TOO_LARGE, f"found {len(value)} bytes, expected at most {MAX_EVENT_BYTES}")
        try:
            event = decode(value)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise refusal(error) from error
        if key is None or event.user_id != user_of(key):
            raise _wrong_user(key, event.user_id)
        return event

    return decode_event


def decode_keyed(struct: type[U], key: bytes | None, value: bytes | None) -> U:
    """Decode one of our own messages and check that its record key is the message's user id.

    Raises:
        DecodeError: with the reason and the field.
    """
    message = decode(struct, value)
    if key is None or message.user_id != user_of(key):
        raise _wrong_user(key, message.user_id)
    return message


def user_of(key: bytes) -> str | None:
    """Return the user id in a record key, or None if the key is not a valid user id; longer keys are never cached."""
    return _user_of(key) if len(key) <= MAX_ID_CHARS else None


@lru_cache(maxsize=1 << 17)
def _user_of(key: bytes) -> str | None:
    return key.decode() if _is_user_id(key.decode("ascii", "replace")) else None


_is_user_id = re.compile(USER_ID_PATTERN).search


def _wrong_user(key: bytes | None, user_id: str) -> DecodeError:
    """Build the error for an invalid user id, or for a key that is not the event's user id."""
    if not _is_user_id(user_id):
        return DecodeError(
            Reason.OUT_OF_RANGE, f"found user id {user_id[:80]!r}, expected 1 to 64 letters, digits or `:._-` at `$.user_id`"
        )
    if not key:
        return DecodeError(Reason.MISSING_KEY, f"found no key, expected the user id {user_id!r}")
    return DecodeError(Reason.KEY_MISMATCH, f"found key {key[:80]!r}, expected the user id {user_id!r}")


def refusal(error: Exception) -> DecodeError:
    """Map a msgspec error to one of our reasons; keep msgspec's text, which names the field."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return DecodeError(Reason.BAD_JSON, text or "found JSON nested too deeply or not UTF-8, expected a JSON object")
    if "missing required field" in text:
        return DecodeError(Reason.MISSING_FIELD, text)
    if "`array` of length <=" in text:
        return DecodeError(Reason.TOO_MANY_LINES, text)
    if "`str` of length <=" in text:
        return DecodeError(Reason.TEXT_TOO_LONG, text)
    if any(sign in text for sign in ("` >= ", "` <= ", "of length >=", "matching regex", "out of range", "Invalid enum")):
        return DecodeError(Reason.OUT_OF_RANGE, text)
    return DecodeError(Reason.WRONG_TYPE, text)


def decode(struct: type[T], value: bytes | None) -> T:
    """Decode one of our own messages (score request, signal, trigger) without checking its record key.

    Raises:
        DecodeError: with the reason and the field.
    """
    if not value:
        raise DecodeError(Reason.EMPTY_VALUE, "found no value, expected a JSON object")
    if len(value) > MAX_EVENT_BYTES:
        raise DecodeError(Reason.TOO_LARGE, f"found {len(value)} bytes, expected at most {MAX_EVENT_BYTES}")
    try:
        return msgspec.json.decode(value, type=struct)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise refusal(error) from error


encode = msgspec.json.Encoder().encode


def encode_event(event: Event) -> bytes:
    """Encode a source event; refuse one that a reader would refuse or decode to a different event.

    Raises:
        DecodeError: a limit is broken, or JSON cannot represent a value (NaN, a lone surrogate). Send nothing.
    """
    try:
        value = encode(event)
    except (UnicodeEncodeError, TypeError, OverflowError, RecursionError) as error:
        raise DecodeError(
            Reason.WRONG_TYPE, f"found a value that JSON cannot represent ({error}), expected text, numbers or lists"
        ) from error
    if event_decoder(type(event))(str(event.user_id).encode(), value) != event:
        raise DecodeError(
            Reason.WRONG_TYPE, "found a value that JSON would change (NaN, infinity, bytes), expected text and finite numbers"
        )
    return value
