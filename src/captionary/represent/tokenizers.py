"""Tokenizers of captions: one protocol, one registry, one file format; ids that never move once fitted."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from captionary.config import from_mapping, to_mapping
from captionary.errors import CaptionaryError, bad_value, nearest
from captionary.publish import atomic_file
from captionary.represent.jagged import Jagged
from captionary.represent.versions import respell

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
VERSION = 2

TOKENIZERS: dict[str, str] = {
    "bpe": "captionary.represent.bpe:BpeTokenizer",
    "concepts": "captionary.represent.concepts:ConceptTokenizer",
    "hash": "captionary.represent.hashing_tokenizer:HashTokenizer",
    "hf": "captionary.represent.hf_tokenizer:HfTokenizer",
    "phrases": "captionary.represent.phrases:PhraseTokenizer",
    "unigram": "captionary.represent.unigram:UnigramTokenizer",
    "wordpiece": "captionary.represent.wordpiece:WordPieceTokenizer",
}
"""kind -> "module:Class", imported when first asked for. An entry more is a tokenizer more. `hf` is asked for with what
to load, as ``hf:ID-or-folder``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What a tokenizer is fitted with; a field that names a kind is read by that kind alone."""

    kind: str = "concepts"
    """An entry of `TOKENIZERS`; of `hf` with what to load: ``hf:ID`` of the Hugging Face Hub, or ``hf:FOLDER``."""
    name: str = ""
    """What the report calls it; empty: the kind."""
    vocabulary_size: int | None = None
    """Most tokens kept by `fit`, [UNK] included, >= 2; None: 8,000 for concepts and phrases, 2,000 for wordpiece, bpe
    and unigram, 16,384 for hash, all for hf."""
    min_df: int = 2
    """Fewest captions that hold a token, or fewest times a merged pair occurs (wordpiece, bpe); >= 1. Of hash: none."""
    max_df: float = 0.5
    """concepts, phrases: largest share of the captions that may hold a token, in (0, 1]."""
    phrases: bool = True
    """concepts, phrases: phrases ("red sofa"; concepts also "dog on sofa") beside the single words."""
    ngrams: int | None = None
    """hash: longest run of words that is one token (None: 2); phrases: longest collocation (None: 3); >= 1."""
    min_npmi: float = 0.3
    """phrases: least normalised pointwise mutual information of the parts of a collocation, -1 to 1."""
    compact: bool = True
    """hf: number only the tokens that the captions have; false: all of the pretrained vocabulary, in its order."""
    oov: Literal["drop", "unk"] | None = None
    """concepts, phrases, hf: what becomes of a token outside the vocabulary: nothing, or id 0; None: id 0 for hf,
    nothing for the others."""

    def __post_init__(self) -> None:
        family, colon, source = self.kind.partition(":")
        if family not in TOKENIZERS or (colon and family != "hf"):
            raise bad_value("tokenizer kind", self.kind, nearest(self.kind, TOKENIZERS))
        if family == "hf" and not source:
            raise bad_value(
                "tokenizer kind", self.kind, "hf:ID-or-folder, such as hf:meta-llama/Llama-2-7b-hf"
            )
        if self.vocabulary_size is not None and self.vocabulary_size < 2:
            raise bad_value("vocabulary_size", self.vocabulary_size, ">= 2")
        if self.min_df < 1:
            raise bad_value("min_df", self.min_df, ">= 1 captions")
        if not 0 < self.max_df <= 1:
            raise bad_value("max_df", self.max_df, "a share in (0, 1]")
        if self.ngrams is not None and self.ngrams < 1:
            raise bad_value("ngrams", self.ngrams, ">= 1 words")
        if not -1 <= self.min_npmi <= 1:
            raise bad_value("min_npmi", self.min_npmi, "from -1 to 1")

    @property
    def family(self) -> str:
        """The entry of `TOKENIZERS`: the kind without what to load."""
        return self.kind.partition(":")[0]


@runtime_checkable
class Tokenizer(Protocol):
    """Captions in, jagged int32 token ids out.

    Fit it on captions of training items alone: the vocabulary and the document frequencies must not know the
    items that a ranker is evaluated on. Captions are taken as `normalize` gives them.
    """

    config: TokenizerConfig
    vocabulary: list[str]
    """index = id; id 0 is `UNK`."""
    sizes: list[int]
    """The size of the vocabulary at each version, the last one its size now."""

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

    def grow(self, captions: Sequence[str], *, most: int | None = None) -> Tokenizer:
        """The next version, which also knows the tokens of newer captions; no token is renumbered."""
        ...

    def project(self, lists: Jagged, version: int) -> Jagged:
        """Lists of this version as an older version would have encoded the same captions."""
        ...

    def unknown(self, captions: Sequence[str]) -> float:
        """Share of the captions' tokens that the vocabulary does not have; nan where they have no tokens."""
        ...

    def save(self, directory: Path) -> None:
        """Write the tokenizer into a directory, for `load_tokenizer`."""
        ...

    def fingerprint(self) -> str:
        """A digest of everything that decides what `encode` gives."""
        ...


class VocabularyTokenizer:
    """What tokenizers share: the file, the fingerprint, decoding, idf, and versions that never renumber a token.

    A subclass gives `fit` and `encode`, its `default_size`, the version of its rules, what it must remember besides the
    vocabulary (`_remembered`), and the tokens that newer captions bring (`_novel`).
    """

    default_size = 2000
    rules = 1
    """Raised by whoever changes how text becomes tokens: a file of other rules is refused, not misread."""

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config
        self.vocabulary: list[str] = [UNK]
        self.sizes = [1]
        """The size of the vocabulary at each version; `fit` makes version 0."""
        self.spelt: dict[int, list[int]] = {}
        """Id of an added token → the ids that stood for it in the version before; absent: as out of vocabulary."""
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

    @property
    def version(self) -> int:
        """How often the vocabulary has grown."""
        return len(self.sizes) - 1

    @property
    def drops(self) -> bool:
        """Whether a token outside the vocabulary is left out, rather than id 0."""
        return False

    def encode(self, captions: Sequence[str]) -> Jagged:
        """Token ids of each caption, int32, in reading order; an empty caption gives an empty list."""
        raise NotImplementedError

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

    def unknown(self, captions: Sequence[str]) -> float:
        """Share of the captions' tokens that the vocabulary does not have; nan where they have no tokens."""
        values = self.encode(captions).values
        return float(np.mean(values == 0)) if len(values) else float("nan")

    def grow(self, captions: Sequence[str], *, most: int | None = None) -> Self:
        """The next version: this tokenizer with the tokens of newer captions added after its own.

        Every token keeps its id, and `project` turns what the next version encodes into what this one does. Document
        frequencies count the new captions as well; those of an added token count from now on.

        Args:
            captions: newer captions of training items, as `normalize` gives them.
            most: most tokens to add, the most frequent first, >= 0; None: all that at least `min_df` of the captions
                hold.

        Raises:
            CaptionaryError: a negative `most`.
        """
        if most is not None and most < 0:
            raise bad_value("most", most, ">= 0")
        grown = type(self)(self.config)
        grown._restore(self._payload())
        novel = self._novel(captions)[:most]
        for token, spelling in novel:
            if spelling is not None:
                grown.spelt[len(grown.vocabulary)] = list(spelling)
            grown.vocabulary.append(token)
        grown.sizes.append(len(grown.vocabulary))
        grown._learn_novel(captions)
        before = np.pad(self.document_frequency, (0, len(novel)))
        grown.document_frequency = before + grown._count(captions)
        grown.documents += len(captions)
        return grown

    def project(self, lists: Jagged, version: int) -> Jagged:
        """Lists of this version as version `version` would have encoded the same captions.

        What a ranker trained on that version reads: the ids are within its table, and a token that it never met is
        spelt as its own tokenizer would have spelt it, or is out of vocabulary.

        Raises:
            CaptionaryError: no such version.
        """
        if not 0 <= version <= self.version:
            raise bad_value("version", version, f"in 0..{self.version}", where=self.name)
        for older in reversed(self.sizes[version:-1]):
            lists = respell(lists, older, self.spelt, [] if self.drops else [0])
        return lists

    def fingerprint(self) -> str:
        """A digest of everything that decides what `encode` gives; hexadecimal."""
        return self._digest(self._payload(), without=("name",))

    @staticmethod
    def _digest(payload: dict[str, Any], *, without: Sequence[str]) -> str:
        """Of what `_payload` gives, some keys of the config aside."""
        payload["config"] = {key: value for key, value in payload["config"].items() if key not in without}
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
            "sizes": self.sizes,
            "spelt": {str(token): ids for token, ids in self.spelt.items()},
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
        self.sizes = [int(size) for size in payload["sizes"]]
        self.spelt = {int(token): [int(i) for i in ids] for token, ids in payload["spelt"].items()}
        if self.vocabulary[:1] != [UNK] or len(self.document_frequency) != len(self.vocabulary):
            raise ValueError("the vocabulary and its frequencies do not fit together")
        if self.sizes[-1:] != [len(self.vocabulary)] or sorted(self.sizes) != self.sizes:
            raise ValueError("the vocabulary and the sizes of its versions do not fit together")

    def _novel(self, captions: Sequence[str]) -> list[tuple[str, Sequence[int] | None]]:
        """Tokens that captions bring, with how this version spells them (None: out of vocabulary), best first."""
        raise NotImplementedError

    def _learn_novel(self, captions: Sequence[str]) -> None:
        """Make the tokens just added known to `encode`."""

    def _count(self, captions: Sequence[str]) -> npt.NDArray[np.int64]:
        """How many of the captions hold each token, int64 [V]."""
        lists, size = self.encode(captions), len(self.vocabulary)
        rows = np.repeat(np.arange(lists.rows), lists.lengths)
        pairs = np.unique(rows * size + lists.values)
        return np.bincount(pairs % size, minlength=size).astype(np.int64)

    def _fitted(self, captions: Sequence[str]) -> Self:
        """End `fit`: this vocabulary is version 0, counted in `captions`."""
        self.sizes, self.spelt = [len(self.vocabulary)], {}
        self.documents = len(captions)
        self.document_frequency = self._count(captions)
        return self


def make_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """A tokenizer of the config's kind, not yet fitted: its vocabulary is [UNK] alone."""
    return _class_of(config.family)(config)  # type: ignore[return-value]


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
        config = from_mapping(TokenizerConfig, payload["config"], where=str(path))
        tokenizer = _class_of(config.family)(config)
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
