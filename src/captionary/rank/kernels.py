"""Compiled loops over jagged lists, on one core: what numpy and torch do in several passes, in one.

Sums have one order, which depends on no thread and on no neighbour in a batch.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from captionary import compiling

__all__ = [
    "add_lists",
    "add_rows",
    "digest_lists",
    "distinct",
    "meet_lists",
    "meet_lists_grad",
    "pool_normalised",
    "pool_normalised_grad",
    "same_lists",
    "take_lists",
]

_EPS = np.float32(1e-5)
"""Of `torch.nn.functional.layer_norm`."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile; sums over a vector may be taken in several lanes, and a product be fused with the sum it goes into."""
    return compiling.compiled(function, fastmath=("reassoc", "contract", "nsz"))


@compiled
def take_lists(values, offsets, weights, rows):
    """The lists at `rows` [M]: (values int64, offsets int64 [M + 1], weights float32)."""
    ends = np.empty(len(rows) + 1, np.int64)
    ends[0] = 0
    for place in range(len(rows)):
        ends[place + 1] = ends[place] + offsets[rows[place] + 1] - offsets[rows[place]]
    taken = np.empty(ends[-1], np.int64)
    shares = np.empty(ends[-1], np.float32)
    for place in range(len(rows)):
        first, to = offsets[rows[place]], ends[place]
        for index in range(ends[place + 1] - to):
            taken[to + index] = values[first + index]
            shares[to + index] = weights[first + index]
    return taken, ends, shares


@compiled
def distinct(numbers, stamps, turn):
    """(the distinct ones of `numbers` [M] as they first occur, which of them each is [M]).

    Args:
        numbers: int64 in 0 to len(stamps) - 1.
        stamps: int64 scratch, zeros before the first call.
        turn: above every stamp that an earlier call left: 1, then each time more by the `numbers` of that call.
    """
    found = np.empty(len(numbers), np.int64)
    place = np.empty(len(numbers), np.int64)
    count = 0
    for index in range(len(numbers)):
        number = numbers[index]
        if stamps[number] < turn:
            stamps[number] = turn + count
            found[count] = number
            count += 1
        place[index] = stamps[number] - turn
    return found[:count], place


@compiled
def add_lists(grads, values, offsets, weights, into):
    """The gradient of a weighted sum of table rows: grads [M, D] go to the rows of `into` [V, D] that were summed."""
    for row in range(len(offsets) - 1):
        for index in range(offsets[row], offsets[row + 1]):
            token, weight = values[index], weights[index]
            for column in range(grads.shape[1]):
                into[token, column] += weight * grads[row, column]


@compiled
def add_rows(grads, place, into):
    """The gradient of ``table[place]``: grads [B, D] are added to the rows `place` [B] of `into` [V, D]."""
    for row in range(len(place)):
        to = place[row]
        for column in range(grads.shape[1]):
            into[to, column] += grads[row, column]


@compiled
def digest_lists(values, offsets, bits):
    """A 64-bit digest of each list's values and weights (as the integers that their bits are): uint64 [M]."""
    digests = np.empty(len(offsets) - 1, np.uint64)
    for row in range(len(digests)):
        digest = np.uint64(0x9E3779B97F4A7C15)
        for index in range(offsets[row], offsets[row + 1]):
            word = (np.uint64(values[index]) << np.uint64(32)) | np.uint64(bits[index])
            digest = (digest ^ word) * np.uint64(0xBF58476D1CE4E5B9)
            digest ^= digest >> np.uint64(29)
        digests[row] = digest
    return digests


@compiled
def same_lists(values, offsets, bits, other):
    """Whether each list is, bit for bit, the list `other` [M]."""
    for row in range(len(other)):
        first, second = offsets[row], offsets[other[row]]
        length = offsets[row + 1] - first
        if offsets[other[row] + 1] - second != length:
            return False
        for index in range(length):
            if values[first + index] != values[second + index] or bits[first + index] != bits[second + index]:
                return False
    return True


@compiled
def pool_normalised(table, values, offsets, weights, scale, pooled, spread):
    """Weighted sums of table rows, each with its mean taken off and `scale` long (root mean square).

    Args:
        table: [V, D].
        values: of M lists.
        offsets: [M + 1].
        weights: of the values.
        scale: what a row is multiplied with after it has been normalised.
        pooled: [M, D], written.
        spread: [M], written: 1 / standard deviation before normalising, as `layer_norm` does it.
    """
    width = table.shape[1]
    for row in range(len(spread)):
        for column in range(width):
            pooled[row, column] = 0
        index, end = offsets[row], offsets[row + 1]
        while index + 4 <= end:  # four at a time: the row is read and written a quarter as often
            first, second, third, fourth = (
                values[index],
                values[index + 1],
                values[index + 2],
                values[index + 3],
            )
            one, two, three, four = weights[index], weights[index + 1], weights[index + 2], weights[index + 3]
            for column in range(width):
                pooled[row, column] += (one * table[first, column] + two * table[second, column]) + (
                    three * table[third, column] + four * table[fourth, column]
                )
            index += 4
        while index < end:
            token, weight = values[index], weights[index]
            for column in range(width):
                pooled[row, column] += weight * table[token, column]
            index += 1
        mean = np.float32(0)
        for column in range(width):
            mean += pooled[row, column]
        mean /= np.float32(width)
        square = np.float32(0)
        for column in range(width):
            pooled[row, column] -= mean
            square += pooled[row, column] * pooled[row, column]
        spread[row] = np.float32(1) / np.sqrt(square / np.float32(width) + _EPS)
        for column in range(width):
            pooled[row, column] *= spread[row] * scale


@compiled
def pool_normalised_grad(grads, pooled, spread, scale, values, offsets, weights, into):
    """The gradient of `pool_normalised` by its table, added to `into` [V, D]; `grads` [M, D] are its outputs'."""
    width = grads.shape[1]
    before = np.empty(width, np.float32)
    for row in range(len(spread)):
        mean, along = np.float32(0), np.float32(0)
        for column in range(width):
            mean += grads[row, column]
            along += grads[row, column] * pooled[row, column]
        mean /= np.float32(width)
        along /= np.float32(width) * scale * scale
        for column in range(width):
            before[column] = spread[row] * scale * (grads[row, column] - mean - pooled[row, column] * along)
        for index in range(offsets[row], offsets[row + 1]):
            token, weight = values[index], weights[index]
            for column in range(width):
                into[token, column] += weight * before[column]


@compiled
def meet_lists(bags, place, fields, columns, dots):
    """Dot products of each bag of a row with some of the row's fields.

    Args:
        bags: [P, D].
        place: [B, E] which of the P.
        fields: [B, F, D].
        columns: [I] which of the F.
        dots: [B, E, I], written.
    """
    for row in range(place.shape[0]):
        for event in range(place.shape[1]):
            bag = place[row, event]
            for number in range(len(columns)):
                field, dot = columns[number], np.float32(0)
                for column in range(bags.shape[1]):
                    dot += bags[bag, column] * fields[row, field, column]
                dots[row, event, number] = dot


@compiled
def meet_lists_grad(grads, bags, place, fields, columns, by_bags, by_fields):
    """The gradients of `meet_lists`, added to the last two, from that of its result [B, E, I]."""
    for row in range(place.shape[0]):
        for event in range(place.shape[1]):
            bag = place[row, event]
            for number in range(len(columns)):
                field, grad = columns[number], grads[row, event, number]
                for column in range(bags.shape[1]):
                    by_bags[bag, column] += grad * fields[row, field, column]
                    by_fields[row, field, column] += grad * bags[bag, column]
