"""Split a log's records by user into buckets that fit in memory, through temporary files, so that one pass is enough.

Start at in_user_buckets.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from zlib import crc32

import msgspec
from cramjam import lz4

from schemas.errors import LogError
from stream.offline.replay_log import LogRecord

BUCKET_RECORDS = 50_000  # held in memory at a time: with users' decoded rows, some hundred MB
BLOCK_RECORDS = 128  # of a bucket that wait in memory while the log is read, about 40 kB

Numbered = tuple[int, str, LogRecord]  # place in the log's order, kind, record

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Numbered]).decode


def in_user_buckets(records: Iterable[Numbered], expected: int) -> Iterator[Iterable[Numbered]]:
    """Read `records` once and yield them in buckets: all records of a user are in one bucket, in their order.

    Where `expected` records fit in memory, there is one bucket and no file. Records without a key are in the first bucket.
    Read each bucket before the next one.

    Raises:
        LogError: there is no room for the temporary files.
    """
    count = bucket_count(expected)
    if count == 1:
        yield records
        return
    with tempfile.TemporaryDirectory(prefix="footfall-") as folder:
        paths = [Path(folder) / str(number) for number in range(count)]
        _split(records, paths)
        for path in paths:
            yield _read(path)
            path.unlink(missing_ok=True)


def bucket_count(expected: int) -> int:
    """Return the number of buckets for as many records."""
    return max(1, -(-expected // BUCKET_RECORDS))


def _split(records: Iterable[Numbered], paths: list[Path]) -> None:
    waiting: list[list[Numbered]] = [[] for _ in paths]
    for numbered in records:
        key = numbered[2].key
        place = 0 if key is None else crc32(key) % len(paths)
        block = waiting[place]
        block.append(numbered)
        if len(block) >= BLOCK_RECORDS:
            _append(paths[place], block)
    for path, block in zip(paths, waiting, strict=True):
        if block:
            _append(path, block)


def _append(path: Path, block: list[Numbered]) -> None:
    encoded = bytes(lz4.compress_block(_encode(block)))
    try:
        with path.open("ab") as file:
            file.write(len(encoded).to_bytes(4, "big") + encoded)
    except OSError as error:
        raise LogError(
            f"found no room for a temporary file in {path.parent} ({error}), expected room for the log: make room, or set "
            "TMPDIR to a folder on another disk"
        ) from error
    block.clear()


def _read(path: Path) -> Iterator[Numbered]:
    if not path.exists():  # no user of the log is in this bucket
        return
    with path.open("rb") as file:
        while size := file.read(4):
            yield from _decode(lz4.decompress_block(file.read(int.from_bytes(size, "big"))))
