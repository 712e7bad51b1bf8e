"""Define a dead letter (a refused record and why it was refused), and convert it to Kafka headers and back.

The headers of the original record come first and our headers follow. Ours hold the reason code, the error, and the topic,
partition, offset and timestamp of the record. Most have the names of KIP-1034 (`__streams.errors.…`). Start at Reason.
"""

import hashlib
from collections.abc import Mapping
from enum import StrEnum

import msgspec
from msgspec import Struct

from schemas.fields import MAX_EVENT_BYTES

Headers = tuple[tuple[str, bytes], ...]

MAX_HEADER_BYTES = 1_000
MAX_ORIGINAL_HEADERS_BYTES = 64_000
FIRST_HEADER = "x-error-code"  # our headers start at the last header of this name; the original ones come before it
HEADER_NAMES: Mapping[str, str] = {  # field of DeadLetter → header, in the order they are written
    "reason": FIRST_HEADER,
    "detail": "__streams.errors.message",
    "exception": "__streams.errors.exception",
    "stacktrace": "__streams.errors.stacktrace",
    "topic": "__streams.errors.topic",
    "partition": "__streams.errors.partition",
    "offset": "__streams.errors.offset",
    "timestamp_ms": "x-original-timestamp-ms",
}
OPTIONAL = ("exception", "stacktrace")  # added later: older dead letters have neither


class Reason(StrEnum):
    """Why a record was refused; a closed set, safe to alert and to group on."""

    BAD_JSON = "bad_json"  # the value is not a JSON object, or not UTF-8
    EMPTY_VALUE = "empty_value"  # there is no value
    WRONG_TYPE = "wrong_type"  # a field has the wrong type
    MISSING_FIELD = "missing_field"  # a required field is missing
    OUT_OF_RANGE = "out_of_range"  # a value is outside its range, or does not match its pattern
    TOO_LARGE = "too_large"  # the value has more bytes than an event may have
    TEXT_TOO_LONG = "text_too_long"  # a text has more characters than its field allows
    TOO_MANY_LINES = "too_many_lines"  # a list, such as the lines of a purchase, has more entries than allowed
    MISSING_KEY = "missing_key"  # the record has no key
    KEY_MISMATCH = "key_mismatch"  # the key is not the user id of the value
    MISPLACED_KEY = "misplaced_key"  # the key belongs to another partition: the producer uses another partitioner
    UNKNOWN_CURRENCY = "unknown_currency"  # no rate is set for the currency: add it to currency_rates
    FROM_FUTURE = "from_future"  # the event time is after the arrival by more than the allowed clock skew
    HANDLER_ERROR = "handler_error"  # our own code failed on this record
    SPEC_MISMATCH = "spec_mismatch"  # a score request's features do not fit the feature spec it names


class DeadLetter(Struct, frozen=True, kw_only=True, gc=False):
    """One refused record: its topic, partition and offset, why it was refused, and its original bytes.

    A key, a value or headers over their limit are replaced by a size and SHA-256 in `detail`. `stacktrace` lists the
    code locations that raised, innermost first, without values. It is empty where the record itself was at fault.
    """

    reason: Reason
    detail: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    exception: str = ""
    stacktrace: str = ""
    headers: Headers = ()


def headers_of(letter: DeadLetter) -> Headers:
    """Append everything but key and value to the original headers; a text over the limit is truncated."""
    ours = (
        (header, str(getattr(letter, field)).encode("utf-8", "replace")[:MAX_HEADER_BYTES])
        for field, header in HEADER_NAMES.items()
    )
    return (*letter.headers, *ours)


def bounded(letter: DeadLetter) -> DeadLetter:
    """Replace a key, a value or headers over their limit by size and hash.

    Both go to the front of `detail`, because its end may be truncated. The result fits a broker's default record limit.
    """
    key_note, key = kept("key", letter.key)
    value_note, value = kept("value", letter.value)
    headers_note, headers = kept_headers(letter.headers)
    detail = key_note + value_note + headers_note + letter.detail
    return msgspec.structs.replace(letter, detail=detail, key=key, value=value, headers=headers)


def is_whole(letter: DeadLetter) -> bool:
    """Return whether a dead letter still has all bytes of its record, so that the record can be sent again."""
    return not letter.detail.startswith(("original key of ", "original value of ", "original headers of "))


def kept(name: str, data: bytes | None) -> tuple[str, bytes | None]:
    """Return the note that replaces bytes over the limit, and the bytes that are kept."""
    if data is None or len(data) <= MAX_EVENT_BYTES:
        return "", data
    return f"original {name} of {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}; ", None


def kept_headers(headers: Headers) -> tuple[str, Headers]:
    """Return the note that replaces headers over their limit, and the headers that are kept."""
    size = sum([len(name) + len(value or b"") for name, value in headers])
    if size <= MAX_ORIGINAL_HEADERS_BYTES:
        return "", headers
    digest = hashlib.sha256(msgspec.msgpack.encode(headers)).hexdigest()
    return f"original headers of {size} bytes, sha256 {digest}; ", ()


def read_dead_letter(key: bytes | None, value: bytes | None, headers: Headers) -> DeadLetter:
    """Rebuild the dead letter that `headers_of` rendered.

    Raises:
        KeyError: a required header is missing: Footfall did not write the record.
        ValueError: a header holds an unknown reason or is not a number: another version of Footfall wrote the record.
    """
    names = [name for name, _ in headers]
    first = len(names) - 1 - names[::-1].index(FIRST_HEADER) if FIRST_HEADER in names else len(names)
    found = dict(headers[first:])
    if missing := [name for field, name in HEADER_NAMES.items() if field not in OPTIONAL and name not in found]:
        raise KeyError(*missing)
    text = {field: (found.get(header) or b"").decode("utf-8", "replace") for field, header in HEADER_NAMES.items()}
    return DeadLetter(
        reason=Reason(text["reason"]),
        detail=text["detail"],
        topic=text["topic"],
        partition=int(text["partition"]),
        offset=int(text["offset"]),
        timestamp_ms=int(text["timestamp_ms"]),
        key=key,
        value=value,
        exception=text["exception"],
        stacktrace=text["stacktrace"],
        headers=tuple(headers[:first]),
    )
