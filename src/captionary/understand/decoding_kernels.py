"""What a decoder's step does between its matrix products, in one pass over memory each.

The arrays are float32, or the bits of bfloat16 as uint16 (numpy has no such type): the upper half of a float32's.
Sums are made in float32 either way.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from functools import partial

import numpy as np

from captionary.compiling import compiled

__all__ = ["attend", "keep_rows", "normalise"]

_inline = partial(compiled, fastmath={"reassoc", "contract", "nsz"})


@_inline
def _read(row, bits, floats):
    """Put a row's values into `floats`, which are the memory of `bits`."""
    if row.itemsize == 2:
        for i in range(len(row)):
            bits[i] = np.uint32(row[i]) << np.uint32(16)
    else:
        for i in range(len(row)):
            floats[i] = row[i]


@_inline
def _read_all(rows, bits, floats):
    """The same of a table."""
    if rows.itemsize == 2:
        for row in range(len(rows)):
            for i in range(rows.shape[1]):
                bits[row, i] = np.uint32(rows[row, i]) << np.uint32(16)
    else:
        floats[:] = rows


@_inline
def _write(floats, bits, row):
    """Put `floats`, which are the memory of `bits`, into a row, rounded to even where it is bfloat16."""
    if row.itemsize == 2:
        for i in range(len(row)):
            row[i] = np.uint16(
                (bits[i] + np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            )
    else:
        for i in range(len(row)):
            row[i] = floats[i]


@_inline
def normalise(x, added, weight, epsilon, out):
    """x += added, out = x / its root mean square × weight: [N, D], x in float32; weight [D] in float32."""
    rows, width = x.shape
    bits = np.empty(width, np.uint32)
    floats = bits.view(np.float32)
    for row in range(rows):
        _read(added[row], bits, floats)
        total = np.float32(0)
        for i in range(width):
            value = x[row, i] + floats[i]
            x[row, i] = value
            total += value * value
        scale = np.float32(1) / np.sqrt(total / np.float32(width) + np.float32(epsilon))
        for i in range(width):
            floats[i] = x[row, i] * scale * weight[i]
        _write(floats, bits, out[row])


@_inline
def _rotate(floats, cosine, sine, into):
    """Rotary position embedding, in LLaMA's half-split layout."""
    half = len(floats) // 2
    for i in range(half):
        into[i] = floats[i] * cosine[i] - floats[half + i] * sine[i]
        into[half + i] = floats[half + i] * cosine[half + i] + floats[i] * sine[half + i]


@_inline
def _exponentials(values, power_bits, powers):
    """exp(value - the greatest of them) in their place, and the sum; to 2e-7, as a loop that vectorises."""
    most = values[0]
    for value in values:
        most = max(most, value)
    for i in range(len(values)):
        value = max((values[i] - most) * np.float32(1.4426950408889634), np.float32(-126))  # of 2's powers
        whole = np.floor(value)
        part = value - whole
        power_bits[i] = np.uint32((np.int32(whole) + np.int32(127)) << np.int32(23))
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
def attend(qkv, cosine, sine, keys, values, position, out):
    """Rotate a token's queries and key, keep its key and value, and let it look at all so far and at itself.

    Args:
        qkv: queries of H heads, keys and values of K, one token a row, [B, (H + 2 K) E].
        cosine, sine: by position, [P, E] float32.
        keys, values: kept so far, [>= B, K, P, E] of the type of `qkv`; those of the token are written.
        position: of the token.
        out: what each head read, [B, H E].
    """
    kept, width = keys.shape[1], keys.shape[3]
    heads = out.shape[1] // width
    end = position + 1
    scale = np.float32(1 / np.sqrt(width))
    bits = np.empty(width, np.uint32)
    floats = bits.view(np.float32)
    turned_bits = np.empty(width, np.uint32)
    turned = turned_bits.view(np.float32)
    table_bits = np.empty((end, width), np.uint32)
    table = table_bits.view(np.float32)
    scores = np.empty((heads // kept, end), np.float32)
    power_bits = np.empty(end, np.uint32)
    powers = power_bits.view(np.float32)
    for row in range(len(qkv)):
        for group in range(kept):
            start = (heads + group) * width
            _read(qkv[row, start : start + width], bits, floats)
            _rotate(floats, cosine[position], sine[position], turned)
            _write(turned, turned_bits, keys[row, group, position])
            start += kept * width
            values[row, group, position] = qkv[row, start : start + width]
            _read_all(keys[row, group, :end], table_bits, table)
            for each in range(heads // kept):
                start = (group * (heads // kept) + each) * width
                _read(qkv[row, start : start + width], bits, floats)
                _rotate(floats, cosine[position], sine[position], turned)
                for at in range(end):
                    dot = np.float32(0)
                    for i in range(width):
                        dot += turned[i] * table[at, i]
                    scores[each, at] = dot * scale
            _read_all(values[row, group, :end], table_bits, table)
            for each in range(heads // kept):
                start = (group * (heads // kept) + each) * width
                total = _exponentials(scores[each], power_bits, powers)
                turned[:] = 0
                for at in range(end):
                    share = scores[each, at] / total
                    for i in range(width):
                        turned[i] += share * table[at, i]
                _write(turned, turned_bits, out[row, start : start + width])


@_inline
def keep_rows(kept, rows, position):
    """Move the given rows of [B, K, P, E], in rising order, to the front, as far as `position`."""
    for to, row in enumerate(rows):
        if to != row:
            kept[to, :, :position] = kept[row, :, :position]
