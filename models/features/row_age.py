"""A row, decoded or not → its newest event time; of an encoded row only four numbers per topic are decoded.

Start at newest_ms.
"""

import msgspec
from cramjam import DecompressionError, lz4
from msgspec import Struct

from models.features.user_state import ROW_VERSION, UserState


class _TopicAge(Struct, array_like=True, gc=False):
    since: int
    guard: int
    first_ms: int
    newest_ms: int


class _RowAge(Struct, array_like=True, gc=False):
    topics: list[_TopicAge | None]


_decode = msgspec.msgpack.Decoder(_RowAge).decode


def newest_ms(row: bytes | UserState) -> int:
    """Return the newest event time of any topic of a row; 0 if an older version or damage hides it."""
    if isinstance(row, bytes):
        try:
            topics = _decode(bytes(lz4.decompress_block(row[1:]))).topics if row[0] == ROW_VERSION else []
        except (msgspec.DecodeError, DecompressionError, IndexError):
            return 0
        return max([topic.newest_ms for topic in topics if topic is not None], default=0)
    return max([topic.newest_ms for topic in row.topics if topic is not None], default=0)
