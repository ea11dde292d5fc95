"""What profiles are made of, as plain arrays: items with their tokens, events, moments to read at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captionary.errors import CaptionaryError, bad_value
from captionary.represent.jagged import Jagged

if TYPE_CHECKING:
    from captionary.represent.profiles import ProfileConfig

__all__ = ["EventRows", "IdCodes", "Items", "event_values", "ids_of", "micros"]

_MAX_VALUE = 1e100  # far from where a sum of doubles overflows
_DENSE = 1 << 26  # int64 ids below this are looked up in an array of at most 256 MiB


class Items(NamedTuple):
    """Items in the order of their ids, so that nothing depends on the order of a table."""

    ids: pa.Array
    tokens: Jagged
    token_weights: npt.NDArray[np.float32]
    """[nnz], or [0] where every weight is 1."""
    idf: npt.NDArray[np.float64]

    @classmethod
    def of(cls, item_ids: Any, item_tokens: Jagged, idf: npt.NDArray[np.float32] | None) -> Items:
        """Check and order what a caller gave.

        Raises:
            CaptionaryError: ids, lists, weights or an idf that do not fit.
        """
        ids = ids_of(item_ids, "item_id of items")
        if len(ids) != item_tokens.rows:
            raise bad_value("item_tokens", f"{item_tokens.rows} lists", f"one for each of {len(ids)} items")
        if len(pc.unique(ids)) != len(ids):
            raise bad_value("item_ids", "repeated ids", "unique")
        if len(item_tokens.values) and item_tokens.values.min() < 0:
            raise bad_value("token id", int(item_tokens.values.min()), ">= 0", where="item_tokens")
        order = pc.sort_indices(ids)
        tokens = item_tokens.take(order.to_numpy().astype(np.int64))
        weights = np.empty(0, np.float32) if tokens.weights is None else tokens.weights
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise bad_value("weights of item_tokens", "values below 0 or not finite", ">= 0 and finite")
        return cls(ids.take(order), tokens, weights, checked_idf(idf, item_tokens))

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """(token values, offsets, weights, idf), as the kernels take them."""
        return self.tokens.values, self.tokens.offsets, self.token_weights, self.idf


def checked_idf(idf: npt.NDArray[np.float32] | None, item_tokens: Jagged) -> npt.NDArray[np.float64]:
    """The idf as float64 [V]; None: 1 for every token.

    Raises:
        CaptionaryError: values that are not above 0 and finite, or fewer than there are token ids.
    """
    size = int(item_tokens.values.max()) + 1 if len(item_tokens.values) else 0
    if idf is None:
        idf = np.ones(size, np.float32)
    if len(idf) < size:
        raise bad_value("idf", f"{len(idf)} values", f"a value for each of {size} token ids")
    if not (np.isfinite(idf) & (idf > 0)).all():
        raise bad_value("idf", "values of 0, below 0 or not finite", "above 0 and finite")
    return idf.astype(np.float64)


class EventRows(NamedTuple):
    """E events as arrays, in any order."""

    users: pa.Array
    kinds: npt.NDArray[np.int64]
    """Place of the event type among those that profiles are made of; -1: none of them."""
    items: npt.NDArray[np.int64]
    """Place of the item in the order of ids; -1: not among the items."""
    times: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    """What each counts: clipped, and never NaN."""

    @classmethod
    def of(cls, events: pa.Table, types: Sequence[str], items: IdCodes, config: ProfileConfig) -> EventRows:
        """Read a table of events: user_id, item_id, event, timestamp and maybe value.

        Raises:
            CaptionaryError: ids of another type than the items'; a missing timestamp; a value below 0.
        """
        return cls(
            ids_of(events["user_id"], "user_id of events"),
            _kinds(events["event"], types),
            items.codes(ids_of(events["item_id"], "item_id of events"), "item_id of events"),
            micros(events["timestamp"], "timestamp of events"),
            _values(events, config),
        )


class IdCodes:
    """Numbers for ids (int64 or string) in the order in which they were added."""

    def __init__(self, ids: pa.Array | None = None) -> None:
        self.ids = pa.nulls(0) if ids is None else ids
        self._dense: npt.NDArray[np.int32] | None = None
        if ids is not None:
            self._index()

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: pa.Array, what: str) -> npt.NDArray[np.int64]:
        """The number of each id, new ones included."""
        codes = self.codes(ids, what)
        new = codes < 0
        if new.any():
            fresh = pc.unique(ids.filter(pa.array(new)))
            self.ids = fresh if not len(self.ids) else pa.concat_arrays([self.ids, fresh])
            self._index()
            codes = self.codes(ids, what)
        return codes

    def codes(self, ids: pa.Array, what: str) -> npt.NDArray[np.int64]:
        """The number of each id, int64; -1 for those that are not known.

        Raises:
            CaptionaryError: ids of another type than the known ones.
        """
        if not len(ids) or not len(self.ids):
            return np.full(len(ids), -1, np.int64)
        if ids.type != self.ids.type:
            raise bad_value(what, str(ids.type), f"{self.ids.type}, as in the other table")
        if self._dense is not None and not ids.null_count:
            numbers = ids.to_numpy()
            if numbers.min() >= 0 and numbers.max() < len(self._dense):
                found: npt.NDArray[np.int64] = self._dense[numbers].astype(np.int64)
                return found
        codes = pc.index_in(ids, value_set=self.ids).fill_null(-1)
        return codes.to_numpy().astype(np.int64)  # type: ignore[no-any-return]

    def _index(self) -> None:
        """An array to look ids up in, where they are numbers that are not too far apart."""
        self._dense = None
        if pa.types.is_int64(self.ids.type) and not self.ids.null_count and len(self.ids):
            numbers = self.ids.to_numpy()
            low, high = int(numbers.min()), int(numbers.max())
            if low >= 0 and high < min(_DENSE, 64 * len(numbers) + (1 << 16)):
                self._dense = np.full(high + 1, -1, np.int32)
                self._dense[numbers] = np.arange(len(numbers), dtype=np.int32)


def ids_of(values: Any, what: str) -> pa.Array:
    """Ids as one Arrow array of int64 or string.

    Raises:
        CaptionaryError: ids of another type.
    """
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_integer(array.type):
        return array.cast(pa.int64())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_null(array.type):
        return array.cast(pa.string())
    raise bad_value(what, str(array.type), "int64 or string")


def micros(column: Any, what: str) -> npt.NDArray[np.int64]:
    """Timestamps as int64 microseconds since 1970, UTC.

    Raises:
        CaptionaryError: a missing one, or a column that holds no time.
    """
    if column.null_count:
        raise bad_value(what, "null", "given", where=f"{column.null_count} rows")
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    elif not pa.types.is_int64(column.type):
        raise bad_value(what, str(column.type), "timestamp, or int64 in microseconds")
    return column.cast(pa.int64()).to_numpy()  # type: ignore[no-any-return]


def event_values(
    values: npt.NDArray[np.float64], config: ProfileConfig, where: str
) -> npt.NDArray[np.float64]:
    """What events count: NaN (missing) as `value_missing`, more than `value_max` as that.

    Raises:
        CaptionaryError: a value below 0, or one that is infinite and not clipped.
    """
    if not config.weigh_by_value:
        return np.ones(len(values))
    counted = np.minimum(np.where(np.isnan(values), config.value_missing, values), config.value_max)
    wrong = ~((counted >= 0) & (counted <= _MAX_VALUE))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise _bad_event_value(float(values[row]), where.format(row=row))
    return counted


def _bad_event_value(value: float, where: str) -> CaptionaryError:
    rule = f"from 0 to {_MAX_VALUE:g}, or missing"
    if math.isinf(value) and value > 0:
        return bad_value("value", value, rule, where=where, todo="set value_max to have values clipped")
    return bad_value("value", value, rule, where=where)


def _values(events: pa.Table, config: ProfileConfig) -> npt.NDArray[np.float64]:
    if "value" not in events.column_names:
        return event_values(np.full(len(events), np.nan), config, "")
    try:
        column = events["value"].cast(pa.float64())
    except pa.ArrowInvalid:
        raise bad_value("value of events", str(events["value"].type), "a number") from None
    return event_values(column.fill_null(math.nan).to_numpy(), config, "events, row {row}")


def _kinds(column: Any, types: Sequence[str]) -> npt.NDArray[np.int64]:
    """The place of each event type among `types`, -1 for others; by dictionary where the column has one."""
    parts = [np.empty(0, np.int64)]
    known = pa.array(types, pa.string())
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        words = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
        place = (
            pc.index_in(words.cast(pa.string()), value_set=known).fill_null(-1).to_numpy().astype(np.int64)
        )
        if pa.types.is_dictionary(chunk.type):
            place = np.append(place, -1)[chunk.indices.fill_null(len(place)).to_numpy()]
        parts.append(place)
    return np.concatenate(parts)
