"""Tokens as people read them: the words behind ids."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.represent.tokenizers import load_tokenizer

__all__ = ["Words"]


class Words:
    """The vocabulary of the tokenizer whose tokens the store holds.

    Args:
        vocabulary: index = id.
        idf: float32 [V].
        name: of the tokenizer.
    """

    def __init__(self, vocabulary: list[str], idf: npt.NDArray[np.float32], name: str = "") -> None:
        self.vocabulary, self.idf, self.name = vocabulary, idf, name
        self._ids = {word: token for token, word in reversed(list(enumerate(vocabulary)))}

    @classmethod
    def load(cls, folder: Path) -> Words:
        """Of a tokenizer's folder.

        Raises:
            CaptionaryError: there is none.
        """
        tokenizer = load_tokenizer(folder)
        return cls(tokenizer.vocabulary, tokenizer.idf(), tokenizer.name)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def word(self, token: int) -> str:
        """The word of an id; of one that the tokenizer does not know its number, as `#17`."""
        return self.vocabulary[token] if 0 <= token < len(self.vocabulary) else f"#{token}"

    def words(self, tokens: Iterable[int]) -> list[str]:
        """The words of ids, in order."""
        return [self.word(token) for token in tokens]

    def token(self, word: str) -> int:
        """The id of a word.

        Raises:
            CaptionaryError: the vocabulary has no such word.
        """
        token = self._ids.get(word)
        if token is None:
            raise bad_value("word", word, "one of the tokenizer's", where=self.name or None)
        return token
