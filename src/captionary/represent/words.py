"""Captions as words, and words as ids that are worked out once: the fast path of every tokenizer that reads words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from tokenizers import Regex, normalizers

from captionary.represent.jagged import Jagged

__all__ = ["NORMALIZER", "Spellings", "gather", "words_of"]

NORMALIZER = normalizers.Sequence(
    [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\p{L}\p{M}\p{N}]+"), " ")]
)
"""What the trained tokenizers do to a caption before they split it at white space."""

_ASCII_WORD = re.compile("[a-z0-9]+")
_MOST = 1_000_000  # words remembered: junk of an endless stream of captions must not fill the memory


def words_of(caption: str) -> list[str]:
    """Letters, marks and digits of any script in lower case, split at everything else.

    What `NORMALIZER` and white space make of a caption; for plain ASCII without asking them.

    >>> words_of("Two dogs, next-to a Straße!")
    ['two', 'dogs', 'next', 'to', 'a', 'straße']
    """
    if caption.isascii():
        return _ASCII_WORD.findall(caption.lower())
    return NORMALIZER.normalize_str(caption).split()


class Spellings(dict[str, bytes]):
    """word → its ids, as the bytes of an int32 array: a caption's ids are one `join` of those of its words.

    Captions say few distinct words very often, so what a word's ids are is asked for once; each later time is a
    look-up, whatever the tokenizer.
    """

    def __init__(self, spell: Callable[[str], Sequence[int]]) -> None:
        super().__init__()
        self.spell = spell

    def __missing__(self, word: str) -> bytes:
        if len(self) >= _MOST:
            self.clear()
        ids = self[word] = np.asarray(self.spell(word), np.int32).tobytes()
        return ids

    def join(self, words: Iterable[str]) -> bytes:
        """The ids of words, one after the other."""
        return b"".join(map(self.__getitem__, words))

    def encode(self, captions: Iterable[str]) -> Jagged:
        """The ids of each caption's `words_of`."""
        return gather([self.join(words_of(caption)) for caption in captions])


def gather(rows: Sequence[bytes]) -> Jagged:
    """Lists given as the bytes of int32 arrays, packed."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)) // 4, out=offsets[1:])
    return Jagged(np.frombuffer(b"".join(rows), np.int32).copy(), offsets)
