"""Compiled orderings: rows grouped by user and put in order of time, lists copied to their places.

Apart from `decay.py` because nothing there is called from here: numba's cache looks at one file alone.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import numpy as np

from captionary.compiling import compiled

__all__ = ["compact", "scatter", "sort_rows"]


@compiled
def scatter(ids, shares, starts, offsets, values, weights):
    """Copy the list of each row to its place: row r is ``values[offsets[r] : offsets[r + 1]]``."""
    for row in range(len(starts)):
        shift = starts[row] - offsets[row]
        for index in range(offsets[row], offsets[row + 1]):
            values[index] = ids[index + shift]
            weights[index] = shares[index + shift]


@compiled
def compact(tokens, weights, where, counts, rooms, new_tokens, new_weights):
    """Move what users have stored to the front of new arrays, each with a little room; how much is then used."""
    used = 0
    for user in range(len(where)):
        if rooms[user] > 0:
            count = counts[user]
            old = where[user]
            for index in range(count):
                new_tokens[used + index] = tokens[old + index]
                new_weights[used + index] = weights[old + index]
            where[user] = used
            rooms[user] = max(count, 1)
            used += rooms[user]
    return used


@compiled
def sort_rows(keys, times, items, values, count):
    """Rows by key (a user, or a type and user), then time; item and value decide between events of the same moment.

    Args:
        keys: int64 [R], in -1..count - 1; rows of key -1 are left out.
        times: int64 [R].
        items: int64 [R] and values: float64 [R]; or both [0], where equal moments are alike.
        count: how many keys there are.

    Returns:
        (rows int64, starts int64 [count + 1]); the rows of key k are ``rows[starts[k] : starts[k + 1]]``.
    """
    starts = np.zeros(count + 1, np.int64)
    for row in range(len(keys)):
        if keys[row] >= 0:
            starts[keys[row] + 1] += 1
    for key in range(count):
        starts[key + 1] += starts[key]
    rows = np.empty(starts[count], np.int64)
    ends = starts[:count].copy()
    for row in range(len(keys)):
        if keys[row] >= 0:
            rows[ends[keys[row]]] = row
            ends[keys[row]] += 1
    for key in range(count):
        if starts[key + 1] - starts[key] > 1:
            _sort(rows, starts[key], starts[key + 1], times, items, values)
    return rows, starts


@compiled
def _before(a, b, times, items, values):
    """Whether row a comes before row b of the same user."""
    if times[a] != times[b] or len(items) == 0:
        return times[a] < times[b]
    if items[a] != items[b]:
        return items[a] < items[b]
    return values[a] < values[b]


@compiled
def _sort(rows, first, last, times, items, values):
    """Sort rows[first:last] in place: nothing to do where they are in order, as logs are; else a heap sort.

    numba's own sorts are stable and faster, and take longer to compile than all of the rest.
    """
    ordered = True
    for index in range(first + 1, last):
        if _before(rows[index], rows[index - 1], times, items, values):
            ordered = False
            break
    if ordered:
        return
    size = last - first
    built = size // 2
    while size > 1:
        if built > 0:  # the heap is being built: `built` is the next node to sift down
            built -= 1
            row = rows[first + built]
        else:  # take the last of all to the end
            size -= 1
            row = rows[first + size]
            rows[first + size] = rows[first]
        node = built
        child = 2 * node + 1
        while child < size:
            if child + 1 < size and _before(
                rows[first + child], rows[first + child + 1], times, items, values
            ):
                child += 1
            if not _before(row, rows[first + child], times, items, values):
                break
            rows[first + node] = rows[first + child]
            node = child
            child = 2 * node + 1
        rows[first + node] = row
