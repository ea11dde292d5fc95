"""Hash functions that are the same in any process and on any machine: of token ids, and of raw ids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["digest_ids", "hash_rows"]

Ints = npt.NDArray[np.int64]

_FNV_START, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3


def hash_rows(keys: Ints, function: int, rows: int) -> Ints:
    """Hash function number `function` of `keys` [N], as rows 0 to `rows` - 1; the same in any process and machine.

    The finalizer of SplitMix64 (Steele, Lea and Flood 2014), started elsewhere for each function.
    """
    start = (0x9E3779B97F4A7C15 * (function + 1)) % 2**64
    mixed = keys.astype(np.uint64) + np.uint64(start)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    found: Ints = (mixed % np.uint64(rows)).astype(np.int64)
    return found


def digest_ids(ids: pa.Array) -> Ints:
    """64 bits of each id: an integer itself; the FNV-1a hash (Fowler, Noll and Vo) of a string's bytes."""
    if pa.types.is_integer(ids.type):
        return np.asarray(ids.to_numpy(zero_copy_only=False)).astype(np.int64, copy=False)
    text = ids.cast(pa.large_string())
    _, offsets_buffer, data = text.buffers()
    if not len(text):
        return np.empty(0, np.int64)
    offsets = np.frombuffer(offsets_buffer, np.int64)[text.offset : text.offset + len(text) + 1]
    characters = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")
    starts, lengths = offsets[:-1][order], lengths[order]
    state = np.full(len(text), _FNV_START, np.uint64)
    for place in range(int(lengths[0])):  # the ids that are longer than `place` come first
        longer = int(np.searchsorted(-lengths, -place, side="left"))
        state[:longer] = (state[:longer] ^ characters[starts[:longer] + place]) * np.uint64(_FNV_PRIME)
    digests = np.empty(len(text), np.uint64)
    digests[order] = state
    found: Ints = digests.view(np.int64)
    return found
