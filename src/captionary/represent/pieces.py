"""Tokenizers that spell words in pieces, by Hugging Face `tokenizers`: what wordpiece, bpe and unigram share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from tokenizers import Tokenizer

from captionary.represent.jagged import Jagged
from captionary.represent.tokenizers import UNK, TokenizerConfig, VocabularyTokenizer
from captionary.represent.words import Spellings, words_of

__all__ = ["CONTINUES", "PieceTokenizer", "merging"]

CONTINUES = "##"
"""What a piece bears that does not begin a word, where the kind marks those."""


class PieceTokenizer(VocabularyTokenizer):
    """A tokenizer whose library model spells each word for itself.

    As the model never looks beyond a word, the ids of a caption are those of its words: each distinct word is given to
    the library once, and the result equals the library's own call on the whole caption.

    A word that comes with growth is a token of its own, whole; a word that `min_df` captions held before keeps its
    pieces for ever.
    """

    starts = ""
    """What a piece bears that begins a word, where the kind marks those."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self._words: set[str] = set()
        self._use(self._library([UNK]))

    def fit(self, captions: Sequence[str]) -> Self:
        """Train the pieces on `captions`, in any order, and count in how many of them each is; the tokenizer itself."""
        self.vocabulary = self._train(captions) if any(map(words_of, captions)) else [UNK]
        self.sizes = [len(self.vocabulary)]
        self._use(self._library(self.vocabulary))
        self._words = {word for word, count in _frequencies(captions).items() if count >= self.config.min_df}
        return self._fitted(captions)

    def encode(self, captions: Sequence[str]) -> Jagged:
        """Token ids of each caption, int32, in reading order; an empty caption gives an empty list."""
        return self._spellings.encode(captions)

    def _train(self, captions: Sequence[str]) -> list[str]:
        """The vocabulary that captions give, [UNK] first, at most `size`; at least one of them has a word."""
        raise NotImplementedError

    def _library(self, vocabulary: Sequence[str]) -> Tokenizer:
        """The library's tokenizer for the vocabulary of version 0 (and what `_train` took besides)."""
        raise NotImplementedError

    def _use(self, model: Tokenizer) -> None:
        """Spell with `model`, and whole where a word came with growth."""
        self._model = model
        added = range(self.sizes[0], len(self.vocabulary))
        whole = {self.vocabulary[token].removeprefix(self.starts): token for token in added}

        def spell(word: str) -> Sequence[int]:
            token = whole.get(word)
            if token is not None:
                return (token,)
            return model.encode(word, add_special_tokens=False).ids

        self._spellings = Spellings(spell)

    def _novel(self, captions: Sequence[str]) -> list[tuple[str, Sequence[int] | None]]:
        known = set(self.vocabulary)
        novel: list[tuple[str, Sequence[int] | None]] = []
        frequencies = _frequencies(captions)
        for word in sorted(frequencies, key=lambda word: (-frequencies[word], word)):
            if frequencies[word] < self.config.min_df or word in self._words or self.starts + word in known:
                continue
            spelling = self._spellings.encode([word]).values.tolist()
            if len(spelling) != 1 or spelling == [0]:
                novel.append((self.starts + word, spelling))
        return novel

    def _learn_novel(self, captions: Sequence[str]) -> None:
        self._words |= {word for word, count in _frequencies(captions).items() if count >= self.config.min_df}
        self._use(self._model)

    def _remembered(self) -> dict[str, Any]:
        return {"words": sorted(self._words)}

    def _restore(self, payload: Mapping[str, Any]) -> None:
        super()._restore(payload)
        self._words = set(payload["words"])
        self._use(self._library(self.vocabulary[: self.sizes[0]]))


def merging(captions: Iterable[str], size: int, min_df: int) -> dict[str, Any]:
    """Options of the library's trainers that merge pairs, with which they number alike in any process.

    They number what they meet in the order of a hash map, and break ties by those numbers. All letters given as special
    tokens have their numbers before that. The rarest letters are left out where they would fill half of the vocabulary.
    """
    letters = Counter[str]()
    for word, count in Counter(word for caption in captions for word in words_of(caption)).items():
        for letter in word:
            letters[letter] += count
    alphabet = [letter for letter, _ in sorted(letters.items(), key=lambda pair: (-pair[1], pair[0]))]
    alphabet = alphabet[: (size - 1) // 2]
    return {
        "vocab_size": size,
        "min_frequency": min_df,
        "special_tokens": [UNK, *alphabet, *(CONTINUES + letter for letter in alphabet)],
        "initial_alphabet": alphabet,
        "limit_alphabet": len(alphabet),
        "continuing_subword_prefix": CONTINUES,
        "show_progress": False,
    }


def _frequencies(captions: Iterable[str]) -> Counter[str]:
    """How many captions hold each word."""
    return Counter(word for caption in captions for word in set(words_of(caption)))
