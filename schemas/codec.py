"""Bytes of a record ↔ structs of the contract, with a closed reason for everything refused.

Readers are tolerant (unknown fields are ignored), writers strict. Knows JSON and limits, neither Kafka nor features.
Start at event_decoder.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from schemas.dead_letter import Reason
from schemas.events import Event
from schemas.fields import MAX_EVENT_BYTES

T = TypeVar("T", bound=msgspec.Struct)
EventDecoder = Callable[[bytes | None, bytes | None], Event]


class DecodeError(ValueError):
    """A record that cannot become an event: `reason` is a closed code, the text says found and expected."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def event_decoder(struct: type[Event]) -> EventDecoder:
    """Build the decoder of one source topic: (key, value) of a record in, a checked event out.

    The decoder raises DecodeError for whatever is not a valid event of the user its key names.
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
        if key != event.user_id.encode():
            if not key:
                raise DecodeError(Reason.MISSING_KEY, f"found no key, expected the user id {event.user_id!r}")
            raise DecodeError(Reason.KEY_MISMATCH, f"found key {key[:80]!r}, expected the user id {event.user_id!r}")
        return event

    return decode_event


def refusal(error: Exception) -> DecodeError:
    """Translate what msgspec found into a reason of ours; the text is msgspec's, which names the field."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return DecodeError(Reason.BAD_JSON, text or "found nested or undecodable JSON, expected a JSON object")
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
    """Decode one of our own messages (score request, signal, trigger).

    Raises:
        DecodeError: with the reason and the field.
    """
    if not value:
        raise DecodeError(Reason.EMPTY_VALUE, "found no value, expected a JSON object")
    try:
        return msgspec.json.decode(value, type=struct)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise refusal(error) from error


encode = msgspec.json.Encoder().encode


def encode_event(event: Event) -> bytes:
    """Encode a source event and refuse what a reader would refuse, or would read as another event.

    Raises:
        DecodeError: a limit or range is broken, or JSON cannot say it (NaN, a lone surrogate); nothing should be sent.
    """
    try:
        value = encode(event)
    except (UnicodeEncodeError, TypeError, OverflowError, RecursionError) as error:
        raise DecodeError(Reason.WRONG_TYPE, f"found a field that JSON cannot carry, {error}") from error
    if event_decoder(type(event))(str(event.user_id).encode(), value) != event:
        raise DecodeError(
            Reason.WRONG_TYPE, "found a value that JSON would change (NaN, infinity, bytes), expected plain fields"
        )
    return value
