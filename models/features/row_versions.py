"""Rows of older versions → rows of this one, one version at a time, by pure functions. Start at upcast.

A row is MessagePack; a version's function takes its values (lists, dictionaries, numbers, bytes) to those of the next.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from schemas.errors import DamagedRowError, RowVersionError

Upcasts = Mapping[int, Callable[[Any], Any]]  # version → its values to those of the next version


def check_version(found: int, current: int, upcasts: Upcasts) -> None:
    """Refuse a version that neither is the current one nor leads to it.

    Raises:
        RowVersionError: naming what was found, what can be read and what to do.
    """
    if found == current:
        return
    oldest = current
    while oldest - 1 in upcasts:
        oldest -= 1
    if not oldest <= found < current:
        readable = f"version {current}" if oldest == current else f"version {oldest} to {current}"
        raise RowVersionError(f"found a row of version {found}, expected {readable}: run the Footfall that wrote it")


def upcast(packed: bytes, found: int, current: int, upcasts: Upcasts) -> bytes:
    """Take a row's MessagePack from an older version to the current one.

    Raises:
        RowVersionError: the version cannot be read.
        DamagedRowError: the bytes are no row of the version they name.
    """
    check_version(found, current, upcasts)
    try:
        values = msgspec.msgpack.decode(packed)
        for version in range(found, current):
            values = upcasts[version](values)
    except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
        raise DamagedRowError(f"found a damaged row of version {found} and {len(packed)} bytes ({error})") from error
    return msgspec.msgpack.encode(values)
