"""Lists of a newer vocabulary for whoever knows an older one: nothing that was learnt is misread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.represent.jagged import Jagged

__all__ = ["clip", "respell"]


def clip(lists: Jagged, size: int, *, drop: bool = False) -> Jagged:
    """Lists for a table of `size` rows: an id beyond it becomes 0, [UNK], or is dropped with its weight.

        size 5   [[7, 3], [5], [1]]  →  [[0, 3], [0], [1]],  dropped: [[3], [], [1]]

    What a frozen ranker needs where only the size of its token table is known; `project` of a tokenizer does better, as
    it knows how the older version spelt the token.

    Raises:
        CaptionaryError: a size below 1.
    """
    if size < 1:
        raise bad_value("size", size, ">= 1, as id 0 is [UNK]")
    return respell(lists, size, {}, [] if drop else [0])


def respell(lists: Jagged, size: int, spelt: Mapping[int, Sequence[int]], otherwise: Sequence[int]) -> Jagged:
    """Replace each id >= `size` by the ids that `spelt` gives for it, or by `otherwise`.

    A weight is shared evenly by the ids that stand for the one it belonged to.

        size 5, spelt {7: [2, 4]}   [[7, 3], [6]] of weights [[.5, .5], [1]]
        otherwise [0]            →  [[2, 4, 3], [0]] of weights [[.25, .25, .5], [1]]
    """
    values = lists.values
    newer = values >= size
    if not newer.any():
        return lists
    distinct, place = np.unique(values[newer], return_inverse=True)
    spellings = [np.asarray(spelt.get(int(token), otherwise), np.int32) for token in distinct]
    pool = np.concatenate(spellings)  # [P] the spellings, one after the other
    lengths = np.array([len(ids) for ids in spellings], np.int64)
    starts = np.cumsum(lengths) - lengths
    counts = np.ones(len(values), np.int64)  # ids that stand for each id of `values`
    counts[newer] = lengths[place]
    first = np.zeros(len(values), np.int64)
    first[newer] = starts[place]
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    source = np.repeat(np.arange(len(values)), counts)
    within = np.arange(ends[-1]) - ends[source]
    out = values[source].copy()
    from_pool = newer[source]
    out[from_pool] = pool[(first[source] + within)[from_pool]]
    weights: npt.NDArray[np.float32] | None = None
    if lists.weights is not None:
        weights = (lists.weights[source] / counts[source]).astype(np.float32)
    return Jagged(out, ends[lists.offsets], weights)
