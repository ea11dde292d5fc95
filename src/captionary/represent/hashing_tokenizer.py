"""The hashing trick (Weinberger et al. 2009): runs of words as ids without a vocabulary, the same everywhere."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Self

import numpy as np

from captionary.represent.jagged import Jagged
from captionary.represent.tokenizers import UNK, TokenizerConfig, VocabularyTokenizer
from captionary.represent.words import Spellings, gather, words_of

__all__ = ["HashTokenizer", "bucket_of"]

_LONGEST = 2


class HashTokenizer(VocabularyTokenizer):
    """Every run of 1 to `ngrams` words is the bucket that its digest falls into, 1 to `vocabulary_size` - 1.

    Nothing is out of vocabulary and nothing has to be fitted before captions are encoded: what was made on one machine
    fits what is made on any other. The price: runs that share a bucket cannot be told apart. `fit` only counts in how
    many captions each bucket is, for the idf, and names it after its most frequent run; an unnamed one is ``#ID``.
    """

    default_size = 16_384

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.vocabulary = [UNK, *(f"#{bucket}" for bucket in range(1, self.size))]
        self.sizes = [self.size]
        self.document_frequency = np.zeros(self.size, np.int64)
        self._buckets = Spellings(lambda run: (bucket_of(run, self.size),))

    @property
    def longest(self) -> int:
        """The most words of a run."""
        return self.config.ngrams or _LONGEST

    def fit(self, captions: Sequence[str]) -> Self:
        """Count buckets in `captions` and name them; the tokenizer itself."""
        runs = Counter(run for caption in captions for run in self._runs(caption))
        self.vocabulary = [UNK, *(f"#{bucket}" for bucket in range(1, self.size))]
        named = set()
        for run, _ in sorted(runs.items(), key=lambda pair: (-pair[1], pair[0])):
            bucket = bucket_of(run, self.size)
            if bucket not in named:
                named.add(bucket)
                self.vocabulary[bucket] = run
        return self._fitted(captions)

    def encode(self, captions: Sequence[str]) -> Jagged:
        """Buckets of each caption's words, then of its pairs and longer runs, int32."""
        return gather([self._buckets.join(self._runs(caption)) for caption in captions])

    def unknown(self, captions: Sequence[str]) -> float:
        """0: every run has a bucket; nan where there are no words."""
        return 0.0 if any(words_of(caption) for caption in captions) else float("nan")

    def _novel(self, _captions: Sequence[str]) -> list[tuple[str, Sequence[int] | None]]:
        return []  # the buckets are all there from the start

    def _runs(self, caption: str) -> list[str]:
        words = words_of(caption)
        runs = words.copy()
        if self.longest > 1:
            runs += map(_pair, words, words[1:])
        for length in range(3, self.longest + 1):
            runs += [" ".join(words[start : start + length]) for start in range(len(words) - length + 1)]
        return runs


def bucket_of(run: str, size: int) -> int:
    """The bucket of a run of words, 1 to `size` - 1, by its BLAKE2b digest: the same in any process and on any machine.

    >>> bucket_of("red sofa", 16_384)
    868
    """
    digest = hashlib.blake2b(run.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % (size - 1)


def _pair(first: str, second: str) -> str:
    return f"{first} {second}"
