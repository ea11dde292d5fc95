"""Placebo item tokens: what a ranker can gain from token lists that say nothing of their item.

    real       [[dog, sofa], [cat], [], [dog, tree]]
    shuffled   [[dog, tree], [dog, sofa], [], [cat]]     right words, wrong item
    random     [[moon, bus], [hat], [], [cup, axe]]      right length, no words
    constant   [[dog, sofa], [dog, sofa], [], [dog, sofa]]

An item without tokens stays without, in all of them, so that the presence of a caption says the same as in
the real arm. Placebo profiles are built from these by the same builder as the real ones.
"""

from __future__ import annotations

import numpy as np

from captionary.errors import bad_value
from captionary.evidence.arms import PLACEBOS, PlaceboKind
from captionary.evidence.hashing import mix64
from captionary.represent.jagged import Jagged

__all__ = ["constant", "make_placebo", "random", "shuffled"]


def make_placebo(kind: PlaceboKind, tokens: Jagged, *, vocabulary_size: int, seed: int) -> Jagged:
    """The placebo of `kind` for real item tokens; the same rows, the same empty rows.

    Raises:
        CaptionaryError: an unknown kind.
    """
    if kind == "shuffled":
        return shuffled(tokens, seed=seed)
    if kind == "random":
        return random(tokens, vocabulary_size=vocabulary_size, seed=seed)
    if kind == "constant":
        return constant(tokens)
    raise bad_value("placebo", kind, f"one of {', '.join(PLACEBOS)}")


def shuffled(tokens: Jagged, *, seed: int) -> Jagged:
    """Deal the lists among the items that have one, so that none keeps its own (unless it is the only one).

    One cycle through a random order of the items: item order[i] gets the list of item order[i + 1].
    """
    rows = np.arange(tokens.rows, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(tokens.lengths > 0))
    rows[order] = np.roll(order, -1)
    return tokens.take(rows)


def random(tokens: Jagged, *, vocabulary_size: int, seed: int) -> Jagged:
    """Lists of the same lengths, each token uniform over the vocabulary without id 0, ``[UNK]``.

    Token j of item i is a hash of (seed, i, j): an item keeps its list when others come or go after it.

    Raises:
        CaptionaryError: a vocabulary with nothing but ``[UNK]``.
    """
    if vocabulary_size < 2:
        raise bad_value("vocabulary size", vocabulary_size, ">= 2 for random tokens")
    items = np.repeat(np.arange(tokens.rows, dtype=np.uint64), tokens.lengths)
    places = np.arange(len(tokens.values), dtype=np.uint64) - np.repeat(
        tokens.offsets[:-1].astype(np.uint64), tokens.lengths
    )
    drawn = mix64(mix64(items, seed) + places, seed + 1)
    values = (drawn % np.uint64(vocabulary_size - 1)).astype(np.int32) + np.int32(1)
    return Jagged(values, tokens.offsets, tokens.weights)


def constant(tokens: Jagged) -> Jagged:
    """Every item that has a list gets the most typical one: the nearest (cosine) to the mean bag of tokens.

    The tokens of a list count once each; of equally typical lists the first is taken.
    """
    owners = np.repeat(np.arange(tokens.rows), tokens.lengths)
    if not len(owners):
        return tokens
    pairs = np.unique(np.stack([owners, tokens.values.astype(np.int64)]), axis=1)
    shares = np.bincount(pairs[1]) / tokens.rows
    distinct = np.bincount(pairs[0], minlength=tokens.rows)
    affinity = np.bincount(pairs[0], weights=shares[pairs[1]], minlength=tokens.rows)
    cosine = np.divide(affinity, np.sqrt(distinct), out=np.zeros(tokens.rows), where=distinct > 0)
    rows = np.arange(tokens.rows, dtype=np.int64)
    rows[tokens.lengths > 0] = int(np.argmax(cosine))
    return tokens.take(rows)
