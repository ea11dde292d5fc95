"""One optimizer step on the rows of a table that a batch had, compiled, on one core: no pass over the table.

torch sorts a sparse gradient's rows to add up those of the same number, then gathers rows and accumulators, moves them,
and scatters them back, ten passes in all; here they are added up as they come, and each row is moved where it lies.
The arithmetic is that of `captionary.rank.optimizers`.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import numpy as np

from captionary.rank.kernels import compiled

__all__ = ["adagrad_rows", "merge_rows", "rowwise_adagrad_rows", "sgd_rows"]


@compiled
def merge_rows(index, grads, stamps, turn):
    """(the distinct rows of a gradient as they first occur [U], the sums of their gradients [U, D]).

    Args:
        index: int64 [M], rows of a table, some of them more than once.
        grads: float32 [M, D].
        stamps: int64 scratch of at least as many places as the table has rows, zeros before the first call.
        turn: above every stamp that an earlier call left: 1, then each time more by the length of that `index`.
    """
    width = grads.shape[1]
    rows = np.empty(len(index), np.int64)
    merged = np.empty((len(index), width), np.float32)
    count = 0
    for place in range(len(index)):
        row = index[place]
        if stamps[row] < turn:
            stamps[row] = turn + count
            rows[count] = row
            for column in range(width):
                merged[count, column] = grads[place, column]
            count += 1
        else:
            to = stamps[row] - turn
            for column in range(width):
                merged[to, column] += grads[place, column]
    return rows[:count], merged[:count]


@compiled
def rowwise_adagrad_rows(table, sums, rows, grads, scale, rate, eps, fade):
    """s += mean(g g), p -= rate g / (sqrt(s) + eps) of the rows [U] of a table, g = scale x their gradient.

    Args:
        table: float32 [V, D], changed.
        sums: float32 [V], changed.
        rows: int64 [U], distinct.
        grads: float32 [U, D].
        scale: what gradients are multiplied with.
        rate: learning rate.
        eps: of the root.
        fade: what a row that has a gradient is multiplied with first; 1: no decay.
    """
    width = grads.shape[1]
    # of each row the sum of squares, then what its gradient is multiplied with
    moves = np.zeros(len(rows), np.float32)
    for place in range(len(rows)):
        for column in range(width):
            value = grads[place, column] * scale
            moves[place] += value * value
    # three loops, so that the processor waits for the memory of many rows at once
    for place in range(len(rows)):
        if moves[place] > 0:
            sums[rows[place]] += moves[place] / np.float32(width)
            moves[place] = rate * scale / (np.sqrt(sums[rows[place]]) + eps)
    for place in range(len(rows)):
        if moves[place] > 0:
            row = rows[place]
            for column in range(width):
                table[row, column] = table[row, column] * fade - moves[place] * grads[place, column]


@compiled
def adagrad_rows(table, sums, rows, grads, scale, rate, eps, fade):
    """s += g g, p -= rate g / (sqrt(s) + eps); arguments as of `rowwise_adagrad_rows`, but `sums` [V, D]."""
    width = grads.shape[1]
    for place in range(len(rows)):
        row = rows[place]
        learns = False
        for column in range(width):
            learns = learns or grads[place, column] != 0
        if not learns:
            continue
        for column in range(width):
            value = grads[place, column] * scale
            sums[row, column] += value * value
            step = rate * value / (np.sqrt(sums[row, column]) + eps)
            table[row, column] = table[row, column] * fade - step


@compiled
def sgd_rows(table, rows, grads, scale, rate, fade):
    """p -= rate g; arguments as of `rowwise_adagrad_rows`."""
    width = grads.shape[1]
    for place in range(len(rows)):
        row = rows[place]
        learns = False
        for column in range(width):
            learns = learns or grads[place, column] != 0
        if not learns:
            continue
        for column in range(width):
            table[row, column] = table[row, column] * fade - rate * scale * grads[place, column]
