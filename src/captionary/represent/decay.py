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

A profile is the left fold of `update` over the events that count, in one order (time, item, value). As long
as no event leaves the window, the fold goes on from where it was; once one has left, it begins anew with the
first that still counts. So a list is a function of the set of events that count and of nothing else: not of
what came in between, nor of the face (batch or stream) that made it. Nothing is ever subtracted, because a
subtraction in floating point would leave a trace.

All kernels are in this one file because numba's cache looks at the file of a function alone, not at what it
calls.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math
from typing import Any

import numpy as np

from captionary.compiling import compiled

__all__ = [
    "COUNT",
    "LISTED",
    "LISTS",
    "STORED",
    "UNIT",
    "WRITTEN",
    "build_running",
    "build_window",
    "clear",
    "fold_log",
    "gain_of",
    "mass_at",
    "new_trace",
    "recall_window",
    "relist",
    "shares_of",
    "update",
]

COUNT, LISTED, UNIT = 0, 1, 2
STORED, LISTS, WRITTEN = 0, 1, 2
_MAX_SHIFT = 512
"""Half-lives after which the unit moves on; a double holds a ratio of 2^1022."""
_NOTHING = -4000
"""A power of two that no double survives."""
_MIN_SHARE = 2.0**-24
"""A share below this is left out of a list: a float32 sum of 1 does not feel it."""


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
def gain_of(value, timestamp, half_life):
    """(value x 2^(t / half_life - unit), unit): what an event counts, in whole half-lives since 1970.

    Args:
        value: float64 above 0.
        timestamp: int64, microseconds.
        half_life: int64, microseconds; 0: no decay.
    """
    if half_life == 0:
        return value, 0
    unit = timestamp // half_life
    return value * 2.0 ** ((timestamp - unit * half_life) / half_life), unit


@compiled
def update(trace, idf, tokens, token_weights, gain, unit, listing):
    """Add one event: its gain to the mass and to each of its tokens, times the token's weight where it has one.

    Args:
        idf: float64 [V].
        tokens: int32 [n], of the event's item; may be empty.
        token_weights: float32 [n], or [0] where every weight is 1.
        gain: float64, 0 leaves no trace; with `unit`, as of `gain_of`. The unit is not below that of the event before.
        listing: whether to keep `best` in order; false: whoever reads calls `relist` before.
    """
    if gain <= 0.0:
        return
    weights, active, best, scores, place, head, mass = trace
    if mass[0] == 0.0 and head[COUNT] == 0:
        head[UNIT] = unit
    elif unit - head[UNIT] > _MAX_SHIFT:
        _rescale(trace, idf, unit)
    amount = math.ldexp(gain, max(unit - head[UNIT], _NOTHING))
    mass[0] += amount
    weighted = len(token_weights) > 0
    count = head[COUNT]
    for index in range(len(tokens)):
        token = tokens[index]
        part = amount * token_weights[index] if weighted else amount
        if part > 0.0:
            before = weights[token]
            if before == 0.0:
                active[count] = token
                count += 1
            weights[token] = before + part
    head[COUNT] = count
    if listing:
        for index in range(len(tokens)):
            token = tokens[index]
            score = weights[token] * idf[token]
            if score > 0.0 and (place[token] >= 0 or head[LISTED] < len(best) or score >= scores[-1]):
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
    least = -1.0
    for index in range(head[COUNT]):
        token = active[index]
        score = weights[token] * idf[token]
        if score >= least:
            _rise(best, scores, place, head, token, score)
            if head[LISTED] == len(best):
                least = scores[-1]


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
def _add(trace, items, code, gain, unit, listing):
    """`update` with the tokens of item `code`; below 0: an item without tokens."""
    token_values, token_offsets, token_weights, idf = items
    first, last = (token_offsets[code], token_offsets[code + 1]) if code >= 0 else (0, 0)
    update(trace, idf, token_values[first:last], token_weights[first:last], gain, unit, listing)


@compiled
def fold_log(trace, items, half_life, log, first, last):
    """Go on with the fold over rows first..last - 1 of a log (times, codes, values) in order; leaves it listed."""
    times, codes, values = log
    for row in range(first, last):
        gain, unit = gain_of(values[row], times[row], half_life)
        _add(trace, items, codes[row], gain, unit, False)
    relist(trace, items[3])


@compiled
def recall_window(trace, items, half_life, caps, log, last, as_of, seen, chosen):
    """Fold what counts as of a moment of the first `last` rows of a log: the definition of the caps.

    From the latest event back: one older than `last_micros` ends it; one of an item of which `per_item` have been
    taken is passed over; after `last_events` it ends. The j-th taken of an item, from 0, counts times repeat^j.

    Args:
        caps: (last_events int64, last_micros int64, per_item int64, repeat float64); 0, 0, 0, 1: none.
        log: (times int64, codes int64, values float64 above 0) in order.
        seen: int32 [I], zero before and after.
        chosen: int64, room for `last`.
    """
    last_events, last_micros, per_item, repeat = caps
    times, codes, values = log
    gains, units = np.empty(last), np.empty(last, np.int64)
    begin = last
    count = 0
    for row in range(last - 1, -1, -1):
        if last_micros > 0 and times[row] < as_of - last_micros:
            break
        if last_events > 0 and count == last_events:
            break
        code = codes[row]
        if code >= 0:
            if per_item > 0 and seen[code] == per_item:
                continue
            seen[code] += 1
        begin -= 1
        chosen[begin] = row
        gains[row], units[row] = gain_of(values[row], times[row], half_life)
        count += 1
    _refold(trace, items, repeat, codes, gains, units, 0, chosen, begin, last, seen)
    for at in range(begin, last):
        if codes[chosen[at]] >= 0:
            seen[codes[chosen[at]]] = 0


@compiled
def _refold(trace, items, repeat, codes, gains, units, base, window, begin, end, seen):
    """Fold rows window[begin:end] from nothing; `seen` holds how many of them are of each item.

    gains, units: of row `base` and those after it.
    """
    clear(trace)
    for at in range(begin, end):
        row = window[at]
        code, gain = codes[row], gains[row - base]
        if repeat < 1.0 and code >= 0:  # the oldest of m counts times repeat^(m - 1)
            seen[code] -= 1
            gain *= repeat ** seen[code]
        _add(trace, items, code, gain, units[row - base], False)
    if repeat < 1.0:
        for at in range(begin, end):
            if codes[window[at]] >= 0:
                seen[codes[window[at]]] += 1
    relist(trace, items[3])


@compiled
def _emit(trace, idf, by_idf, progress, out):
    """Write the list down as a new one; its number."""
    ends, ids, shares = out[:3]
    room = len(trace[2])
    used = progress[WRITTEN]
    progress[WRITTEN] += shares_of(trace, idf, by_idf, ids[used : used + room], shares[used : used + room])
    number = progress[LISTS]
    ends[number] = progress[WRITTEN]
    progress[LISTS] += 1
    return number


@compiled
def build_running(
    trace, items, by_idf, half_life, keep, events, reads, state, stored, shards, user, progress, out
):  # fmt: skip
    """Without caps: merge each user's sorted events with their sorted reads; a read sees the events strictly before.

        events     e(1) e(4)      e(9)          starts[u] .. starts[u + 1]
        reads           r(4) r(7)      r(12)    starts[u] .. starts[u + 1]
        sees            {1}  {1,4}     {1,4,9}

    Args:
        keep: whether users are to go on later: what each has left is stored.
        events: (starts, times, codes, values), codes the items' places, -1 without tokens.
        reads: (starts, times, rows), rows their places in `out`.
        state: (where, rooms, counts, units int64, masses float64), each [U]: what users have left, and where.
        stored: (tokens int32, weights float64), the users' weights.
        shards, user: the users to do: `user`, `user` + `shards` and so on.
        progress: int64 [3], (STORED, LISTS, WRITTEN): places used of `stored`, of `ends` and of `ids`.
        out: (ends, ids, shares, list_of, masses); list l is ``ids[ends[l - 1] : ends[l]]``, read r has list_of[r].

    Returns:
        The first user who was not done because `stored` is full; a number beyond the last where all were.
    """
    starts, times, codes, values = events
    read_starts, read_times, read_rows = reads
    where, rooms, counts, units, masses = state
    tokens, token_weights = stored
    list_of, read_masses = out[3:]
    offsets, idf, head = items[1], items[3], trace[5]
    while user < len(read_starts) - 1:
        event, last = starts[user], starts[user + 1]
        if event == last and read_starts[user] == read_starts[user + 1]:
            user += shards
            continue
        if keep and event < last:
            most = counts[user]
            for row in range(event, last):
                most += offsets[codes[row] + 1] - offsets[codes[row]] if codes[row] >= 0 else 0
            most = min(most, len(trace[0]))
            if most > rooms[user] and progress[STORED] + most > len(tokens):
                return user
        for index in range(where[user], where[user] + counts[user]):
            trace[1][head[COUNT]] = tokens[index]
            trace[0][tokens[index]] = token_weights[index]
            head[COUNT] += 1
        head[UNIT] = units[user]
        trace[6][0] = masses[user]
        relist(trace, idf)
        number, changed = 0, head[LISTED] > 0
        for read in range(read_starts[user], read_starts[user + 1]):
            while event < last and times[event] < read_times[read]:
                gain, unit = gain_of(values[event], times[event], half_life)
                _add(trace, items, codes[event], gain, unit, True)
                event += 1
                changed = True
            if changed:
                number = _emit(trace, idf, by_idf, progress, out)
                changed = False
            list_of[read_rows[read]] = number
            read_masses[read_rows[read]] = mass_at(trace, read_times[read], half_life)
        if keep and starts[user] < last:
            while event < last:
                gain, unit = gain_of(values[event], times[event], half_life)
                _add(trace, items, codes[event], gain, unit, False)
                event += 1
            if head[COUNT] > rooms[user]:
                rooms[user] = min(head[COUNT] + head[COUNT] // 2, len(tokens) - progress[STORED])
                where[user] = progress[STORED]
                progress[STORED] += rooms[user]
            for index in range(head[COUNT]):
                tokens[where[user] + index] = trace[1][index]
                token_weights[where[user] + index] = trace[0][trace[1][index]]
            counts[user], units[user], masses[user] = head[COUNT], head[UNIT], trace[6][0]
        clear(trace)
        user += shards
    return user


@compiled
def build_window(
    trace, items, by_idf, half_life, caps, keep, events, reads, seen, shard, shards, progress, out, alive
):  # fmt: skip
    """With caps: as `build_running`, but events leave the window, and the fold then begins anew.

    What `recall_window` chooses by looking back is kept up going forward: only an event that comes, or time, can
    push another out, and what is out stays out.

    Args:
        caps, seen: as of `recall_window`.
        alive: bool [E], set for the events that still count after the last of each user, where `keep` asks for it.
    """
    last_events, last_micros, per_item, repeat = caps
    starts, times, codes, values = events
    read_starts, read_times, read_rows = reads
    list_of, read_masses = out[3:]
    idf = items[3]
    longest = 0
    for user in range(shard, len(read_starts) - 1, shards):
        longest = max(longest, starts[user + 1] - starts[user])
    window, gains, units = np.empty(longest, np.int64), np.empty(longest), np.empty(longest, np.int64)
    for user in range(shard, len(read_starts) - 1, shards):
        event, last, base = starts[user], starts[user + 1], starts[user]
        begin, end, number, changed, anew = 0, 0, 0, False, False
        final = read_starts[user + 1]
        for read in range(read_starts[user], final + 1 if keep else final):
            while event < last and (read == final or times[event] < read_times[read]):
                code = codes[event]
                if code >= 0:
                    seen[code] += 1
                    if per_item > 0 and seen[code] > per_item:  # the oldest of the item leaves
                        at = begin
                        while codes[window[at]] != code:
                            at += 1
                        while at > begin:
                            window[at] = window[at - 1]
                            at -= 1
                        begin += 1
                        seen[code] -= 1
                        anew = True
                    anew = anew or (repeat < 1.0 and seen[code] > 1)
                window[end] = event
                end += 1
                if last_events > 0 and end - begin > last_events:
                    if codes[window[begin]] >= 0:
                        seen[codes[window[begin]]] -= 1
                    begin += 1
                    anew = True
                gains[event - base], units[event - base] = gain_of(values[event], times[event], half_life)
                if not anew and read < final:
                    _add(trace, items, code, gains[event - base], units[event - base], True)
                event += 1
                changed = True
            if read == final:
                break
            while last_micros > 0 and begin < end and times[window[begin]] < read_times[read] - last_micros:
                if codes[window[begin]] >= 0:
                    seen[codes[window[begin]]] -= 1
                begin += 1
                changed, anew = True, True
            if anew:
                _refold(trace, items, repeat, codes, gains, units, base, window, begin, end, seen)
                anew = False
            if changed:
                number = _emit(trace, idf, by_idf, progress, out)
                changed = False
            list_of[read_rows[read]] = number
            read_masses[read_rows[read]] = mass_at(trace, read_times[read], half_life)
        for at in range(begin, end):
            alive[window[at]] = keep
            if codes[window[at]] >= 0:
                seen[codes[window[at]]] = 0
        clear(trace)
