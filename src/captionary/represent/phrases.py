"""Collocations: words, and runs of words that come together far more often than by chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from captionary.represent.terms import TermTokenizer
from captionary.represent.tokenizers import TokenizerConfig
from captionary.represent.words import words_of

__all__ = ["PhraseTokenizer", "collocations", "npmi"]

_LONGEST = 3


class PhraseTokenizer(TermTokenizer):
    """Words of any language, and beside them the collocations of two to `ngrams` words: "hot dog", "palm tree".

    A run of words is a collocation where the normalised pointwise mutual information of its parts is at least
    `min_npmi` (Bouma 2009; for pairs the score of gensim's `Phrases`). Unlike there, the words stay beside it, so that
    a rare phrase still shares what is learnt of its words, and runs may overlap, so that a phrase learnt later changes
    no earlier one.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self._phrases: frozenset[str] = frozenset()

    @property
    def longest(self) -> int:
        """The most words of a collocation; 1: none."""
        return (self.config.ngrams or _LONGEST) if self.config.phrases else 1

    def _prepare(self, times: Mapping[str, int]) -> None:
        self._phrases = collocations(
            times, self.longest, least=self.config.min_df, min_npmi=self.config.min_npmi
        )

    def _reader(self) -> Callable[[str], list[str]]:
        phrases, longest = self._phrases, self.longest
        if not phrases:
            return words_of
        pairs = {phrase for phrase in phrases if phrase.count(" ") == 1}

        def read(caption: str) -> list[str]:
            words = words_of(caption)
            terms = words.copy()
            terms += [pair for pair in map(_pair, words, words[1:]) if pair in pairs]
            for length in range(3, longest + 1):
                runs = (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))
                terms += [run for run in runs if run in phrases]
            return terms

        return read

    def _novel(self, captions: Sequence[str]) -> list[tuple[str, Sequence[int] | None]]:
        reading = self._phrases
        times = Counter(captions)
        fresh = collocations(times, self.longest, least=self.config.min_df, min_npmi=self.config.min_npmi)
        self._phrases = reading | fresh
        try:
            novel = super()._novel(captions)
        finally:
            self._phrases = reading
        # A run that this version does not look for has no place in its lists, not even as unknown.
        return [(term, [] if " " in term and term not in reading else None) for term, _ in novel]

    def _learn_novel(self, _captions: Sequence[str]) -> None:
        self._phrases |= {token for token in self.vocabulary if " " in token}
        super()._learn_novel(_captions)

    def _remembered(self) -> dict[str, Any]:
        return {**super()._remembered(), "phrases": sorted(self._phrases)}

    def _restore(self, payload: Mapping[str, Any]) -> None:
        super()._restore(payload)
        self._phrases = frozenset(payload["phrases"])


def _pair(first: str, second: str) -> str:
    return f"{first} {second}"


def npmi(first: int, second: int, together: int, words: int) -> float:
    """Normalised pointwise mutual information, -1 (never together) to 1 (never apart).

    ln(p(ab) / (p(a) p(b))) / -ln p(ab), each p a count over the number of words (Bouma 2009).

    Args:
        first: how often the first part occurs.
        second: how often the second part occurs.
        together: how often the second follows the first, >= 1.
        words: words of the corpus.
    """
    if together == words:
        return 1.0
    return math.log(together * words / (first * second)) / -math.log(together / words)


def collocations(times: Mapping[str, int], longest: int, *, least: int, min_npmi: float) -> frozenset[str]:
    """Runs of 2 to `longest` words that occur at least `least` times and belong together wherever they are cut.

    Args:
        times: caption → how often it occurs.
        longest: most words of a run.
        least: fewest occurrences.
        min_npmi: least `npmi` of the two parts, for every way to cut the run in two.
    """
    counts: Counter[str] = Counter()
    total = 0
    for caption, count in times.items():
        words = words_of(caption)
        total += count * len(words)
        for run in _runs(words, longest):
            counts[run] += count
    found = set()
    for run, together in counts.items():
        if together < least or " " not in run:
            continue
        words = run.split(" ")
        cuts = ((" ".join(words[:cut]), " ".join(words[cut:])) for cut in range(1, len(words)))
        if all(npmi(counts[first], counts[second], together, total) >= min_npmi for first, second in cuts):
            found.add(run)
    return frozenset(found)


def _runs(words: Sequence[str], longest: int) -> Iterable[str]:
    for length in range(1, longest + 1):
        for start in range(len(words) - length + 1):
            yield " ".join(words[start : start + length])
