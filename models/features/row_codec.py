"""Encode a user's state as the bytes of a row, and decode rows of this and of older versions.

A row is a version byte and an LZ4 block of MessagePack. Each older version has a function that converts its values
(lists, dictionaries, numbers, bytes) to the next version. The triggers role has rows of its own and uses `upcast` for them.
Start at encode_row and decode_row.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from cramjam import DecompressionError, lz4
from msgspec import Struct

from models.features.recent_ids import from_joined
from models.features.user_state import TopicState, UserState
from schemas.errors import DamagedRowError, RowVersionError

Upcasts = Mapping[int, Callable[[Any], Any]]  # version → function that converts its values to the next version

ROW_VERSION = 2
VERSION_1_TILE_MINUTES = (1, 5, 60, 1440)


def check_version(found: int, current: int, upcasts: Upcasts) -> None:
    """Refuse a version that is neither the current one nor convertible to it.

    Raises:
        RowVersionError: the version cannot be read; the text says which can, and what to do.
    """
    if found == current:
        return
    oldest = current
    while oldest - 1 in upcasts:
        oldest -= 1
    if not oldest <= found < current:
        readable = f"version {current}" if oldest == current else f"version {oldest} to {current}"
        raise RowVersionError(f"found a row of version {found}, expected {readable}: run the Footfall version that wrote it")


def upcast(packed: bytes, found: int, current: int, upcasts: Upcasts) -> bytes:
    """Convert a row's MessagePack from an older version to the current one.

    Raises:
        RowVersionError: the version cannot be read.
        DamagedRowError: the bytes are not a row of that version.
    """
    check_version(found, current, upcasts)
    try:
        values = msgspec.msgpack.decode(packed)
        for version in range(found, current):
            values = upcasts[version](values)
    except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
        raise DamagedRowError(f"found a damaged row of version {found} with {len(packed)} bytes ({error})") from error
    return msgspec.msgpack.encode(values)


def from_version_1(values: list[Any]) -> list[Any]:
    """Convert version 1, which stored tiles per measure and the hashes of ids one after another."""
    (topics,) = values
    return [[None if topic is None else _topic_of_version_1(topic) for topic in topics]]


def _topic_of_version_1(topic: list[Any]) -> list[Any]:
    since, guard, first_ms, newest_ms, due_ms, ids, count, sums, *others = topic
    return [since, guard, first_ms, newest_ms, _tiles_of_version_1([count, *sums]), due_ms, from_joined(ids), *others]


def _tiles_of_version_1(series: list[list[Any]]) -> list[Any]:
    by_start = [_by_start(tiles) for _, *tiles in series]
    starts = sorted(set().union(*by_start))
    totals = [total for total, *_ in series]
    before = []
    for total, values in zip(totals, by_start, strict=True):
        left, column = total, list[int]()
        for start in reversed(starts):
            left -= values.get(start, 0)
            column.append(left)
        before.append(column[::-1])
    return [totals, starts, before]


def _by_start(tiles: list[dict[int, int]]) -> dict[int, int]:
    found: dict[int, int] = {}
    for size, values in zip(VERSION_1_TILE_MINUTES, tiles, strict=True):
        for number, value in values.items():
            found[number * size] = found.get(number * size, 0) + value
    return found


UPCASTS: Upcasts = {1: from_version_1}
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[list[TopicState | None]])
_VERSION_BYTE = bytes([ROW_VERSION])


def encode_row(state: UserState) -> bytes:
    """Encode a state as a version byte and an LZ4 block of MessagePack.

    Equal states give equal bytes, even if one was encoded before.
    """
    for topic in state.topics:
        if topic is not None:
            topic.normalize()
    return _VERSION_BYTE + bytes(lz4.compress_block(_encoder.encode((state.topics,))))


def decode_row(row: bytes) -> UserState:
    """Decode a row; convert a row of an older version first.

    Raises:
        RowVersionError: a version that cannot be read wrote the row.
        DamagedRowError: the bytes are not a row.
    """
    try:
        packed = bytes(lz4.decompress_block(row[1:]))
        if row[:1] != _VERSION_BYTE:
            packed = upcast(packed, row[0], ROW_VERSION, UPCASTS)
        (topics,) = _decoder.decode(packed)
        return UserState(topics)
    except (msgspec.DecodeError, DecompressionError, IndexError) as error:
        check_row_version(row)
        raise DamagedRowError(f"found a damaged row of {len(row)} bytes ({error}), expected version {ROW_VERSION}") from error


def check_row_version(row: bytes) -> None:
    """Refuse a row whose first byte names a version that cannot be read.

    Raises:
        RowVersionError: the version cannot be read; the text names it.
    """
    if row:
        check_version(row[0], ROW_VERSION, UPCASTS)


class _TopicAge(Struct, array_like=True, gc=False):
    since: int
    guard: int
    first_ms: int
    newest_ms: int


class _RowAge(Struct, array_like=True, gc=False):
    topics: list[_TopicAge | None]


_decode = msgspec.msgpack.Decoder(_RowAge).decode


def newest_ms(row: bytes | UserState) -> int:
    """Return the newest event time of any topic of a row; 0 if the row is damaged or of an older version."""
    if isinstance(row, bytes):
        try:
            topics = _decode(bytes(lz4.decompress_block(row[1:]))).topics if row[0] == ROW_VERSION else []
        except (msgspec.DecodeError, DecompressionError, IndexError):
            return 0
        return max([topic.newest_ms for topic in topics if topic is not None], default=0)
    return max([topic.newest_ms for topic in row.topics if topic is not None], default=0)
