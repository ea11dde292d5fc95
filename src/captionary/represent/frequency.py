"""Inverse document frequencies that know of no later item.

The rule: a token's frequency is counted over the items that were known when the ranker was trained, and over no
others: the items of training impressions, or those created before a moment. One vector serves all lists of a run, so
a list as of a moment depends on events before it and on that vector alone. Were it counted over the whole catalogue,
every list would know which tokens the items of the evaluation days have.
"""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captionary.errors import bad_value
from captionary.represent.jagged import Jagged
from captionary.represent.profile_log import micros

__all__ = ["created_before", "inverse_document_frequency"]


def inverse_document_frequency(
    item_tokens: Jagged, known: npt.NDArray[np.bool_], vocabulary: int | None = None
) -> npt.NDArray[np.float32]:
    """ln((1 + n) / (1 + df)) + 1 of each token, float32 [V], over the n known items; df: those that hold the token.

    Args:
        item_tokens: lists of I items.
        known: bool [I]: which items count.
        vocabulary: V; None: just enough for the ids that occur in any item.

    Raises:
        CaptionaryError: `known` is not of one value for each item; a vocabulary that is too small.
    """
    if known.shape != (item_tokens.rows,):
        raise bad_value("known", str(known.shape), f"a value for each of {item_tokens.rows} items")
    least = int(item_tokens.values.max()) + 1 if len(item_tokens.values) else 0
    size = least if vocabulary is None else vocabulary
    if size < least:
        raise bad_value("vocabulary", size, f">= {least}, the ids that occur")
    lists = item_tokens.take(np.flatnonzero(known))
    # One number for each (item, token), so that a token counts once an item.
    pairs = np.repeat(np.arange(lists.rows, dtype=np.int64), lists.lengths) * max(size, 1) + lists.values
    frequency = np.bincount(np.unique(pairs) % max(size, 1), minlength=size)[:size]
    return (np.log((1 + lists.rows) / (1 + frequency)) + 1).astype(np.float32)


def created_before(created_at: Any, moment: datetime.datetime | int) -> npt.NDArray[np.bool_]:
    """Which items were created strictly before a moment (microseconds, or with a time zone); null: always known.

    Raises:
        CaptionaryError: a datetime without a time zone; a column that holds no time.
    """
    if isinstance(moment, datetime.datetime):
        if moment.tzinfo is None:
            raise bad_value("moment", moment.isoformat(), "a datetime with a time zone")
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        moment = (moment - epoch) // datetime.timedelta(microseconds=1)
    column = created_at.combine_chunks() if isinstance(created_at, pa.ChunkedArray) else created_at
    missing = column.is_null().to_numpy(zero_copy_only=False)
    known: npt.NDArray[np.bool_] = missing.copy()
    known[~missing] = micros(column.drop_null(), "created_at") < moment
    return known
