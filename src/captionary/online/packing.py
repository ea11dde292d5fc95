"""How the online store writes things as bytes: ids as keys, lists, logs and fold states as packed arrays."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value

__all__ = [
    "FOREVER",
    "FoldState",
    "Id",
    "ListRecord",
    "Segment",
    "id_bytes",
    "id_of",
    "pack_fold",
    "pack_list",
    "pack_segment",
    "unpack_fold",
    "unpack_list",
    "unpack_segment",
]

Id = int | str
"""Of a user or an item, as the data contract has it: int64 or string."""
FOREVER = (1 << 63) - 1
_LONGEST_ID = 200
"""Bytes of UTF-8: LMDB's keys have at most 511, and one holds two ids."""
_NUMBER, _WORD = b"#", b"$"
_ZERO = 1 << 63
_LIST = struct.Struct("<iqqqd")
_FOLD = struct.Struct("<qqqqiqqqd")
_COUNT = struct.Struct("<i")


def id_bytes(value: Id) -> bytes:
    """An id as bytes whose order is that of the ids: numbers by size, strings by their UTF-8.

    Raises:
        CaptionaryError: beyond int64, a string that is empty, too long or holds a null character.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise bad_value("id", repr(value), "an integer or a string")
    if isinstance(value, int):
        if not -_ZERO <= value < _ZERO:
            raise bad_value("id", value, "an integer of 64 bits")
        return _NUMBER + (value + _ZERO).to_bytes(8, "big")
    try:
        word = value.encode()
    except UnicodeEncodeError:
        raise bad_value("id", ascii(value), "text without lone surrogates") from None
    if not word or len(word) > _LONGEST_ID or b"\0" in word:
        raise bad_value("id", value, f"1 to {_LONGEST_ID} bytes of UTF-8 without a null character")
    return _WORD + word


def id_of(packed: bytes) -> Id:
    """What `id_bytes` packed."""
    if packed[:1] == _NUMBER:
        return int.from_bytes(packed[1:], "big") - _ZERO
    return packed[1:].decode()


class ListRecord(NamedTuple):
    """One user's profile of one event type, as it is read for ranking."""

    token_ids: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    """Shares that sum to 1."""
    valid_from: int
    """The list is that of every moment from here (microseconds) …"""
    valid_until: int
    """… to here, this one included; outside it is made from the log."""
    unit: int
    """With `mass`: the decayed event weight in units of 2^-unit half-lives, see `represent.decay`."""
    mass: float


def pack_list(record: ListRecord) -> bytes:
    """The list as bytes."""
    head = _LIST.pack(len(record.token_ids), record.valid_from, record.valid_until, record.unit, record.mass)
    return head + record.token_ids.tobytes() + record.weights.tobytes()


def unpack_list(data: bytes) -> ListRecord:
    """What `pack_list` wrote; the arrays are views of the bytes."""
    count, start, end, unit, mass = _LIST.unpack_from(data)
    ids = np.frombuffer(data, np.int32, count, _LIST.size)
    shares = np.frombuffer(data, np.float32, count, _LIST.size + 4 * count)
    return ListRecord(ids, shares, start, end, unit, mass)


class Segment(NamedTuple):
    """Some events of one user and type, in order of (time, item, value)."""

    times: list[int]
    items: list[bytes]
    values: list[float]

    def part(self, start: int, end: int | None = None) -> Segment:
        """Events from number `start` to before `end`."""
        return Segment(self.times[start:end], self.items[start:end], self.values[start:end])

    def chosen(self, rows: Sequence[int]) -> Segment:
        """The events of these numbers, in this order."""
        columns = ([column[row] for row in rows] for column in self)
        return Segment._make(columns)

    def plus(self, other: Segment) -> Segment:
        """These events and then others."""
        return Segment(self.times + other.times, self.items + other.items, self.values + other.values)


def pack_segment(segment: Segment) -> bytes:
    """28 bytes an event and less for short ids."""
    lengths = np.fromiter(map(len, segment.items), np.uint8, len(segment.items))
    return b"".join(
        (
            _COUNT.pack(len(segment.times)),
            np.array(segment.times, np.int64).tobytes(),
            np.array(segment.values, np.float64).tobytes(),
            lengths.tobytes(),
            *segment.items,
        )
    )


def unpack_segment(data: bytes) -> Segment:
    """What `pack_segment` wrote."""
    (count,) = _COUNT.unpack_from(data)
    at = _COUNT.size
    times = np.frombuffer(data, np.int64, count, at).tolist()
    values = np.frombuffer(data, np.float64, count, at + 8 * count).tolist()
    lengths = np.frombuffer(data, np.uint8, count, at + 16 * count).tolist()
    at += 17 * count
    items = []
    for length in lengths:
        items.append(data[at : at + length])
        at += length
    return Segment(times, items, values)


class FoldState(NamedTuple):
    """What lets the fold of one user and type go on: the trace of all events before the newest moment."""

    events: int
    """In the log."""
    folded: int
    """Of them in the trace."""
    newest: int
    """The newest moment; events before it are those that are folded."""
    since: int
    """Older events have been dropped: the log answers for moments from here on."""
    tokens: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float64]
    head: npt.NDArray[np.int64]
    mass: float


def pack_fold(state: FoldState) -> bytes:
    """The state as bytes."""
    counts = (state.events, state.folded, state.newest, state.since, len(state.tokens))
    head = _FOLD.pack(*counts, *(int(number) for number in state.head), state.mass)
    return head + state.tokens.tobytes() + state.weights.tobytes()


def unpack_fold(data: bytes) -> FoldState:
    """What `pack_fold` wrote."""
    events, folded, newest, since, size, count, listed, unit, mass = _FOLD.unpack_from(data)
    tokens = np.frombuffer(data, np.int32, size, _FOLD.size)
    weights = np.frombuffer(data, np.float64, size, _FOLD.size + 4 * size)
    head: npt.NDArray[Any] = np.array([count, listed, unit], np.int64)
    return FoldState(events, folded, newest, since, tokens, weights, head, mass)
