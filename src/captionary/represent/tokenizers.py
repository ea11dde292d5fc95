"""Tokenizers of captions: one protocol, one registry, one file format; ids that never move once fitted."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from captionary.config import from_mapping, to_mapping
from captionary.errors import CaptionaryError, bad_value, nearest
from captionary.publish import atomic_file
from captionary.represent.jagged import Jagged

__all__ = [
    "TOKENIZERS",
    "UNK",
    "Tokenizer",
    "TokenizerConfig",
    "VocabularyTokenizer",
    "load_tokenizer",
    "make_tokenizer",
]

UNK = "[UNK]"
"""The token of id 0 in every vocabulary."""

FORMAT = "captionary-tokenizer"
VERSION = 1

TOKENIZERS: dict[str, str] = {
    "concepts": "captionary.represent.concepts:ConceptTokenizer",
    "wordpiece": "captionary.represent.wordpiece:WordPieceTokenizer",
}
"""kind -> "module:Class", imported when first asked for. An entry more is a tokenizer more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What a tokenizer is fitted with; a field that names a kind is read by that kind alone."""

    kind: str = "concepts"
    """An entry of `TOKENIZERS`."""
    name: str = ""
    """What the report calls it; empty: the kind."""
    vocabulary_size: int | None = None
    """Most tokens kept, [UNK] included, >= 2; None: 8,000 for concepts, 2,000 for wordpiece."""
    min_df: int = 2
    """concepts: fewest captions that hold a token; wordpiece: fewest times a merged pair occurs; >= 1."""
    max_df: float = 0.5
    """concepts: largest share of the captions that may hold a token, in (0, 1]."""
    phrases: bool = True
    """concepts: noun phrases ("red sofa") and relation phrases ("dog on sofa") beside the single words."""
    oov: Literal["drop", "unk"] | None = None
    """concepts: what becomes of one outside the vocabulary: nothing (None: the same), or id 0."""

    def __post_init__(self) -> None:
        if self.kind not in TOKENIZERS:
            raise bad_value("tokenizer kind", self.kind, nearest(self.kind, TOKENIZERS))
        if self.vocabulary_size is not None and self.vocabulary_size < 2:
            raise bad_value("vocabulary_size", self.vocabulary_size, ">= 2")
        if self.min_df < 1:
            raise bad_value("min_df", self.min_df, ">= 1 captions")
        if not 0 < self.max_df <= 1:
            raise bad_value("max_df", self.max_df, "a share in (0, 1]")


@runtime_checkable
class Tokenizer(Protocol):
    """Captions in, jagged int32 token ids out.

    Fit it on captions of training items alone: the vocabulary and the document frequencies must not know the
    items that a ranker is evaluated on. Captions are taken as `normalize` gives them.
    """

    config: TokenizerConfig
    vocabulary: list[str]
    """index = id; id 0 is `UNK`."""

    @property
    def name(self) -> str:
        """The name in reports and column names."""
        ...

    @property
    def kind(self) -> str:
        """The registry's name."""
        ...

    def fit(self, captions: Sequence[str]) -> Tokenizer:
        """Take the vocabulary and document frequencies of captions; the tokenizer itself."""
        ...

    def encode(self, captions: Sequence[str]) -> Jagged:
        """Token ids of each caption, int32, as they come; none for an empty caption."""
        ...

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer[Any]]) -> list[str]:
        """The tokens of ids, in order."""
        ...

    def idf(self) -> npt.NDArray[np.float32]:
        """Inverse document frequencies, float32 [V]."""
        ...

    def save(self, directory: Path) -> None:
        """Write the tokenizer into a directory, for `load_tokenizer`."""
        ...

    def fingerprint(self) -> str:
        """A digest of everything that decides what `encode` gives."""
        ...


class VocabularyTokenizer:
    """What tokenizers with a fitted vocabulary share: the file, the fingerprint, decoding and idf.

    A subclass gives `fit` and `encode`, its `default_size`, the version of its rules, and what it must
    remember besides the vocabulary (`_remembered`).
    """

    default_size = 2000
    rules = 1
    """Raised by whoever changes how text becomes tokens: a file of other rules is refused, not misread."""

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config
        self.vocabulary: list[str] = [UNK]
        self.documents = 0
        self.document_frequency: npt.NDArray[np.int64] = np.zeros(1, np.int64)
        """How many of the captions fitted on hold each token, int64 [V]."""

    @property
    def kind(self) -> str:
        """The registry's name of this tokenizer."""
        return self.config.kind

    @property
    def name(self) -> str:
        """The name in reports and in column names."""
        return self.config.name or self.config.kind

    @property
    def size(self) -> int:
        """The most tokens that `fit` keeps, [UNK] included."""
        return self.config.vocabulary_size or self.default_size

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer[Any]]) -> list[str]:
        """The tokens of ids, in order.

        Raises:
            CaptionaryError: an id outside the vocabulary.
        """
        for token in ids:
            if not 0 <= token < len(self.vocabulary):
                raise bad_value("token id", int(token), f"in 0..{len(self.vocabulary) - 1}", where=self.name)
        return [self.vocabulary[token] for token in ids]

    def idf(self) -> npt.NDArray[np.float32]:
        """Inverse document frequency ln((1 + N) / (1 + df)) + 1, float32 [V]: at least 1, smooth at 0."""
        return cast(
            "npt.NDArray[np.float32]",
            (np.log((1 + self.documents) / (1 + self.document_frequency)) + 1).astype(np.float32),
        )

    def fingerprint(self) -> str:
        """A digest of everything that decides what `encode` gives; hexadecimal."""
        payload = self._payload()
        payload["config"] = {key: value for key, value in payload["config"].items() if key != "name"}
        return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()[:32]

    def save(self, directory: Path) -> None:
        """Write ``directory/tokenizer.json``; it is there whole or not at all."""
        with atomic_file(directory / "tokenizer.json") as file:
            file.write(json.dumps(self._payload(), ensure_ascii=False, indent=0).encode())

    def _payload(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "rules": self.rules,
            "config": to_mapping(self.config),
            "documents": self.documents,
            "vocabulary": self.vocabulary,
            "document_frequency": self.document_frequency.tolist(),
            **self._remembered(),
        }

    def _remembered(self) -> dict[str, Any]:
        """JSON values beside the vocabulary that `encode` needs."""
        return {}

    def _restore(self, payload: Mapping[str, Any]) -> None:
        """Take the state that `_payload` wrote."""
        self.documents = int(payload["documents"])
        self.vocabulary = [str(token) for token in payload["vocabulary"]]
        self.document_frequency = np.array(payload["document_frequency"], dtype=np.int64)
        if self.vocabulary[:1] != [UNK] or len(self.document_frequency) != len(self.vocabulary):
            raise ValueError("the vocabulary and its frequencies do not fit together")


def make_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """A tokenizer of the config's kind, not yet fitted: its vocabulary is [UNK] alone."""
    return _class_of(config.kind)(config)  # type: ignore[return-value]


def load_tokenizer(directory: Path) -> Tokenizer:
    """Read a tokenizer that `save` wrote.

    Raises:
        CaptionaryError: no such file, a file of another format, version, rules or kind, or a damaged one.
    """
    path = directory / "tokenizer.json"
    refit = "fit the tokenizer again (captionary tokenize)"
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise bad_value("tokenizer", str(path), "a file that exists", todo=refit) from None
    except (OSError, ValueError) as error:
        raise bad_value("tokenizer", str(path), "readable JSON", where=str(error), todo=refit) from None
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise bad_value("tokenizer", str(path), f"a file of format {FORMAT}", todo=refit)
    if payload.get("version") != VERSION:
        raise bad_value("version", payload.get("version"), f"{VERSION}", where=str(path), todo=refit)
    try:
        tokenizer = _class_of(payload["config"]["kind"])(
            from_mapping(TokenizerConfig, payload["config"], where=str(path))
        )
        if payload["rules"] != tokenizer.rules:
            raise bad_value("rules", payload["rules"], f"{tokenizer.rules}", where=str(path), todo=refit)
        tokenizer._restore(payload)
    except (KeyError, TypeError, ValueError) as error:
        raise bad_value("tokenizer", str(path), "undamaged", where=repr(error), todo=refit) from None
    return tokenizer  # type: ignore[return-value]


def _class_of(kind: str) -> type[VocabularyTokenizer]:
    if kind not in TOKENIZERS:
        raise bad_value("tokenizer kind", kind, nearest(kind, TOKENIZERS))
    module, _, name = TOKENIZERS[kind].partition(":")
    try:
        return cast("type[VocabularyTokenizer]", getattr(importlib.import_module(module), name))
    except ModuleNotFoundError as error:
        raise CaptionaryError(f"tokenizer kind == {kind}, must be installed; {error}") from None
