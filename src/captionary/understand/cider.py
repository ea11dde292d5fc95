"""CIDEr-D of single captions as they are made: the reward of self-critical training.

The public scorer (`scores.caption_scores`) counts document frequencies over what it is given at once; here they are
counted once over a training set, and the references' vectors kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

__all__ = ["CiderD"]

_N = 4
_SIGMA = 6.0
"""Of the length penalty, in words."""

_Vector = tuple[list[dict[tuple[str, ...], float]], list[float], int]
"""Weights of the n-grams and their norm, for each n, and the number of bigrams, which stands for the length."""


class CiderD:
    """Vedantam et al. 2015, with CIDEr-D's clipping and length penalty, on the scale where 10 is a caption's own copy.

    Args:
        references: per picture its human captions, words separated by spaces. Document frequencies come from these.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self._log_rows = math.log(max(2, len(references)))
        self._frequency: Counter[tuple[str, ...]] = Counter()
        for group in references:
            self._frequency.update({gram for line in group for gram in _grams(line)})
        self._references = [[self._vector(line) for line in group] for group in references]

    def score(self, caption: str, row: int) -> float:
        """CIDEr-D of one caption of picture `row`, 0 to 10."""
        said, norm, length = self._vector(caption)
        total = 0.0
        for told, told_norm, told_length in self._references[row]:
            penalty = math.exp(-((length - told_length) ** 2) / (2 * _SIGMA**2))
            for n in range(_N):
                if norm[n] and told_norm[n]:
                    shared = sum(
                        min(weight, told[n][gram]) * told[n][gram]
                        for gram, weight in said[n].items()
                        if gram in told[n]
                    )
                    total += penalty * shared / (norm[n] * told_norm[n])
        return 10.0 * total / _N / len(self._references[row])

    def _vector(self, caption: str) -> _Vector:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(_N)]
        counts = _grams(caption)
        for gram, count in counts.items():
            rarity = self._log_rows - math.log(max(1, self._frequency[gram]))
            weights[len(gram) - 1][gram] = count * rarity
        norms = [math.sqrt(sum(w * w for w in each.values())) for each in weights]
        return weights, norms, sum(count for gram, count in counts.items() if len(gram) == 2)


def _grams(caption: str) -> Counter[tuple[str, ...]]:
    words = caption.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, _N + 1) for i in range(len(words) - n + 1))
