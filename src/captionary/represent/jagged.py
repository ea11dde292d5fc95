"""Jagged int32 lists: the one shape of token lists, items and profiles alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Jagged"]


class Jagged(NamedTuple):
    """N lists of unequal length, never padded.

        lists    [[7, 3], [], [5]]
        values   [7, 3, 5]          int32   [nnz]
        offsets  [0, 2, 2, 3]       int64   [N + 1]
        weights  [.5, .5, 1.]       float32 [nnz], or None where every weight is 1
    """

    values: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32] | None = None

    @property
    def rows(self) -> int:
        """The number of lists, N."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """The length of each list, int64 [N]."""
        return np.diff(self.offsets)

    def row(self, index: int) -> npt.NDArray[np.int32]:
        """The values of one list, int32 [length]."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def take(self, rows: npt.NDArray[np.int64]) -> Jagged:
        """The lists at `rows` [M], in that order, as a new Jagged of M lists."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        index = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Jagged(self.values[index], offsets, None if self.weights is None else self.weights[index])

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]]) -> Jagged:
        """Pack Python lists of token ids."""
        packed = [np.asarray(ids, dtype=np.int32) for ids in lists]
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in packed])]).astype(np.int64)
        values = np.concatenate(packed) if packed else np.empty(0, np.int32)
        return cls(values, offsets)

    def to_arrow(self) -> tuple[Any, Any]:
        """(token_ids, weights) as Arrow list<int32> and list<float32> arrays; weights is None where unweighted."""
        import pyarrow as pa

        offsets = pa.array(self.offsets, pa.int32())
        ids = pa.ListArray.from_arrays(offsets, pa.array(self.values, pa.int32()))
        if self.weights is None:
            return ids, None
        return ids, pa.ListArray.from_arrays(offsets, pa.array(self.weights, pa.float32()))

    @classmethod
    def from_arrow(cls, token_ids: Any, weights: Any = None) -> Jagged:
        """Read Arrow list arrays (chunked or not) written by `to_arrow`."""
        import pyarrow as pa

        def combined(array: Any) -> Any:
            return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array

        ids = combined(token_ids)
        if isinstance(ids, pa.ChunkedArray):  # combine_chunks keeps a chunked array where offsets overflow
            ids = pa.concat_arrays(ids.chunks)
        lengths = ids.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        values = ids.flatten().to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
        if weights is None:
            return cls(values, offsets)
        flat = combined(weights).flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        return cls(values, offsets, flat)
