"""Tokenizer B: WordPiece by Hugging Face `tokenizers`, trained on the captions; punctuation left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from captionary.represent.jagged import Jagged
from captionary.represent.tokenizers import UNK, TokenizerConfig, VocabularyTokenizer

__all__ = ["WordPieceTokenizer"]

_CONTINUES = "##"


class WordPieceTokenizer(VocabularyTokenizer):
    """Tokenizer B. Pieces of words: "skateboarder" may be ``skate ##board ##er``.

    A word with a letter that the captions fitted on do not have becomes id 0, [UNK]; any other word is spelt
    in pieces. The same captions give the same vocabulary in any order and in any process.
    """

    default_size = 2000

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self._use(self.vocabulary)

    def fit(self, captions: Sequence[str]) -> WordPieceTokenizer:
        """Train the pieces on `captions` and count in how many of them each is; the tokenizer itself."""
        self._use(self._train(captions))
        lists = self.encode(captions)
        rows = np.repeat(np.arange(lists.rows), lists.lengths)
        pairs = np.unique(rows * len(self.vocabulary) + lists.values)
        self.documents = len(captions)
        self.document_frequency = np.bincount(pairs % len(self.vocabulary), minlength=len(self.vocabulary))
        return self

    def encode(self, captions: Sequence[str]) -> Jagged:
        """Token ids of each caption, int32, in reading order; an empty caption gives an empty list."""
        values: list[int] = []
        lengths = np.zeros(len(captions) + 1, dtype=np.int64)
        for row, caption in enumerate(captions, 1):
            before = len(values)
            for word in _words(caption):
                values += self._pieces.get(word) or self._spell(word)
            lengths[row] = len(values) - before
        return Jagged(np.array(values, dtype=np.int32), np.cumsum(lengths))

    def _spell(self, word: str) -> list[int]:
        """The pieces of a word; words repeat so much that remembering them is most of the speed."""
        if len(self._pieces) > 1_000_000:
            self._pieces.clear()
        pieces = self._pieces[word] = self._model.encode(word, add_special_tokens=False).ids
        return pieces

    def _use(self, vocabulary: list[str]) -> None:
        self.vocabulary = vocabulary
        self._model = _model(vocabulary)
        self._pieces: dict[str, list[int]] = {}

    def _train(self, captions: Sequence[str]) -> list[str]:
        letters = Counter[str]()
        for word, count in Counter(word for caption in captions for word in _words(caption)).items():
            for letter in word:
                letters[letter] += count
        alphabet = [letter for letter, _ in sorted(letters.items(), key=lambda pair: (-pair[1], pair[0]))]
        alphabet = alphabet[: (self.size - 1) // 2]
        # The trainer numbers what it meets in the order of a hash map, and breaks ties by those numbers. All
        # letters given as special tokens have their numbers before that.
        specials = [UNK, *alphabet, *(_CONTINUES + letter for letter in alphabet)]
        trainer = trainers.WordPieceTrainer(
            vocab_size=self.size,
            min_frequency=self.config.min_df,
            special_tokens=specials,
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            continuing_subword_prefix=_CONTINUES,
            show_progress=False,
        )
        learner = _model([UNK])
        learner.train_from_iterator(captions, trainer)
        ids = learner.get_vocab(with_added_tokens=True)
        return sorted(ids, key=ids.__getitem__)

    def _restore(self, payload: Mapping[str, Any]) -> None:
        super()._restore(payload)
        self._use(self.vocabulary)


_NORMALIZER = normalizers.Sequence(
    [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\p{L}\p{M}\p{N}]+"), " ")]
)


_ASCII_WORD = re.compile("[a-z0-9]+")


def _words(caption: str) -> list[str]:
    """What `_NORMALIZER` and white space make of a caption; for plain ASCII without asking them."""
    if caption.isascii():
        return _ASCII_WORD.findall(caption.lower())
    return _NORMALIZER.normalize_str(caption).split()


def _model(vocabulary: Sequence[str]) -> Tokenizer:
    ids = {token: index for index, token in enumerate(vocabulary)}
    model = Tokenizer(models.WordPiece(vocab=ids, unk_token=UNK, continuing_subword_prefix=_CONTINUES))
    model.normalizer = _NORMALIZER
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return model
