"""How raw ids become rows of a table: each with a row of its own once it is frequent, or hashed to a fixed number.

    ids      ada  bob  ada  cy  null           min_rows = 2: bob and cy, seen once, wait
    rows       1    0    1   0     0           row 0 is shared by all that have none

Rows are never renumbered: a table of tomorrow's vocabulary is today's with rows added below.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionary.errors import bad_value
from captionary.publish import atomic_file
from captionary.rank.hashing import digest_ids, hash_rows

__all__ = ["RowRules", "Vocabulary"]

Ints = npt.NDArray[np.int64]

_KEY = b"captionary.vocabulary"
_SEEDS = {"user": 0, "item": 1}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Vocabulary:
    """Raw ids, integers or strings, and their rows. Make one with `fit`, or start from an empty one and `grow` it."""

    min_rows: int = 1
    """Occurrences that an id needs before it gets a row, >= 1 (frequency capping)."""
    hash_rows: int = 0
    """Rows, beside row 0, that all ids are hashed to ("the hashing trick", Weinberger et al. 2009); 0: a row for each
    id. Ids never seen then share rows with others instead of row 0; nulls alone are row 0."""
    seed: int = 0
    """Of the hash function: tables of other seeds have other collisions."""
    ids: pa.Array = field(default_factory=lambda: pa.nulls(0))
    """Ids with a row, that of row 1 first."""
    waiting: pa.Array = field(default_factory=lambda: pa.nulls(0))
    """Ids seen, but fewer than `min_rows` times."""
    waiting_counts: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """How often each of `waiting` was seen."""

    def __post_init__(self) -> None:
        if self.min_rows < 1:
            raise bad_value("min_rows", self.min_rows, ">= 1")
        if self.hash_rows < 0:
            raise bad_value("hash_rows", self.hash_rows, ">= 0")

    @classmethod
    def fit(
        cls, keys: Any, train: Ints | None = None, *, min_rows: int = 1, hash_rows: int = 0, seed: int = 0
    ) -> Vocabulary:
        """That of `keys` [N]: integers, strings or an Arrow array, in which null and NaN are no id.

        Args:
            keys: raw ids.
            train: rows that ids are known from, [Ntr]; None: all. Ids are numbered as they first occur in `keys`.
            min_rows: see the class.
            hash_rows: see the class.
            seed: see the class.
        """
        return cls(min_rows=min_rows, hash_rows=hash_rows, seed=seed).grow(keys, train)

    @property
    def rows(self) -> int:
        """Rows of the table, row 0 included."""
        return (self.hash_rows or len(self.ids)) + 1

    def index(self, keys: Any) -> Ints:
        """The row of each of `keys` [N]; 0 for what has none.

        Raises:
            CaptionaryError: strings where integers are known, or integers where strings are.
        """
        array = _plain(keys)
        if self.hash_rows:
            encoded = array.dictionary_encode()
            digests = digest_ids(encoded.dictionary)
            hashed = np.append(hash_rows(digests, self.seed, self.hash_rows) + 1, 0)
            return hashed[_codes(encoded)]
        if not len(self.ids) or not len(array):
            return np.zeros(len(array), np.int64)
        found = pc.index_in(self._fitting(array), value_set=self.ids)
        rows: Ints = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
        return rows

    def grow(self, keys: Any, train: Ints | None = None, *, times: Ints | None = None) -> Vocabulary:
        """This vocabulary with the ids that `keys` bring to `min_rows` added behind; no row changes.

        Args:
            keys: raw ids [N].
            train: those of them that count, [Ntr]; None: all.
            times: how often each of `keys` occurred [N]; None: once.

        Raises:
            CaptionaryError: see `index`.
        """
        array = self._fitting(_plain(keys))
        encoded = array.dictionary_encode()
        codes = _codes(encoded)
        if train is not None:
            codes, times = codes[train], None if times is None else times[train]
        known = codes >= 0
        often = None if times is None else times[known]  # as floats, which count to 2^53
        counts = np.bincount(codes[known], often, minlength=len(encoded.dictionary))
        return self.count(encoded.dictionary, counts.astype(np.int64))

    def count(self, ids: Any, counts: npt.NDArray[np.integer[Any]]) -> Vocabulary:
        """As `grow`, from distinct `ids` [U] and how often each occurred [U]; those with 0 are left out."""
        array = self._fitting(_plain(ids))
        if self.hash_rows or not len(array):
            return self
        new = counts > 0
        if len(self.ids):
            new &= ~np.asarray(pc.is_in(array, value_set=self.ids))
        fresh, times = array.filter(pa.array(new)), counts[new].astype(np.int64)
        if len(self.waiting):
            met = pc.fill_null(pc.index_in(fresh, value_set=self.waiting), -1).to_numpy(zero_copy_only=False)
            total = self.waiting_counts.copy()
            total[met[met >= 0]] += times[met >= 0]
            fresh = pa.concat_arrays([self.waiting, fresh.filter(pa.array(met < 0))])
            times = np.concatenate([total, times[met < 0]])
        kept = times >= self.min_rows
        added = fresh.filter(pa.array(kept))
        return replace(
            self,
            ids=pa.concat_arrays([self.ids, added]) if len(self.ids) else added,
            waiting=fresh.filter(pa.array(~kept)),
            waiting_counts=times[~kept],
        )

    def rows_in(self, old: Vocabulary) -> Ints:
        """For each row here the row that `old` reads its id from, 0 if it knows none: [rows].

        Where one table's weights are to go on in another (`captionary.rank.warm_start`), this says which rows.
        """
        if self.hash_rows or old.hash_rows:
            if (self.hash_rows, self.seed) != (old.hash_rows, old.seed):
                rule = f"{old.hash_rows} with seed {old.seed}, as a hash keeps no ids to be moved"
                raise bad_value("hash_rows", f"{self.hash_rows} with seed {self.seed}", rule)
            return np.arange(self.rows)
        return np.append(0, old.index(self.ids)).astype(np.int64)

    def save(self, path: Path) -> None:
        """Write one Parquet file; seen whole or not at all."""
        said = {"min_rows": self.min_rows, "hash_rows": self.hash_rows, "seed": self.seed}
        parts = [part for part in (self.ids, self.waiting) if len(part)]
        table = pa.table(
            {
                "id": pa.concat_arrays(parts) if parts else self.ids,
                "waiting": pa.array(np.append(np.zeros(len(self.ids), np.int64), self.waiting_counts)),
            }
        ).replace_schema_metadata({_KEY: json.dumps(said).encode()})
        with atomic_file(path) as file:
            pq.write_table(table, file, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote.

        Raises:
            CaptionaryError: the file is missing, damaged or another's.
        """
        try:
            with pq.ParquetFile(path) as file:
                table = file.read()
            said = json.loads((table.schema.metadata or {})[_KEY])
            counts = table["waiting"].to_numpy().astype(np.int64)
            ids = _plain(table["id"]) if len(table) else pa.nulls(0)
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            where = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise bad_value("vocabulary", str(path), "a file that save wrote", where=where) from None
        known = pa.array(counts == 0)
        return cls(
            **said,
            ids=ids.filter(known),
            waiting=ids.filter(pc.invert(known)),
            waiting_counts=counts[counts > 0],
        )

    def _fitting(self, array: pa.Array) -> pa.Array:
        known = self.ids if len(self.ids) else self.waiting
        if not len(known) or array.type == known.type:
            return array
        if array.null_count == len(array):
            return pa.nulls(len(array), known.type)
        raise bad_value("type of ids", str(array.type), str(known.type), where="what the vocabulary knows")


@dataclass(frozen=True, kw_only=True)
class RowRules:
    """How the tables of a ranker come to their rows: of users and items, and of categories."""

    id_min_rows: int = 1
    id_hash_rows: int = 0
    category_min_rows: int = 1
    category_hash_rows: int = 0

    def empty(self, table: str) -> Vocabulary:
        """The vocabulary that `user`, `item`, `context.NAME` or `item.NAME` begins with.

        Hash functions differ, so that two tables whose ids are the same numbers do not all collide alike.
        """
        if table in _SEEDS:
            return Vocabulary(min_rows=self.id_min_rows, hash_rows=self.id_hash_rows, seed=_SEEDS[table])
        seed = zlib.crc32(table.encode())
        return Vocabulary(min_rows=self.category_min_rows, hash_rows=self.category_hash_rows, seed=seed)

    def renewed(self, table: str, earlier: Vocabulary) -> Vocabulary:
        """That of an earlier training, which goes on under these rules: ids that have a row keep it.

        Raises:
            CaptionaryError: ids are to be hashed otherwise than before, where they could not keep their rows.
        """
        wanted = self.empty(table)
        if wanted.hash_rows != earlier.hash_rows:
            name = "id_hash_rows" if table in _SEEDS else "category_hash_rows"
            rule = f"{earlier.hash_rows}, as in the earlier training"
            raise bad_value(name, wanted.hash_rows, rule, where=f"table {table}", todo="or train anew")
        return replace(earlier, min_rows=wanted.min_rows)


def _plain(keys: Any) -> pa.Array:
    """One Arrow array: integers int64, strings large_string, anything else as it is."""
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
        if isinstance(keys, pa.ChunkedArray):  # no chunk, or more than one fits into
            keys = pa.concat_arrays([chunk.cast(pa.large_string()) for chunk in keys.chunks])
    array = keys if isinstance(keys, pa.Array) else pa.array(keys, from_pandas=True)
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
        return array.cast(pa.int64())
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.large_string())
    return array


def _codes(encoded: pa.DictionaryArray) -> Ints:
    codes: Ints = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes
