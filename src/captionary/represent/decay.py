"""The compiled heart of profiles: time-decayed token weights of one user and one event type.

A trace is what a user's events of one type have left (V tokens in the vocabulary, K on a list):

    weights  float64 [V]  the tokens' decayed weights; 0 for a token that is not there
    active   int32   [V]  tokens with a weight above 0: the first `head[COUNT]`
    best     int32   [K]  tokens of the highest weight x idf, in order: the first `head[LISTED]`
    scores   float64 [K]  their weight x idf
    place    int32   [V]  where in `best` a token is; -1: nowhere
    head     int64   [3]  (COUNT, LISTED, UNIT)
    mass     float64 [1]  decayed event weight, of events without tokens too

Weights are in units of 2^-UNIT half-lives, so that time passing changes nothing that is stored: an event at
time t adds ``value * 2^(t / half_life - UNIT)``, and whoever reads at time t divides by ``2^(t / half_life -
UNIT)``. Shares of a sum need no division at all: between two events of a user the list stays the same, bit
for bit. As stored weights only ever grow, a token outside `best` can enter it only when an event touches that
token.

All kernels are in this one file because numba's cache looks at the file of a function alone, not at what it
calls.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

__all__ = [
    "COUNT",
    "build",
    "clear",
    "mass_at",
    "new_trace",
    "relist",
    "scatter",
    "shares_of",
    "sort_rows",
    "update",
]

COUNT, LISTED, UNIT = 0, 1, 2
_MAX_SHIFT = 512
"""Half-lives after which the unit moves on; a double holds a ratio of 2^1022."""
_NOTHING = -4000
"""A power of two that no double survives."""
_MIN_SHARE = 2.0**-24
"""A share below this is left out of a list: a float32 sum of 1 does not feel it."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile with numba: cached on disk where a folder can be written, else anew in each process."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # numba: "no locator available"
        return numba.njit(function)


def new_trace(vocabulary: int, top_k: int) -> tuple[Any, ...]:
    """(weights, active, best, scores, place, head, mass) of a user without events."""
    return (
        np.zeros(vocabulary),
        np.empty(vocabulary, np.int32),
        np.empty(top_k, np.int32),
        np.empty(top_k),
        np.full(vocabulary, -1, np.int32),
        np.zeros(3, np.int64),
        np.zeros(1),
    )


@compiled
def clear(trace):
    """Forget everything, in time proportional to what there is."""
    weights, active, _, _, place, head, mass = trace
    for index in range(head[COUNT]):
        weights[active[index]] = 0.0
        place[active[index]] = -1
    head[COUNT] = 0
    head[LISTED] = 0
    head[UNIT] = 0
    mass[0] = 0.0


@compiled
def update(trace, idf, tokens, token_weights, value, timestamp, half_life):
    """Add one event: `value` to the mass and to each of its tokens, times the token's weight where it has
    one.

    Args:
        idf: float64 [V].
        tokens: int32 [n], of the event's item; may be empty.
        token_weights: float32 [n], or [0] where every weight is 1.
        value: float64; 0 leaves no trace.
        timestamp: int64, microseconds; an event earlier than the last one counts as what is left of it.
        half_life: int64, microseconds; 0: no decay.
    """
    if value <= 0.0:
        return
    weights, active, best, scores, place, head, mass = trace
    unit, fraction = 0, 0.0
    if half_life > 0:
        unit = timestamp // half_life
        fraction = (timestamp - unit * half_life) / half_life
    if mass[0] == 0.0 and head[COUNT] == 0:
        head[UNIT] = unit
    elif unit - head[UNIT] > _MAX_SHIFT:
        _rescale(trace, idf, unit)
    amount = math.ldexp(value * 2.0**fraction, max(unit - head[UNIT], _NOTHING))
    mass[0] += amount
    for index in range(len(tokens)):
        token = tokens[index]
        part = amount * token_weights[index] if len(token_weights) else amount
        if part > 0.0:
            if weights[token] == 0.0:
                active[head[COUNT]] = token
                head[COUNT] += 1
            weights[token] += part
            score = weights[token] * idf[token]
            if place[token] >= 0 or head[LISTED] < len(best) or score >= scores[-1]:
                _rise(best, scores, place, head, token, score)


@compiled
def _rise(best, scores, place, head, token, score):
    """Put a token whose score grew where it belongs in `best`: by score, ties by id."""
    at = place[token]
    if at < 0:
        if head[LISTED] < len(best):
            at = head[LISTED]
            head[LISTED] += 1
        else:
            at = len(best) - 1
            if score < scores[at] or (score == scores[at] and token > best[at]):
                return
            place[best[at]] = -1
    while at > 0 and (score > scores[at - 1] or (score == scores[at - 1] and token < best[at - 1])):
        best[at] = best[at - 1]
        scores[at] = scores[at - 1]
        place[best[at]] = at
        at -= 1
    best[at] = token
    scores[at] = score
    place[token] = at


@compiled
def relist(trace, idf):
    """Fill `best` and `place` from the weights alone."""
    weights, active, best, scores, place, head, _ = trace
    head[LISTED] = 0
    for index in range(head[COUNT]):
        place[active[index]] = -1
    for index in range(head[COUNT]):
        token = active[index]
        _rise(best, scores, place, head, token, weights[token] * idf[token])


@compiled
def _rescale(trace, idf, unit):
    """Count in the unit of the newest event: exact (a power of two), but what underflows is forgotten."""
    weights, active, _, _, place, head, mass = trace
    shift = max(head[UNIT] - unit, _NOTHING)
    kept = 0
    for index in range(head[COUNT]):
        token = active[index]
        place[token] = -1
        weights[token] = math.ldexp(weights[token], shift)
        if weights[token] > 0.0:
            active[kept] = token
            kept += 1
    mass[0] = math.ldexp(mass[0], shift)
    head[COUNT] = kept
    head[UNIT] = unit
    relist(trace, idf)


@compiled
def mass_at(trace, timestamp, half_life):
    """The mass decayed to `timestamp`, float32."""
    head, mass = trace[5], trace[6]
    if half_life == 0:
        return np.float32(mass[0])
    unit = timestamp // half_life
    fraction = (timestamp - unit * half_life) / half_life
    shift = min(max(head[UNIT] - unit, _NOTHING), -_NOTHING)
    return np.float32(math.ldexp(mass[0] / 2.0**fraction, shift))


@compiled
def shares_of(trace, idf, by_idf, ids, shares):
    """Write the tokens of `best` to `ids` and their shares of the sum of their weights to `shares`.

    Args:
        by_idf: whether the shares are of weight x idf, rather than of the weight.
        ids: int32, room for K.
        shares: float32, room for K.

    Returns:
        How many were written.
    """
    weights, _, best, _, _, head, _ = trace
    total = 0.0
    for index in range(head[LISTED]):
        token = best[index]
        total += weights[token] * idf[token] if by_idf else weights[token]
    kept = 0
    for index in range(head[LISTED]):
        token = best[index]
        share = (weights[token] * idf[token] if by_idf else weights[token]) / total
        if share >= _MIN_SHARE:
            ids[kept] = token
            shares[kept] = share
            kept += 1
    return kept


@compiled
def build(
    event_starts, event_times, event_items, event_values, read_starts, read_times,
    token_values, token_offsets, token_weights, idf, by_idf, half_life, trace,
    ids, shares, starts, lengths, masses,
):  # fmt: skip
    """Merge each user's sorted events with their sorted reads; a read sees the events strictly before it.

        events     e(1) e(4)      e(9)          event_starts[u] .. event_starts[u + 1]
        reads           r(4) r(7)      r(12)    read_starts[u] .. read_starts[u + 1]
        sees            {1}  {1,4}     {1,4,9}

    Args:
        event_items: int64 [E], rows of the token lists; -1 for an item without tokens.
        ids, shares: int32 and float32, room for K for each list that differs from the one before it.
        starts, lengths: int64 [R]; the list of read r is ``ids[starts[r] : starts[r] + lengths[r]]``.
        masses: float32 [R].
    """
    room = len(trace[2])
    used = 0
    for user in range(len(read_starts) - 1):
        clear(trace)
        event = event_starts[user]
        start, length, changed = used, 0, False
        for read in range(read_starts[user], read_starts[user + 1]):
            while event < event_starts[user + 1] and event_times[event] < read_times[read]:
                item = event_items[event]
                first, last = (token_offsets[item], token_offsets[item + 1]) if item >= 0 else (0, 0)
                tokens, parts = token_values[first:last], token_weights[first:last]
                update(trace, idf, tokens, parts, event_values[event], event_times[event], half_life)
                event += 1
                changed = True
            if changed:
                start = used
                length = shares_of(trace, idf, by_idf, ids[used : used + room], shares[used : used + room])
                used += length
                changed = False
            starts[read] = start
            lengths[read] = length
            masses[read] = mass_at(trace, read_times[read], half_life)


@compiled
def scatter(ids, shares, starts, offsets, values, weights):
    """Copy the list of each row to its place: row r is ``values[offsets[r] : offsets[r + 1]]``."""
    for row in range(len(starts)):
        shift = starts[row] - offsets[row]
        for index in range(offsets[row], offsets[row + 1]):
            values[index] = ids[index + shift]
            weights[index] = shares[index + shift]


@compiled
def sort_rows(users, times, items, values, count):
    """Rows by user, then time; item and value decide between events of the same moment.

    Args:
        users: int64 [R], in -1..count - 1; rows of user -1 are left out.
        items: int64 [R] and values: float64 [R]; or both [0], where equal moments are alike.

    Returns:
        (rows int64, starts int64 [count + 1]); the rows of user u are ``rows[starts[u] : starts[u + 1]]``.
    """
    starts = np.zeros(count + 1, np.int64)
    for row in range(len(users)):
        if users[row] >= 0:
            starts[users[row] + 1] += 1
    for user in range(count):
        starts[user + 1] += starts[user]
    rows = np.empty(starts[count], np.int64)
    ends = np.empty(count, np.int64)
    for user in range(count):
        ends[user] = starts[user]
    for row in range(len(users)):
        if users[row] >= 0:
            rows[ends[users[row]]] = row
            ends[users[row]] += 1
    for user in range(count):
        _sort(rows, starts[user], starts[user + 1], times, items, values)
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
