"""Look-alikes: which items' pictures say nearly the same, and what paid captions teach about the unpaid ones.

    neighbours   for each item, the items whose caption would say most of its own, by the visual vector or metadata
    lend         ridge regression from visual vector to tokens, learnt on captioned items, read for the others

The encoder that gives visual vectors costs a fraction of the decoder that writes captions, and the paper's baseline has
it anyway. So an item whose look-alikes are captioned need not be: it is lent the tokens that its vector foretells.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.represent.jagged import Jagged

__all__ = ["Lent", "Neighbours", "lend", "metadata_space", "neighbours", "visual_space"]

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_BLOCK = 2048
_BUCKETED = 40_000
"""Items beyond which neighbours are looked for within buckets of look-alikes, not among all."""
_PENALTY = 100.0
_LEAST = 20
"""Captioned items with a vector below which nothing is lent: too few to learn from."""


class Neighbours(NamedTuple):
    """For each of I items, at most K others, the likest first; jagged, as lists of who may lend to whom."""

    offsets: Ints
    """[I + 1]"""
    lender: Ints
    """[nnz] rows of the neighbours."""
    similarity: Floats
    """[nnz] cosine, > 0."""


class Lent(NamedTuple):
    """Tokens of all items: paid ones as they are, lent ones foretold."""

    tokens: Jagged
    lent: Flags
    """[I] whether the list was lent; items without a vector, and those of which nothing is sure, get none."""


def visual_space(
    vectors: Floats, present: Flags, dimensions: int = 256, fitted: Flags | None = None
) -> Floats:
    """Whitened principal components of the visual vectors, each row of length 1; absent ones are 0, [I, d].

    Whitening keeps what is frequent in all pictures (a background) from hiding what tells them apart.

    Args:
        vectors: [I, D].
        present: which rows are vectors, [I].
        dimensions: most components, >= 1.
        fitted: rows that the components may be fitted on; None: all that are present.
    """
    from captionary.represent.vectors import Whitening

    rows = present if fitted is None else present & fitted
    if not rows.any() or vectors.shape[1] == 0:
        return np.zeros((len(vectors), 1), np.float32)
    return _unit(Whitening.fit(vectors[rows], dimensions).apply(vectors, present))


def metadata_space(columns: list[Ints]) -> Floats:
    """Categories as unit vectors, for items without pictures to compare; what is rare counts for more, [I, d].

    Args:
        columns: a category number for each item, [I] each, negative where not known.
    """
    size = len(columns[0]) if columns else 0
    parts = [np.zeros((size, 1), np.float32)]
    for column in columns:
        kinds, code = np.unique(column, return_inverse=True)
        hot = np.zeros((size, len(kinds)), np.float32)
        hot[np.arange(size), code] = 1
        hot *= np.log((1 + size) / (1 + hot.sum(0))) * (kinds >= 0)
        parts.append(hot)
    return _unit(np.concatenate(parts, axis=1))


def neighbours(space: Floats, k: int = 64, *, bucketed: int = _BUCKETED) -> Neighbours:
    """The `k` likest items of each, by cosine; exact up to `bucketed` items, within buckets beyond.

    Args:
        space: rows of length 1 or 0, [I, d].
        k: most neighbours of an item, >= 1.
        bucketed: see above.

    Raises:
        CaptionaryError: k < 1.
    """
    if k < 1:
        raise bad_value("neighbours", k, ">= 1")
    items = len(space)
    known = np.flatnonzero((space != 0).any(axis=1))
    groups = [known] if len(known) <= bucketed else _buckets(space, known, bucketed // 4)
    rows, lenders, similarities = [], [], []
    for group in groups:
        for start in range(0, len(group), _BLOCK):
            part = group[start : start + _BLOCK]
            close = space[part] @ space[group].T  # [B, G]
            close[np.arange(len(part)), start + np.arange(len(part))] = -1  # nobody lends to himself
            many = min(k, len(group))
            best = np.argpartition(-close, many - 1, axis=1)[:, :many]
            value = np.take_along_axis(close, best, axis=1)
            order = np.lexsort((best, -value), axis=1)
            best, value = np.take_along_axis(best, order, axis=1), np.take_along_axis(value, order, axis=1)
            kept = value > 0
            rows.append(np.repeat(part, kept.sum(1)))
            lenders.append(group[best[kept]])
            similarities.append(value[kept])
    row = np.concatenate([np.empty(0, np.int64), *rows])
    order = np.argsort(row, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=items))]).astype(np.int64)
    lender = np.concatenate([np.empty(0, np.int64), *lenders])[order]
    return Neighbours(offsets, lender, np.concatenate([np.empty(0, np.float32), *similarities])[order])


def lend(
    tokens: Jagged,
    paid: Flags,
    vectors: Floats,
    present: Flags,
    *,
    vocabulary: int,
    threshold: float = 0.3,
    fitted: Flags | None = None,
) -> Lent:
    """Give items that were not captioned the tokens that their visual vectors foretell.

    For each token, the chance that a caption holds it is estimated by ridge regression on the whitened components of
    the vector, learnt on the items that were paid for; tokens above `threshold` are lent.

    Args:
        tokens: of the items that were captioned; the lists of the others are not looked at, I lists.
        paid: which items were captioned, [I].
        vectors: [I, D].
        present: which rows are vectors, [I].
        vocabulary: number of token ids.
        threshold: least estimated chance of a token, in (0, 1).
        fitted: rows that the components may be fitted on; None: all that are present.

    Raises:
        CaptionaryError: shapes that do not fit, or a threshold out of range.
    """
    if not 0 < threshold < 1:
        raise bad_value("threshold", threshold, "above 0 and below 1")
    if not tokens.rows == len(paid) == len(vectors) == len(present):
        found = f"{tokens.rows}, {len(paid)}, {len(vectors)} and {len(present)}"
        raise bad_value("rows of tokens, paid, vectors and present", found, "the same")
    listed = np.where(paid, tokens.lengths, 0)
    kept = np.repeat(paid, tokens.lengths)
    own = Jagged(tokens.values[kept], np.concatenate([[0], np.cumsum(listed)]).astype(np.int64))
    teachers = np.flatnonzero((listed > 0) & present)
    pupils = np.flatnonzero(~paid & present)
    nobody = np.zeros(len(paid), np.bool_)
    if len(teachers) < _LEAST or not len(pupils) or not vectors.shape[1]:
        return Lent(own, nobody)
    space = visual_space(vectors, present, fitted=fitted).astype(np.float64)
    space *= np.sqrt(
        space.shape[1]
    )  # of unit variance again, so that the penalty means the same at any width
    truth = np.zeros((len(teachers), vocabulary))
    lists = own.take(teachers)
    truth[np.repeat(np.arange(len(teachers)), lists.lengths), lists.values] = 1
    mean = truth.mean(0)
    taught = space[teachers]
    gram = taught.T @ taught + _PENALTY * np.eye(space.shape[1])
    weights = np.linalg.solve(gram, taught.T @ (truth - mean))
    rows, values = [np.repeat(np.arange(len(paid)), own.lengths)], [own.values]
    for start in range(0, len(pupils), _BLOCK):
        part = pupils[start : start + _BLOCK]
        row, token = np.nonzero(space[part] @ weights + mean > threshold)
        rows.append(part[row])
        values.append(token.astype(np.int32))
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row, minlength=len(paid))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Lent(Jagged(np.concatenate(values)[order].astype(np.int32), offsets), (counts > 0) & ~paid)


def _unit(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)


def _buckets(space: Floats, known: Ints, size: int) -> list[Ints]:
    """Halve `known` along its leading directions until parts have at most `size` items; look-alikes stay together."""
    parts, done = [known], []
    while parts:
        part = parts.pop()
        if len(part) <= size:
            done.append(np.sort(part))
            continue
        block = space[part]
        spread = block.std(axis=0)
        side = block[:, int(spread.argmax())]
        order = np.argsort(side, kind="stable")
        middle = len(part) // 2
        parts += [part[order[middle:]], part[order[:middle]]]
    return done
