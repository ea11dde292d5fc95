"""Sentence embeddings of captions and profiles as a dense feature of the ranker (as AlphaRec does, Sheng et al. 2024).

    texts ──known?──▶ cache, one Parquet file a model ──┐
               └no──▶ model in a folder, in batches ────┴──▶ vectors [N, D] of length 1

The folder is one of sentence-transformers (it has ``modules.json``, which says how to pool and what follows), or any of
`transformers` whose model has hidden states: then the mean over a text's tokens is taken. No code from the folder is
run, nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from captionary.contract import write_table
from captionary.errors import bad_value

__all__ = ["SentenceModel", "TextVectors", "embed_texts"]

Floats = npt.NDArray[np.float32]

_VERSION = 1
"""Raise the number when a change of code may change a vector."""
_MODULES = "modules.json"
_READ = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt")
"""What of a folder the libraries may read; cards and other frameworks' weights do not count."""


class TextVectors(NamedTuple):
    """Vectors of N texts."""

    vectors: Floats
    """[N, D], each of length 1; zeros where not `present`."""
    present: npt.NDArray[np.bool_]
    """[N] whether there was a text."""
    fingerprint: str
    """Of the model."""
    new: int
    """Different texts that went through the model; the others were known."""


class SentenceModel:
    """A model that turns texts into vectors, loaded when first needed.

    Args:
        folder: as sentence-transformers' ``save`` or transformers' ``save_pretrained`` writes.
        batch_size: texts a forward pass, >= 1.
        max_tokens: at which a text is cut, >= 1; at most what the model takes.
        device: `auto` (CUDA, else Apple's, else the CPU) or a name of torch's.

    Raises:
        CaptionaryError: here, and at the first `embed`: no such folder, or not a model that the libraries can read;
            a folder of sentence-transformers without the library.
    """

    def __init__(
        self, folder: Path, *, batch_size: int = 64, max_tokens: int = 256, device: str = "auto"
    ) -> None:
        for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
            if value < 1:
                raise bad_value(name, value, ">= 1")
        self.folder = Path(folder).expanduser()
        self.batch_size, self.max_tokens, self.device = batch_size, max_tokens, device
        if not any((self.folder / name).is_file() for name in (_MODULES, "config.json")):
            raise bad_value("sentence model", str(folder), f"a folder with {_MODULES} or config.json")
        self.packaged = (self.folder / _MODULES).is_file()
        """Whether it is a folder of sentence-transformers."""
        self.fingerprint = self._fingerprint()
        self._model: Any = None
        self._tokenizer: Any = None

    def embed(self, texts: Sequence[str]) -> Floats:
        """The vectors of texts, float32 [N, D], each of length 1. A vector does not depend on the texts beside it
        (but for rounding)."""
        if self._model is None:
            self._load()
        if not texts:
            return np.zeros((0, self._width()), np.float32)
        if self.packaged:
            raw = self._model.encode(
                list(texts), batch_size=self.batch_size, convert_to_numpy=True, show_progress_bar=False
            )
        else:
            raw = self._pooled(texts)
        vectors = np.asarray(raw, np.float32)
        if not np.isfinite(vectors).all():
            raise bad_value("sentence vector", "NaN or infinite", "finite", where=str(self.folder))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Floats = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        return unit

    def _pooled(self, texts: Sequence[str]) -> Floats:
        """The mean of the last hidden states over each text's tokens, [N, D]."""
        import torch

        out = np.empty((len(texts), self._width()), np.float32)
        # Alike in length, so that little is padded.
        order = sorted(range(len(texts)), key=lambda row: (len(texts[row]), row))
        with torch.inference_mode():
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                inputs = self._tokenizer(
                    [texts[row] for row in rows],
                    padding=True,
                    truncation=True,
                    max_length=self._limit(),
                    return_tensors="pt",
                ).to(self._model.device)
                hidden = self._model(**inputs).last_hidden_state.float()  # [B, S, D]
                mask = inputs["attention_mask"].unsqueeze(-1).float()
                mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
                out[rows] = mean.cpu().numpy()
        return out

    def _load(self) -> None:
        import torch

        chosen = self.device
        if chosen == "auto":
            chosen = (
                "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
            )
        try:
            if self.packaged:
                self._model = _packaged(self.folder, chosen)
                longest = self._model.max_seq_length
                self._model.max_seq_length = min(longest or self.max_tokens, self.max_tokens)
            else:
                from transformers import AutoModel, AutoTokenizer

                self._tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
                if self._tokenizer.pad_token is None:
                    self._tokenizer.pad_token = self._tokenizer.eos_token
                model: Any = AutoModel.from_pretrained(self.folder, local_files_only=True)
                if model.config.is_encoder_decoder:  # what it read is meant, not what it would answer
                    model = model.get_encoder()
                self._model = model.to(chosen).eval()
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
            rule = f"a model that {'sentence-transformers' if self.packaged else 'transformers'} can read"
            raise bad_value("sentence model", str(self.folder), rule, where=said) from None

    def _width(self) -> int:
        if self.packaged:
            # Before version 5 it had the longer name alone.
            ask = getattr(self._model, "get_embedding_dimension", None)
            return int((ask or self._model.get_sentence_embedding_dimension)())
        return int(self._model.config.hidden_size)

    def _limit(self) -> int:
        most = getattr(self._model.config, "max_position_embeddings", None) or self.max_tokens
        return min(self.max_tokens, int(self._tokenizer.model_max_length), int(most))

    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=12)
        names = sorted({path for pattern in _READ for path in self.folder.rglob(pattern) if path.is_file()})
        for path in names:
            name = path.relative_to(self.folder).as_posix()
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "blake2b").hexdigest()
            digest.update(json.dumps([name, found]).encode())
        digest.update(json.dumps([self.max_tokens, _VERSION]).encode())
        return f"sentence-{digest.hexdigest()}"


def embed_texts(
    texts: Sequence[str | None], model: SentenceModel, *, cache: Path | None = None
) -> TextVectors:
    """Vectors of texts; each different text goes through the model once, and with a cache once for all.

    Args:
        texts: N texts; None and blank ones have no vector.
        model: what makes the vectors.
        cache: a folder; ``FINGERPRINT.parquet`` in it has the vectors of this model.

    Raises:
        CaptionaryError: see `SentenceModel`; a cache that is damaged.
    """
    present = np.array([bool(text and text.strip()) for text in texts], bool)
    keys = [_key(text) if text and text.strip() else b"" for text in texts]
    wanted = {key: text for key, text in zip(keys, texts, strict=True) if key and text}
    path = None if cache is None else cache / f"{model.fingerprint}.parquet"
    known_keys, known = _read(path) if path is not None and path.exists() else ([], None)
    place = {key: row for row, key in enumerate(known_keys)}
    missing = [key for key in wanted if key not in place]
    if missing or known is None:
        made = model.embed([wanted[key] for key in missing])
        known = made if known is None else np.concatenate([known, made])
        place |= {key: len(known_keys) + row for row, key in enumerate(missing)}
        if path is not None and missing:
            _write(path, [*known_keys, *missing], known)
    vectors = np.zeros((len(texts), known.shape[1]), np.float32)
    vectors[present] = known[[place[key] for key in keys if key]]
    return TextVectors(vectors, present, model.fingerprint, len(missing))


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _packaged(folder: Path, device: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        rule = f"installed, as {folder} has {_MODULES}"
        todo = "pip install 'captionary[sentences]'"
        raise bad_value("sentence-transformers", "missing", rule, todo=todo) from None
    return SentenceTransformer(str(folder), device=device, local_files_only=True)


def _read(path: Path) -> tuple[list[bytes], Floats]:
    try:
        table = pq.read_table(path, partitioning=None).combine_chunks()
        keys: list[bytes] = table["text"].to_pylist()
        flat = table["vector"].combine_chunks().flatten().to_numpy()
        return keys, flat.reshape(len(keys), -1)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        said = str(error).splitlines()[0]
        todo = "delete it: it only saves work"
        raise bad_value("cache", str(path), "one that embed_texts wrote", where=said, todo=todo) from None


def _write(path: Path, keys: Sequence[bytes], vectors: Floats) -> None:
    flat = pa.array(vectors.reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    write_table(pa.table({"text": pa.array(keys, pa.binary(16)), "vector": lists}), path)
