"""What a decoder does between its matrix products, in one pass over memory each.

The arrays are float32, or the bits of bfloat16 as uint16 (`bfloat.py`); sums are made in float32 either way.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from functools import partial

import numpy as np

from captionary.compiling import compiled
from captionary.understand.bfloat import as_float, as_held

__all__ = ["attend", "keep_rows", "normalise"]

_inline = partial(compiled, fastmath={"reassoc", "contract", "nsz"})


@_inline
def normalise(x, added, weight, epsilon, out):
    """x += added, out = x / its root mean square × weight: [N, D], x in float32; weight [D] in float32."""
    rows, width = x.shape
    for row in range(rows):
        total = np.float32(0)
        for i in range(width):
            value = x[row, i] + as_float(added[row, i])
            x[row, i] = value
            total += value * value
        scale = np.float32(1) / np.sqrt(total / np.float32(width) + np.float32(epsilon))
        for i in range(width):
            out[row, i] = as_held(x[row, i] * scale * weight[i], out)


@_inline
def _rotate(row, cosine, sine, into):
    """Rotary position embedding, in LLaMA's half-split layout."""
    half = len(row) // 2
    for i in range(half):
        left, right = as_float(row[i]), as_float(row[half + i])
        into[i] = left * cosine[i] - right * sine[i]
        into[half + i] = right * cosine[half + i] + left * sine[half + i]


@_inline
def _exponentials(values, powers):
    """exp(value - the greatest of them) in their place, and the sum; to 2e-7, as a loop that vectorises."""
    most = values[0]
    for value in values:
        most = max(most, value)
    for i in range(len(values)):
        value = max((values[i] - most) * np.float32(1.4426950408889634), np.float32(-126))  # of 2's powers
        whole = np.floor(value)
        part = value - whole
        powers[i] = np.uint32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
        # 2^part as a polynomial that is exact at both ends
        polynomial = np.float32(1.8775767e-3)
        polynomial = polynomial * part + np.float32(8.9893397e-3)
        polynomial = polynomial * part + np.float32(5.5826318e-2)
        polynomial = polynomial * part + np.float32(2.4015361e-1)
        polynomial = polynomial * part + np.float32(6.9315308e-1)
        values[i] = polynomial * part + np.float32(9.9999994e-1)
    total = np.float32(0)
    for i in range(len(values)):
        values[i] *= powers[i]
        total += values[i]
    return total


@_inline
def _look(query, keys, values, scores, powers, read):
    """What a query [E] reads of the first S of values [*, E], by such keys; scores and powers [S] are scratch."""
    width, seen = len(query), len(scores)
    scale = np.float32(1 / np.sqrt(width))
    for at in range(seen):
        dot = np.float32(0)
        for i in range(width):
            dot += query[i] * as_float(keys[at, i])
        scores[at] = dot * scale
    total = _exponentials(scores, powers)
    read[:] = 0
    whole = seen // 4 * 4
    for at in range(0, whole, 4):  # four at a time, so that a sum is loaded and stored a quarter as often
        p0, p1, p2, p3 = scores[at], scores[at + 1], scores[at + 2], scores[at + 3]
        for i in range(width):
            some = p0 * as_float(values[at, i]) + p1 * as_float(values[at + 1, i])
            read[i] += some + (p2 * as_float(values[at + 2, i]) + p3 * as_float(values[at + 3, i]))
    for at in range(whole, seen):
        for i in range(width):
            read[i] += scores[at] * as_float(values[at, i])
    for i in range(width):
        read[i] /= total


@_inline
def attend(qkv, cosine, sine, first, keys, values, out):
    """Rotate the queries and keys of T tokens, keep their keys and values, and let each look at all up to itself.

    Args:
        qkv: queries of H heads, keys and values of K, [B, T, (H + 2 K) E].
        cosine, sine: by position, [P, E] float32.
        first: position of the first of the tokens.
        keys, values: kept so far, [>= B, K, P, E] of the type of `qkv`; those of the tokens are written.
        out: what each head read, of the last A of the tokens, [B, A, H E].
    """
    kept, width = keys.shape[1], keys.shape[3]
    heads = out.shape[2] // width
    length = qkv.shape[1]
    unasked = length - out.shape[1]
    turned = np.empty(width, np.float32)
    read = np.empty(width, np.float32)
    scores = np.empty(first + length, np.float32)
    powers = np.empty(first + length, np.float32)
    for row in range(len(qkv)):
        for group in range(kept):
            for at in range(length):
                start = (heads + group) * width
                position = first + at
                _rotate(qkv[row, at, start : start + width], cosine[position], sine[position], turned)
                for i in range(width):
                    keys[row, group, position, i] = as_held(turned[i], keys)
                start += kept * width
                values[row, group, position] = qkv[row, at, start : start + width]
            for each in range(heads // kept):
                start = (group * (heads // kept) + each) * width
                for at in range(unasked, length):
                    position = first + at
                    _rotate(qkv[row, at, start : start + width], cosine[position], sine[position], turned)
                    end = position + 1
                    _look(turned, keys[row, group], values[row, group], scores[:end], powers, read)
                    for i in range(width):
                        out[row, at - unasked, start + i] = as_held(read[i], out)


@_inline
def keep_rows(kept, rows, position):
    """Move the given rows of [B, K, P, E], in rising order, to the front, as far as `position`."""
    for to, row in enumerate(rows):
        if to != row:
            kept[to, :, :position] = kept[row, :, :position]
