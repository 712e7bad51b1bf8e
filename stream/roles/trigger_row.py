"""One user's row in role triggers ↔ bytes. Start at TriggerState."""

from typing import Any

import msgspec
from msgspec import Struct

from models.features.recent_ids import RecentIds, from_joined
from models.features.row_codec import Upcasts, check_version, upcast
from schemas.errors import DamagedRowError

TRIGGER_ROW_VERSION = 3


class TriggerState(Struct, array_like=True, gc=False):
    """What signals left: per signal topic the last offset and 256 signal ids, when campaigns fired, the newest event time."""

    version: int = TRIGGER_ROW_VERSION
    guard: dict[str, int] = {}
    ids: dict[str, RecentIds] = {}
    last_fired_ms: dict[str, int] = {}
    newest_ms: int = 0


def _with_newest(values: list[Any]) -> list[Any]:
    """Version 1 did not keep the newest event time: what is known of it is when a campaign last fired, or nothing."""
    _, guard, ids, last_fired_ms = values
    return [2, guard, ids, last_fired_ms, max(last_fired_ms.values(), default=0)]


def _with_ids_apart(values: list[Any]) -> list[Any]:
    """Version 2 kept the hashes of ids one after another."""
    _, guard, ids, last_fired_ms, newest_ms = values
    return [3, guard, {kind: from_joined(joined) for kind, joined in ids.items()}, last_fired_ms, newest_ms]


TRIGGER_UPCASTS: Upcasts = {1: _with_newest, 2: _with_ids_apart}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TriggerState).decode


class _Head(Struct, array_like=True, gc=False):
    version: int


class _Age(Struct, array_like=True, gc=False):
    version: int
    guard: msgspec.Raw
    ids: msgspec.Raw
    last_fired_ms: msgspec.Raw
    newest_ms: int = 0


_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_age = msgspec.msgpack.Decoder(_Age).decode


def encode_trigger_row(state: TriggerState) -> bytes:
    """Encode a row of role triggers."""
    for ids in state.ids.values():
        ids.trim()
    return _encode(state)


def decode_trigger_row(row: bytes) -> TriggerState:
    """Decode a row of role triggers; one of an older version is taken to this one first.

    Raises:
        RowVersionError: the row was written by a version that cannot be read.
        DamagedRowError: it is no row.
    """
    try:
        version = _decode_head(row).version
        return _decode(row if version == TRIGGER_ROW_VERSION else upcast(row, version, TRIGGER_ROW_VERSION, TRIGGER_UPCASTS))
    except msgspec.DecodeError as error:
        expected = f"version {TRIGGER_ROW_VERSION}"
        raise DamagedRowError(f"found a trigger row of {len(row)} bytes that is none ({error}), expected {expected}") from error


def check_trigger_version(row: bytes) -> None:
    """Refuse a row that names a version that cannot be read.

    Raises:
        RowVersionError: naming it.
    """
    try:
        version = _decode_head(row).version
    except msgspec.DecodeError:
        return  # damaged: found when its user is next heard of
    check_version(version, TRIGGER_ROW_VERSION, TRIGGER_UPCASTS)


def trigger_newest_ms(row: bytes | TriggerState) -> int:
    """Return the newest event time of a row, decoded or not; 0 if an older version or damage hides it."""
    if isinstance(row, bytes):
        try:
            return _decode_age(row).newest_ms
        except msgspec.DecodeError:
            return 0
    return row.newest_ms
