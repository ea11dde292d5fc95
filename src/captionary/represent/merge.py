"""Several captions of one item as one: what is said twice is kept once, what is said once is kept."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from captionary.errors import bad_value
from captionary.represent.words import words_of

__all__ = ["merge_captions", "similarity"]

NEAR = 0.8
"""Captions whose word sets overlap by this much say the same."""

# Scripts without spaces between words: each sign counts as a word, or whole captions would be compared as one.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")


def merge_captions(captions: Sequence[str], *, near: float = NEAR) -> str:
    """Join the captions of one item (of its pictures, frames, or captioners) into one.

    A caption all of whose words another one has, or whose words are nearly another's, is left out; the longer one
    stays, in the place of the first of them. Empty ones are left out. The same list gives the same text, and merging
    what was merged changes nothing.

    >>> merge_captions(["a dog on a sofa", "a brown dog on a sofa", "a cat in the snow"])
    'a brown dog on a sofa. a cat in the snow'

    Args:
        captions: as `normalize` gives them, in order of trust.
        near: least `similarity` that makes two captions one, above 0, at most 1.

    Raises:
        CaptionaryError: `near` out of range.
    """
    if not 0 < near <= 1:
        raise bad_value("near", near, "above 0, at most 1")
    kept: list[tuple[str, frozenset[str]]] = []
    for caption in _sentences(captions):
        words = _word_set(caption)
        place = next((i for i, (_, known) in enumerate(kept) if _same(words, known, near)), None)
        if place is None:
            kept.append((caption, words))
            continue
        if len(words) > len(kept[place][1]):
            # The longer caption may cover further ones, which were no match for the shorter.
            rest = [each for each in kept[place + 1 :] if not _same(words, each[1], near)]
            kept[place:] = [(caption, words), *rest]
    return ". ".join(caption for caption, _ in kept)


def similarity(first: str, second: str) -> float:
    """Words that both captions have over words that either has (Jaccard), 0 to 1; 0 where neither has words."""
    return _jaccard(_word_set(first), _word_set(second))


def _sentences(captions: Iterable[str]) -> Iterable[str]:
    for caption in captions:
        for sentence in caption.split(". "):
            if stripped := sentence.strip(" ."):
                yield stripped


def _same(first: frozenset[str], second: frozenset[str], near: float) -> bool:
    return first <= second or second <= first or _jaccard(first, second) >= near


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    either = len(first | second)
    return len(first & second) / either if either else 0.0


def _word_set(caption: str) -> frozenset[str]:
    words = words_of(_UNSPACED.sub(r" \g<0> ", caption))
    signs = () if caption.isascii() else (c for c in caption if unicodedata.category(c) == "So")  # emoji
    return frozenset([*words, *signs]) or frozenset([caption])
