"""Any pretrained tokenizer, from the Hugging Face Hub or a folder: that of LLaMA 2, say, as the paper's model has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from captionary.errors import bad_value
from captionary.represent.jagged import Jagged
from captionary.represent.tokenizers import UNK, TokenizerConfig, VocabularyTokenizer
from captionary.represent.words import Spellings, gather

__all__ = ["HfTokenizer"]

_ANCHOR = "a"  # the word before the one that is asked for, where it is not the first
_SAMPLE = 2000  # captions that are read whole as well, to see that word by word gives the same
_SPLITTERS = {"BertPreTokenizer", "ByteLevel", "Metaspace", "Split", "Whitespace", "WhitespaceSplit"}
_SPACES = "▁Ġ "


class HfTokenizer(VocabularyTokenizer):
    """The library's ids, without special tokens, in a numbering of our own.

    A pretrained vocabulary has 32,000 to 256,000 tokens, of which captions use a few thousand. With `compact`, `fit`
    numbers those that at least `min_df` captions hold, the most frequent first, so that the ranker's token table has as
    many rows as there is something to learn for; growth numbers more of them. Without, id = library's id + 1.

    The library's unknown token is id 0. Captions are read with one space between words. Saved, the tokenizer brings the
    library's model with it: neither the Hub nor the folder is needed again.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self._library: Tokenizer | None = None
        self._map: npt.NDArray[np.int32] = np.zeros(0, np.int32)
        self._by_word = False

    @property
    def name(self) -> str:
        """The name in reports: of a folder, its last part."""
        return self.config.name or f"hf:{Path(self.config.kind.partition(':')[2]).name}"

    @property
    def drops(self) -> bool:
        """Whether a token outside the vocabulary is left out, rather than id 0."""
        return self.config.oov == "drop"

    def fit(self, captions: Sequence[str]) -> Self:
        """Load the tokenizer and number its tokens by the captions that hold them; the tokenizer itself.

        Raises:
            CaptionaryError: nothing to load under the ID or in the folder.
        """
        library = _load(self.config.kind.partition(":")[2])
        self._use(library)
        self._by_word = self._by_word and self._same_by_word(captions[:_SAMPLE])
        if self.config.compact:
            most = None if self.config.vocabulary_size is None else self.config.vocabulary_size - 1
            self.vocabulary = [UNK, *(token for token, _ in self._novel(captions)[:most])]
        else:
            count = library.get_vocab_size(with_added_tokens=True)
            tokens = [library.id_to_token(index) or f"#{index}" for index in range(count)]
            # Names are unique; what the library calls unknown has a row that nothing ever reads.
            self.vocabulary = [UNK, *(token if token != UNK else f"#{UNK}" for token in tokens)]
        self._index()
        return self._fitted(captions)

    def encode(self, captions: Sequence[str]) -> Jagged:
        """Token ids of each caption, int32, in reading order; an empty caption gives an empty list."""
        lists = self._raw(captions)
        values = self._map[lists.values] if len(lists.values) else lists.values
        if not self.drops:
            return Jagged(values, lists.offsets)
        kept = np.concatenate([[0], np.cumsum(values > 0)]).astype(np.int64)
        return Jagged(values[values > 0], kept[lists.offsets])

    def unknown(self, captions: Sequence[str]) -> float:
        """Share of the captions' tokens that have no id; nan where they have no tokens."""
        values = self._raw(captions).values
        return float(np.mean(self._map[values] == 0)) if len(values) else float("nan")

    def _raw(self, captions: Sequence[str]) -> Jagged:
        """The library's ids."""
        library = self._library
        if library is None:
            return Jagged(np.empty(0, np.int32), np.zeros(len(captions) + 1, np.int64))
        if not self._by_word:
            said = [" ".join(caption.split()) for caption in captions]
            found = library.encode_batch_fast(said, add_special_tokens=False)
            return Jagged.from_lists([each.ids for each in found])
        first, rest, apart = self._first, self._rest, self._apart
        rows = []
        for caption in captions:
            words = caption.split()
            row = first[words[0]] + rest.join(words[1:]) if words else b""
            if apart and not apart.isdisjoint(words):  # the library starts afresh after a special token
                ids = library.encode(" ".join(words), add_special_tokens=False).ids
                row = np.asarray(ids, np.int32).tobytes()
            rows.append(row)
        return gather(rows)

    def _use(self, library: Tokenizer) -> None:
        """Read with `library`, word by word where its own rules allow it."""
        library.no_padding()
        library.no_truncation()
        self._library = library
        rules = json.loads(library.to_str())
        self._by_word = _reads_by_word(rules)
        specials = [token["content"] for token in rules.get("added_tokens") or []]
        apart = self._apart = set[str]()
        anchor = library.encode(_ANCHOR, add_special_tokens=False).ids
        self._by_word &= bool(anchor)

        def spell(word: str) -> Sequence[int]:
            if any(special in word for special in specials):
                apart.add(word)
            ids: list[int] = library.encode(f"{_ANCHOR} {word}", add_special_tokens=False).ids
            return ids[len(anchor) :]

        def spell_first(word: str) -> Sequence[int]:
            if any(special in word for special in specials):
                apart.add(word)
            return library.encode(word, add_special_tokens=False).ids

        self._first = Spellings(spell_first)
        self._rest = Spellings(spell)

    def _same_by_word(self, captions: Sequence[str]) -> bool:
        """Whether captions read word by word are what the library makes of them whole."""
        by_word = self._raw(captions)
        self._by_word = False
        whole = self._raw(captions)
        return np.array_equal(by_word.values, whole.values) and np.array_equal(by_word.offsets, whole.offsets)

    def _unk(self) -> int | None:
        assert self._library is not None
        model = json.loads(self._library.to_str())["model"]
        token = model.get("unk_token")
        if token is None and isinstance(model.get("unk_id"), int):
            return int(model["unk_id"])
        return None if token is None else self._library.token_to_id(token)

    def _novel(self, captions: Sequence[str]) -> list[tuple[str, Sequence[int] | None]]:
        library = self._library
        if library is None or not self.config.compact:
            return []
        lists = self._raw(captions)
        size = library.get_vocab_size(with_added_tokens=True)
        rows = np.repeat(np.arange(lists.rows), lists.lengths)
        counts = np.bincount(np.unique(rows * size + lists.values) % size, minlength=size)
        order = np.argsort(-counts, kind="stable")
        unk, known = self._unk(), set(self.vocabulary)
        kept = (int(index) for index in order if counts[index] >= self.config.min_df and index != unk)
        tokens = (str(library.id_to_token(index)) for index in kept)
        return [(token, None) for token in tokens if token not in known]

    def _learn_novel(self, _captions: Sequence[str]) -> None:
        self._index()

    def _index(self) -> None:
        """library id → our id, 0 where it has none."""
        library = self._library
        if library is None:
            return
        size = library.get_vocab_size(with_added_tokens=True)
        if self.config.compact:
            self._map = np.zeros(size, np.int32)
            for index, token in enumerate(self.vocabulary[1:], 1):
                self._map[library.token_to_id(token)] = index
        else:
            self._map = np.arange(1, size + 1, dtype=np.int32)
        unk = self._unk()
        if unk is not None:
            self._map[unk] = 0

    def fingerprint(self) -> str:
        """A digest of everything that decides what `encode` gives; of where the tokenizer was loaded from, nothing."""
        return self._digest({**self._payload(), "kind": "hf"}, without=("name", "kind"))

    def _remembered(self) -> dict[str, Any]:
        library = None if self._library is None else self._library.to_str()
        return {"library": library, "by_word": self._by_word}

    def _restore(self, payload: Mapping[str, Any]) -> None:
        super()._restore(payload)
        if payload["library"] is not None:
            try:
                self._use(Tokenizer.from_str(payload["library"]))
            except Exception as error:  # what the library raises for a damaged file is a bare Exception
                raise ValueError(str(error)) from None
        self._by_word = bool(payload["by_word"])
        self._index()


def _load(source: str) -> Tokenizer:
    """The fast tokenizer of a folder or of the Hub.

    Raises:
        CaptionaryError: there is none.
    """
    file = Path(source) / "tokenizer.json"
    todo = "give a folder that save_pretrained wrote, or the id of a repository on the Hub"
    try:
        if file.is_file():
            return Tokenizer.from_file(str(file))
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(source, use_fast=True).backend_tokenizer
    except Exception as error:  # the libraries raise whatever their many loaders do
        where = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise bad_value(
            "tokenizer", source, "one that transformers can load", where=where, todo=todo
        ) from None


def _reads_by_word(said: Mapping[str, Any]) -> bool:
    """Whether the library's rules, as its JSON says them, never look beyond a word between single spaces."""
    added = said.get("added_tokens") or []
    if any(token["rstrip"] or any(mark.isspace() for mark in token["content"]) for token in added):
        return False
    if _splits(said.get("pre_tokenizer")):
        return True
    # Unsplit, as LLaMA 2: pieces stay within words where no token of the vocabulary reaches over a space.
    model = said["model"]
    vocabulary = model.get("vocab") or {}
    tokens = vocabulary if isinstance(vocabulary, dict) else [token for token, _ in vocabulary]
    return model["type"] in ("BPE", "Unigram") and not any(_reaches_over(token) for token in tokens)


def _splits(rule: Mapping[str, Any] | None) -> bool:
    if rule is None:
        return False
    if rule["type"] == "Sequence":
        return any(map(_splits, rule["pretokenizers"]))
    return (
        rule["type"] in _SPLITTERS and rule.get("split", True) is True and rule.get("use_regex", True) is True
    )


def _reaches_over(token: str) -> bool:
    bare = token.strip(_SPACES[0])
    return any(mark in token[1:] for mark in _SPACES) and bool(bare)
