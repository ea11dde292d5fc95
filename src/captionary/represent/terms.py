"""Tokenizers that list the terms of a caption, words and phrases, and number those that are frequent enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from captionary.represent.jagged import Jagged
from captionary.represent.tokenizers import UNK, TokenizerConfig, VocabularyTokenizer

__all__ = ["TermTokenizer"]


class TermTokenizer(VocabularyTokenizer):
    """A vocabulary of terms by document frequency, ids in that order, ties in alphabetical order.

    Kept are the `vocabulary_size` most frequent terms that are in at least `min_df` captions and in at most a share
    `max_df` of them. A term outside the vocabulary is dropped (`oov: drop`, the default) or becomes id 0 (`oov: unk`).

    With growth come the terms that at least `min_df` of the newer captions hold and at most a share `max_df`; how a
    caption is read stays what it was.
    """

    default_size = 8000

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self._ids: dict[str, int] = {}
        self._common: frozenset[str] = frozenset()
        """Terms left out for being in too many captions: they are not unknown."""

    @property
    def drops(self) -> bool:
        """Whether a term outside the vocabulary is left out, rather than id 0."""
        return self.config.oov != "unk"

    def fit(self, captions: Sequence[str]) -> Self:
        """Take vocabulary and document frequencies of `captions`, in any order; the tokenizer itself."""
        times = Counter(captions)
        self._prepare(times)
        frequencies = self._frequencies(times)
        kept = self._keep(frequencies, len(captions))[: self.size - 1]
        most = max(self.config.max_df * len(captions), self.config.min_df)
        self._common = frozenset(term for term, frequency in frequencies.items() if frequency > most)
        self.vocabulary = [UNK, *(term for term, _ in kept)]
        self.sizes, self.spelt = [len(self.vocabulary)], {}
        self._index()
        self.documents = len(captions)
        unknown = self._with_unknown(times)
        counts = [unknown, *(frequency for _, frequency in kept)]
        self.document_frequency = np.array(counts, dtype=np.int64)
        return self

    def encode(self, captions: Sequence[str]) -> Jagged:
        """Token ids of each caption, int32, as they come; an empty caption gives an empty list."""
        find, read = self._ids.get, self._reader()
        unknown = -1 if self.drops else 0
        rows: list[list[int]] = []
        seen: dict[str, list[int]] = {}
        chunks: list[npt.NDArray[np.int32]] = [np.empty(0, np.int32)]
        lengths = np.zeros(len(captions) + 1, dtype=np.int64)
        for row, caption in enumerate(captions, 1):
            tokens = seen.get(caption)
            if tokens is None:
                tokens = seen[caption] = [find(term, unknown) for term in read(caption)]
                if unknown < 0 and -1 in tokens:
                    tokens = seen[caption] = [token for token in tokens if token >= 0]
            rows.append(tokens)
            lengths[row] = len(tokens)
            if (
                len(rows) == _CHUNK
            ):  # Python's lists of numbers are large: they do not wait for the last caption
                chunks.append(_packed(rows))
                rows, seen = [], {}
        chunks.append(_packed(rows))
        return Jagged(np.concatenate(chunks), np.cumsum(lengths))

    def unknown(self, captions: Sequence[str]) -> float:
        """Share of the captions' terms that the vocabulary does not have; those in too many captions do not count."""
        read, known, common = self._reader(), self._ids, self._common
        missed = [term not in known for caption in captions for term in read(caption) if term not in common]
        return float(np.mean(missed)) if missed else float("nan")

    def _prepare(self, times: Mapping[str, int]) -> None:
        """Learn what `_reader` needs, where `times` says how often each caption occurs."""

    def _reader(self) -> Callable[[str], list[str]]:
        """What gives the terms of one caption, in reading order."""
        raise NotImplementedError

    def _frequencies(self, times: Mapping[str, int]) -> Counter[str]:
        """How many captions hold each term, where `times` says how often each caption occurs."""
        read = self._reader()
        frequencies: Counter[str] = Counter()
        for caption, count in times.items():
            for term in set(read(caption)):
                frequencies[term] += count
        return frequencies

    def _keep(self, frequencies: Mapping[str, int], captions: int) -> list[tuple[str, int]]:
        """(term, captions that hold it), the most frequent first."""
        least = self.config.min_df
        most = max(self.config.max_df * captions, least)
        kept = [(-count, term) for term, count in frequencies.items() if least <= count <= most]
        return [(term, -count) for count, term in sorted(kept)]

    def _with_unknown(self, times: Mapping[str, int]) -> int:
        """How many captions hold a term outside the vocabulary."""
        known, read = self._ids.keys(), self._reader()
        return sum(count for caption, count in times.items() if not known >= set(read(caption)))

    def _count(self, captions: Sequence[str]) -> npt.NDArray[np.int64]:
        counts = super()._count(captions)
        counts[0] = self._with_unknown(Counter(captions))
        return counts

    def _novel(self, captions: Sequence[str]) -> list[tuple[str, Sequence[int] | None]]:
        kept = self._keep(self._frequencies(Counter(captions)), len(captions))
        return [(term, None) for term, _ in kept if term not in self._ids and term not in self._common]

    def _learn_novel(self, _captions: Sequence[str]) -> None:
        self._index()

    def _index(self) -> None:
        self._ids = {term: index for index, term in enumerate(self.vocabulary) if index}

    def _remembered(self) -> dict[str, Any]:
        return {"common": sorted(self._common)}

    def _restore(self, payload: Mapping[str, Any]) -> None:
        super()._restore(payload)
        self._common = frozenset(payload["common"])
        self._index()


_CHUNK = 1 << 16


def _packed(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    return np.fromiter(chain.from_iterable(rows), np.int32)
