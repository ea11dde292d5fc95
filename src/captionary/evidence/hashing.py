"""Seeded hashes of ids, so that what is drawn for a user or an item depends on nobody else."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

__all__ = ["hash_ids", "mix64"]


def hash_ids(ids: npt.NDArray[np.integer | np.str_ | np.object_], seed: int) -> npt.NDArray[np.uint64]:
    """A seeded 64-bit hash of each id, integer or string, [N] → [N]; the same on every machine."""
    if ids.dtype.kind in "iu":
        return mix64(ids.astype(np.uint64), seed)
    digests = b"".join(hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in ids)
    return mix64(np.frombuffer(digests, dtype="<u8").astype(np.uint64), seed)


def mix64(keys: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """A seeded hash of each key, [N] → [N]: the SplitMix64 finalizer (Steele, Lea and Flood 2014), twice."""
    start = (seed * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) % 2**64
    mixed = keys ^ np.uint64(start)
    for _ in range(2):
        mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed
