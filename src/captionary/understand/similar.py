"""Near-duplicate pictures: the same picture in another size, format or quality, told without its bytes.

    picture ──grey 32 × 32──▶ DCT ──64 lowest frequencies──▶ 64-bit hash     near: ≤ `threshold` bits differ
       └────colour 8 × 8───────────────────────────────────▶ grid            near: no cell differs by > GRID

The hash finds candidates, the grid confirms them: a perceptual hash alone is blind to colour, and takes a red shirt
for the blue one. Pictures whose hash would be noise, flat or nearly so, have none and match nothing.
Source of the hash: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), § 3.2.1;
of the exact search: Norouzi et al., "Fast Exact Search in Hamming Space with Multi-Index Hashing" (2014).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from captionary.errors import bad_value

__all__ = ["GRID", "MAX_THRESHOLD", "HashIndex", "Sign", "grids_agree", "hamming", "sign_of"]

GRID = 14
"""Levels of 255 by which a cell of two near-duplicates may differ. Resizing and JPEG at quality 40 change one by
less in 99 of 100 photographs."""
MAX_THRESHOLD = 16
"""Above it, a quarter of the bits, unrelated pictures meet."""
_SIDE, _CELLS = 32, 8
_LEAST = 2.0
"""Half of a picture's frequencies must be at least this strong, in levels: 8-bit rounding and mild JPEG noise have
about 0.3 to 1, and decide the bits of anything weaker."""
_TAIL = 8192
"""New hashes that are scanned one by one before the index is built again over all."""


def _basis() -> npt.NDArray[np.float32]:
    """The orthonormal DCT-II [frequencies, pixels] of one side, frequencies 0 to 11."""
    frequencies, pixels = np.arange(12)[:, None], np.arange(_SIDE)[None, :]
    basis = np.cos(np.pi * frequencies * (2 * pixels + 1) / (2 * _SIDE)) * np.sqrt(2 / _SIDE)
    basis[0] /= np.sqrt(2)
    return np.asarray(basis, dtype=np.float32)


_DCT = _basis()
# The 64 lowest frequencies after the constant, the mean brightness: those nearest to the corner.
_CHOSEN = np.asarray(
    sorted((u * u + v * v, u, v) for u in range(12) for v in range(12) if u or v)[:64], dtype=np.intp
)[:, 1:]
_WEIGHTS = np.uint64(1) << np.arange(64, dtype=np.uint64)
_BITS = np.array([bin(i).count("1") for i in range(1 << 16)], dtype=np.uint8)


class Sign(NamedTuple):
    """By what a picture is known again."""

    hash: int
    """64 bits, unsigned."""
    grid: bytes
    """8 × 8 cells, RGB: 192 bytes."""


def sign_of(image: Image.Image) -> Sign | None:
    """The sign of an RGB picture; None where it is too flat to be known by one."""
    # BOX averages all pixels of a cell, so that the sign hardly depends on the size that the picture had.
    grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float32)
    strength = (_DCT @ grey @ _DCT.T)[_CHOSEN[:, 0], _CHOSEN[:, 1]]  # [64]
    if np.median(np.abs(strength)) < _LEAST:
        return None
    bits = strength > np.median(strength)
    cells = image.resize((_CELLS, _CELLS), Image.Resampling.BOX)
    return Sign(int(_WEIGHTS[bits].sum()), cells.tobytes())


def grids_agree(one: bytes, other: bytes) -> bool:
    """Whether no cell's colour differs by more than GRID."""
    cells = np.frombuffer(one, np.uint8).astype(np.int16) - np.frombuffer(other, np.uint8)
    return bool(np.abs(cells).max(initial=0) <= GRID)


def hamming(hashes: npt.NDArray[np.uint64], one: int) -> npt.NDArray[np.int64]:
    """Bits in which each of the hashes [N] differs from `one`."""
    halves = (hashes ^ np.uint64(one)).view(np.uint16).reshape(len(hashes), 4)
    return np.asarray(_BITS[halves].sum(axis=1), dtype=np.int64)


class HashIndex:
    """Finds all hashes within `threshold` bits, exactly, without comparing with each.

    With threshold + 1 bands of bits, two hashes that differ in at most `threshold` bits agree in one band at least,
    so only hashes that share a band are compared: about 600 of a million at the default of 4.

    Args:
        threshold: bits that may differ, 0 to MAX_THRESHOLD.

    Raises:
        CaptionaryError: a threshold out of range.
    """

    def __init__(self, threshold: int) -> None:
        if not 0 <= threshold <= MAX_THRESHOLD:
            raise bad_value("similar", threshold, f"0 to {MAX_THRESHOLD} bits of 64")
        self.threshold = threshold
        edges = np.linspace(0, 64, threshold + 2).astype(int)
        self._bands = [
            (np.uint64(low), np.uint64((1 << (high - low)) - 1))
            for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        ]
        self._hashes = np.empty(0, np.uint64)  # indexed
        self._ids = np.empty(0, np.int64)
        self._order: list[npt.NDArray[np.int32]] = []  # rows sorted by each band
        self._sorted: list[npt.NDArray[Any]] = []  # the band's value in that order
        self._tail_hashes: list[npt.NDArray[np.uint64]] = []
        self._tail_ids: list[npt.NDArray[np.int64]] = []
        self._tail = 0

    def __len__(self) -> int:
        return len(self._ids) + self._tail

    def extend(self, ids: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64]) -> None:
        """Add hashes [N] under their ids [N]."""
        if len(ids):
            self._tail_ids.append(ids)
            self._tail_hashes.append(hashes)
            self._tail += len(ids)
        if self._tail > _TAIL:
            self._build()

    def near(self, one: int) -> list[int]:
        """Ids of the hashes within the threshold, the nearest first, of equally near the lowest id."""
        rows = [np.empty(0, np.int32)]
        for (shift, mask), order, values in zip(self._bands, self._order, self._sorted, strict=False):
            value = values.dtype.type((np.uint64(one) >> shift) & mask)
            start, end = np.searchsorted(values, value, "left"), np.searchsorted(values, value, "right")
            rows.append(order[start:end])
        candidates = np.unique(np.concatenate(rows))
        if len(self._tail_ids) > 1:  # one piece a batch came in
            self._tail_ids = [np.concatenate(self._tail_ids)]
            self._tail_hashes = [np.concatenate(self._tail_hashes)]
        hashes = np.concatenate([self._hashes[candidates], *self._tail_hashes])
        ids = np.concatenate([self._ids[candidates], *self._tail_ids])
        differ = hamming(hashes, one)
        found = differ <= self.threshold
        return [int(id_) for id_ in ids[found][np.lexsort((ids[found], differ[found]))]]

    def _build(self) -> None:
        self._hashes = np.concatenate([self._hashes, *self._tail_hashes])
        self._ids = np.concatenate([self._ids, *self._tail_ids])
        self._tail_hashes, self._tail_ids, self._tail = [], [], 0
        self._order, self._sorted = [], []
        for shift, mask in self._bands:
            # Bands of up to 16 bits as such: NumPy sorts them by digits, ten times as fast.
            values = ((self._hashes >> shift) & mask).astype(np.uint16 if mask < 1 << 16 else np.uint64)
            order = np.argsort(values, kind="stable").astype(np.int32)
            self._order.append(order)
            self._sorted.append(values[order])
