"""A vocabulary as a service asks it: one raw id at a time, never seen, or missing."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captionary.errors import CaptionaryError, bad_value
from captionary.rank.vocabulary import Vocabulary

__all__ = ["Lookup"]

Ints = npt.NDArray[np.int64]


class Lookup:
    """The rows that a vocabulary gives raw ids or categories; 0 for None, NaN and what it does not know.

    Args:
        vocabulary: to look up in; one that hashes is asked itself.
        name: of the column, for errors.
    """

    def __init__(self, vocabulary: Vocabulary, name: str) -> None:
        self.vocabulary, self.name = vocabulary, name
        ids = vocabulary.ids
        self._row: dict[Hashable, int] = {key: place for place, key in enumerate(ids.to_pylist(), start=1)}
        self._kind: type = object
        if pa.types.is_integer(ids.type):
            self._kind = int
        elif pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type):
            self._kind = str

    def __len__(self) -> int:
        return len(self._row)

    def row(self, key: Any) -> int:
        """The row of one key.

        Raises:
            CaptionaryError: a key of another type than those known: a "7" where 7 is meant would never be found.
        """
        try:
            found = self._row.get(key)
        except TypeError:
            raise self._other(key) from None
        return self._unknown(key) if found is None else found

    def rows(self, keys: Sequence[Any] | npt.NDArray[Any]) -> Ints:
        """The rows of keys [n], int64 [n]; errors are those of `row`."""
        listed = keys.tolist() if isinstance(keys, np.ndarray) else keys
        try:
            found = np.fromiter(map(self._row.get, listed, itertools.repeat(-1)), np.int64, len(listed))
        except TypeError:  # a key that cannot be hashed: say which
            return np.array([self.row(key) for key in listed], np.int64)
        for place in np.flatnonzero(found < 0).tolist():
            found[place] = self._unknown(listed[place])
        return found

    def _unknown(self, key: Any) -> int:
        if key is None or key != key:  # NaN
            return 0
        if self.vocabulary.hash_rows:
            return int(self.vocabulary.index([key])[0])
        if self._kind is int and not (isinstance(key, int | np.integer) and not isinstance(key, bool)):
            raise self._other(key)
        if self._kind is str and not isinstance(key, str):
            raise self._other(key)
        return 0

    def _other(self, key: Any) -> CaptionaryError:
        kinds = {int: "an integer", str: "a string", object: "a plain value"}
        return bad_value(self.name, key, f"{kinds[self._kind]}, as in training")
