"""Encode and decode a user's row in role triggers. Start at TriggerState."""

from typing import Any

import msgspec
from msgspec import Struct

from models.features.recent_ids import RecentIds, from_joined
from models.features.row_codec import Upcasts, check_version, upcast
from schemas.errors import DamagedRowError

TRIGGER_ROW_VERSION = 4


class TriggerState(Struct, array_like=True, gc=False):
    """Hold a user's state: last offset per signal topic, last firing per campaign, newest event time and the signals decided.

    `decided` has the highest source offset per signal topic and source topic: later repeats of lower ones are ignored, however
    old. A source topic is named by its id, or by its name where the broker has no ids. `ids` has the last 256 ids per signal
    topic of signals that were sent again from the dead letters, that have no topic id, or that an older version of the row had
    decided.
    """

    version: int = TRIGGER_ROW_VERSION
    guard: dict[str, int] = {}
    ids: dict[str, RecentIds] = {}
    last_fired_ms: dict[str, int] = {}
    newest_ms: int = 0
    decided: dict[str, dict[str, int]] = {}


def _with_newest(values: list[Any]) -> list[Any]:
    """Upcast version 1, which lacks the newest event time: use the last firing of a campaign, or 0."""
    _, guard, ids, last_fired_ms = values
    return [2, guard, ids, last_fired_ms, max(last_fired_ms.values(), default=0)]


def _with_ids_apart(values: list[Any]) -> list[Any]:
    """Upcast version 2, which joined the hashes of ids into one value."""
    _, guard, ids, last_fired_ms, newest_ms = values
    return [3, guard, {kind: from_joined(joined) for kind, joined in ids.items()}, last_fired_ms, newest_ms]


def _with_decided(values: list[Any]) -> list[Any]:
    """Upcast version 3, which knew decided signals by their last 256 ids alone: those ids stay."""
    return [4, *values[1:], {}]


TRIGGER_UPCASTS: Upcasts = {1: _with_newest, 2: _with_ids_apart, 3: _with_decided}

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
    """Decode a row of role triggers; upcast a row of an older version first.

    Raises:
        RowVersionError: the row has an unknown version.
        DamagedRowError: the bytes are not a row.
    """
    try:
        version = _decode_head(row).version
        return _decode(row if version == TRIGGER_ROW_VERSION else upcast(row, version, TRIGGER_ROW_VERSION, TRIGGER_UPCASTS))
    except msgspec.DecodeError as error:
        expected = f"version {TRIGGER_ROW_VERSION}"
        raise DamagedRowError(f"found {len(row)} bytes that are no trigger row ({error}), expected {expected}") from error


def check_trigger_version(row: bytes) -> None:
    """Refuse a row of an unknown version.

    Raises:
        RowVersionError: the text names the version.
    """
    try:
        version = _decode_head(row).version
    except msgspec.DecodeError:
        return  # damaged: handled when the user's next record is folded
    check_version(version, TRIGGER_ROW_VERSION, TRIGGER_UPCASTS)


def trigger_newest_ms(row: bytes | TriggerState) -> int:
    """Return the newest event time of a row, decoded or not; 0 if an old version lacks it or the row is damaged."""
    if isinstance(row, bytes):
        try:
            return _decode_age(row).newest_ms
        except msgspec.DecodeError:
            return 0
    return row.newest_ms
