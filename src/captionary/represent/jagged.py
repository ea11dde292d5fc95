"""Jagged int32 lists: the one shape of token lists, items and profiles alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value

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
        """The values of one list, int32 [length]; a negative index counts from the end.

        Raises:
            IndexError: no such list.
        """
        if not -self.rows <= index < self.rows:
            raise IndexError(f"list {index} of {self.rows}")
        index %= self.rows
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def take(self, rows: npt.NDArray[np.int64]) -> Jagged:
        """The lists at `rows` [M], in that order, as a new Jagged of M lists."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        index = np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Jagged(self.values[index], offsets, None if self.weights is None else self.weights[index])

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]]) -> Jagged:
        """Pack Python lists of token ids."""
        packed = [np.asarray(ids, dtype=np.int32) for ids in lists]
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in packed])]).astype(np.int64)
        values = np.concatenate(packed) if packed else np.empty(0, np.int32)
        return cls(values, offsets)

    def to_arrow(self) -> tuple[Any, Any]:
        """(token_ids, weights) as Arrow list<int32> and list<float32> arrays; weights is None where
        unweighted.

        Raises:
            CaptionaryError: more than 2^31 - 1 values, which the offsets of such an array cannot count.
        """
        import pyarrow as pa

        if self.offsets[-1] > np.iinfo(np.int32).max:
            raise bad_value(
                "values of an Arrow array", int(self.offsets[-1]), "< 2^31", todo="take fewer rows"
            )
        offsets = pa.array(self.offsets, pa.int32())
        ids = pa.ListArray.from_arrays(offsets, pa.array(self.values, pa.int32()))
        if self.weights is None:
            return ids, None
        return ids, pa.ListArray.from_arrays(offsets, pa.array(self.weights, pa.float32()))

    @classmethod
    def from_arrow(cls, token_ids: Any, weights: Any = None) -> Jagged:
        """Read Arrow arrays of lists (chunked, sliced or neither); a null list is an empty one.

        Raises:
            CaptionaryError: token ids that are not integers of 32 bits, a null among them, or weights that do
            not
                fit the token ids.
        """
        values, offsets = _flat(token_ids, "token_ids", np.int32)
        if weights is None:
            return cls(values, offsets)
        flat, ends = _flat(weights, "weights", np.float32)
        if not np.array_equal(ends, offsets):
            raise bad_value("weights", "lists of other lengths", "as long as token_ids")
        return cls(values, offsets, flat)


def _flat(lists: Any, what: str, dtype: type) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """(values, offsets) of an Arrow array of lists, chunk by chunk: joined, they may overflow."""
    import pyarrow as pa

    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        raise bad_value(what, str(lists.type), f"list<{np.dtype(dtype).name}>")
    values: list[npt.NDArray[Any]] = [np.empty(0, dtype)]
    lengths: list[npt.NDArray[np.int64]] = [np.zeros(1, np.int64)]
    for chunk in lists.chunks if isinstance(lists, pa.ChunkedArray) else [lists]:
        flat = chunk.flatten()
        if flat.null_count:
            raise bad_value(what, "null", "given", where="inside a list")
        try:
            values.append(flat.cast(pa.from_numpy_dtype(dtype)).to_numpy(zero_copy_only=False))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            rule = f"list<{np.dtype(dtype).name}>"
            raise bad_value(what, str(lists.type), rule, where=str(error)) from None
        lengths.append(chunk.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))
    return np.concatenate(values), np.cumsum(np.concatenate(lengths))
