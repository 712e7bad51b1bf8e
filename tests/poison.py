"""List invalid records that a shop may send: kind, value and key as sent, and the reason code of the refusal.

Start at POISON.
"""

import gzip
from collections.abc import Mapping

from msgspec import Struct

from schemas.dead_letter import Reason
from tests.builders import NOW_MS

USER = b"poisoned"
START = b'{"user_id":"poisoned","event_time_ms":%d' % NOW_MS
CLICK = START + b',"item_id":"i"'
GOOD = CLICK + b"}"
LINE = b'{"item_id":"i","quantity":1,"unit_price":1.0}'
PURCHASE = START + b',"currency":"GBP","lines":['


class Poison(Struct, frozen=True):
    """One refused record; its record timestamp is NOW_MS."""

    value: bytes | None
    reason: Reason
    kind: str = "click"
    key: bytes | None = USER


POISON: Mapping[str, Poison] = {
    "no value": Poison(None, Reason.EMPTY_VALUE),
    "empty value": Poison(b"", Reason.EMPTY_VALUE),
    "spaces": Poison(b"   ", Reason.BAD_JSON),
    "plain text": Poison(b"hello", Reason.BAD_JSON),
    "truncated": Poison(GOOD[:-8], Reason.BAD_JSON),
    "no end": Poison(GOOD[:-1], Reason.BAD_JSON),
    "two objects": Poison(GOOD + GOOD, Reason.BAD_JSON),
    "trailing garbage": Poison(GOOD + b"x", Reason.BAD_JSON),
    "trailing comma": Poison(CLICK + b",}", Reason.BAD_JSON),
    "single quotes": Poison(GOOD.replace(b'"', b"'"), Reason.BAD_JSON),
    "comment": Poison(b"/* click */" + GOOD, Reason.BAD_JSON),
    "byte order mark": Poison(b"\xef\xbb\xbf" + GOOD, Reason.BAD_JSON),
    "utf-16": Poison(GOOD.decode().encode("utf-16"), Reason.BAD_JSON),
    "latin-1": Poison(CLICK + b',"title":"caf\xe9"}', Reason.BAD_JSON),
    "gzip": Poison(gzip.compress(GOOD, mtime=0), Reason.BAD_JSON),
    "schema registry frame": Poison(b"\0\0\0\0\x07" + GOOD, Reason.BAD_JSON),
    "nul bytes": Poison(b"\0" * 40, Reason.BAD_JSON),
    "raw control character": Poison(CLICK + b',"title":"a\nb"}', Reason.BAD_JSON),
    "encoded surrogate": Poison(CLICK + b',"title":"\xed\xa0\x80"}', Reason.BAD_JSON),
    "escaped lone surrogate": Poison(CLICK + rb',"title":"\ud800"}', Reason.BAD_JSON),
    "NaN": Poison(START + b',"item_id":"i","rating":NaN}', Reason.BAD_JSON, "rating"),
    "Infinity": Poison(START + b',"item_id":"i","rating":Infinity}', Reason.BAD_JSON, "rating"),
    "1e400": Poison(START + b',"item_id":"i","rating":1e400}', Reason.OUT_OF_RANGE, "rating"),
    "nested ten thousand deep": Poison(CLICK + b',"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", Reason.BAD_JSON),
    "array": Poison(b"[" + GOOD + b"]", Reason.WRONG_TYPE),
    "text in JSON": Poison(b'"click"', Reason.WRONG_TYPE),
    "number": Poison(b"17", Reason.WRONG_TYPE),
    "true": Poison(b"true", Reason.WRONG_TYPE),
    "null in JSON": Poison(b"null", Reason.WRONG_TYPE),
    "user is a number": Poison(GOOD.replace(b'"poisoned"', b"7"), Reason.WRONG_TYPE),
    "time is text": Poison(b'{"user_id":"poisoned","event_time_ms":"now","item_id":"i"}', Reason.WRONG_TYPE),
    "time has a fraction": Poison(b'{"user_id":"poisoned","event_time_ms":1.5,"item_id":"i"}', Reason.WRONG_TYPE),
    "item is null": Poison(START + b',"item_id":null}', Reason.WRONG_TYPE),
    "item is an object": Poison(START + b',"item_id":{}}', Reason.WRONG_TYPE),
    "doubled field of another type": Poison(CLICK + b',"item_id":3}', Reason.WRONG_TYPE),
    "no user": Poison(b'{"event_time_ms":1,"item_id":"i"}', Reason.MISSING_FIELD),
    "no time": Poison(b'{"user_id":"poisoned","item_id":"i"}', Reason.MISSING_FIELD),
    "no item": Poison(START + b"}", Reason.MISSING_FIELD),
    "no query": Poison(GOOD, Reason.MISSING_FIELD, "search"),
    "no lines": Poison(START + b',"currency":"GBP"}', Reason.MISSING_FIELD, "purchase"),
    "time before 1970": Poison(b'{"user_id":"poisoned","event_time_ms":-1,"item_id":"i"}', Reason.OUT_OF_RANGE),
    "time beyond 64 bits": Poison(
        b'{"user_id":"poisoned","event_time_ms":1%s,"item_id":"i"}' % (b"0" * 30), Reason.OUT_OF_RANGE
    ),
    "empty item": Poison(START + b',"item_id":""}', Reason.OUT_OF_RANGE),
    "nine stars": Poison(START + b',"item_id":"i","rating":9}', Reason.OUT_OF_RANGE, "rating"),
    "version zero": Poison(CLICK + b',"schema_version":0}', Reason.OUT_OF_RANGE),
    "no line": Poison(PURCHASE + b"]}", Reason.OUT_OF_RANGE, "purchase"),
    "negative quantity": Poison(PURCHASE + LINE.replace(b'y":1', b'y":-1') + b"]}", Reason.OUT_OF_RANGE, "purchase"),
    "user with a space": Poison(GOOD.replace(b"poisoned", b"poi soned"), Reason.OUT_OF_RANGE, key=b"poi soned"),
    "user with a line end": Poison(GOOD.replace(b"poisoned", rb"poisoned\n"), Reason.OUT_OF_RANGE, key=b"poisoned\n"),
    "long item": Poison(START + b',"item_id":"%s"}' % (b"i" * 65), Reason.TEXT_TOO_LONG),
    "long text": Poison(START + b',"query":"%s"}' % (b"q" * 2_001), Reason.TEXT_TOO_LONG, "search"),
    "201 lines": Poison(PURCHASE + b",".join([LINE] * 201) + b"]}", Reason.TOO_MANY_LINES, "purchase"),
    "unknown currency": Poison(PURCHASE.replace(b"GBP", b"XXX") + LINE + b"]}", Reason.UNKNOWN_CURRENCY, "purchase"),
    "over the limit": Poison(CLICK + b',"x":"%s"}' % (b"x" * 256_000), Reason.TOO_LARGE),
    "far over the limit": Poison(b"x" * 900_000, Reason.TOO_LARGE),
    "at the limit": Poison(b"x" * 256_000, Reason.BAD_JSON),
    "no key": Poison(GOOD, Reason.MISSING_KEY, key=None),
    "empty key": Poison(GOOD, Reason.MISSING_KEY, key=b""),
    "key of another": Poison(GOOD, Reason.KEY_MISMATCH, key=b"somebody"),
    "quoted key": Poison(GOOD, Reason.KEY_MISMATCH, key=b'"poisoned"'),
    "key of no text": Poison(GOOD, Reason.KEY_MISMATCH, key=b"\xff\xfe"),
    "from tomorrow": Poison(
        b'{"user_id":"poisoned","event_time_ms":%d,"item_id":"i"}' % (NOW_MS + 86_400_000), Reason.FROM_FUTURE
    ),
    "microseconds for milliseconds": Poison(
        b'{"user_id":"poisoned","event_time_ms":%d,"item_id":"i"}' % (NOW_MS * 1000), Reason.OUT_OF_RANGE
    ),
}
