"""Token lists and profiles as Parquet: what the stages hand to each other, and what users take elsewhere.

item_tokens.parquet   item_id, token_ids list<int32> [, weights list<float32>]
profiles/EVENT.parquet   impression_id, token_ids list<int32>, weights list<float32>, mass float32

or, as `parquet.build_parquet` writes them, with each list once: see there.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from captionary.contract import write_table
from captionary.errors import bad_value
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import Profiles, SharedProfiles

__all__ = ["read_item_tokens", "read_profiles", "write_item_tokens", "write_profiles"]

Ids: TypeAlias = pa.Array | pa.ChunkedArray | npt.NDArray[Any] | Sequence[Any]

_ROWS = 1 << 18  # of a batch, whose values Arrow's 32-bit offsets must be able to count


def write_item_tokens(path: Path, item_ids: Ids, tokens: Jagged) -> Path:
    """Write the token list of each item, with weights where it has some; the file is whole or not there."""
    return write_table(_batches("item_id", item_ids, tokens, {}), path)


def read_item_tokens(path: Path) -> tuple[pa.Array, Jagged]:
    """(item ids [I], token lists [I]) that `write_item_tokens` wrote.

    Raises:
        CaptionaryError: no such file, or a file of another shape.
    """
    table = _read(path, "item_id", "token_ids")
    return _whole(table["item_id"]), _lists(table)


def write_profiles(directory: Path, impression_ids: Ids, profiles: Mapping[str, Profiles]) -> list[Path]:
    """Write one file for each event type, each whole or not there; the files, in the order of `profiles`."""
    written = []
    for event_type, (lists, mass) in profiles.items():
        # An event type is a user's word: quoted, it can be a file name whatever it is.
        path = directory / f"{urllib.parse.quote(event_type, safe=' ')}.parquet"
        written.append(write_table(_batches("impression_id", impression_ids, lists, {"mass": mass}), path))
    return written


def read_profiles(directory: Path) -> tuple[pa.Array, dict[str, Profiles]]:
    """(impression ids [N], event type -> profiles of N rows) that `write_profiles` or `build_parquet` wrote, by
    event type's name.

    Raises:
        CaptionaryError: no profiles there, files of another shape, or files that are not of the same
        impressions.
    """
    impression_ids: pa.Array | None = None
    profiles = {}
    for path in sorted(directory.glob("*.parquet")):
        table = _read(path, "impression_id", "mass")
        ids = _whole(table["impression_id"])
        if impression_ids is not None and not ids.equals(impression_ids):
            raise bad_value("impression_id", "other ids", "those of the files beside it", where=str(path))
        impression_ids = ids
        mass = _whole(table["mass"]).to_numpy().astype(np.float32, copy=False)
        event_type = urllib.parse.unquote(path.stem)
        if "list" in table.column_names:
            shared = _lists(_read(path.parent / "lists" / path.name, "token_ids", "weights"))
            numbers = _whole(table["list"]).to_numpy()
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < shared.rows:
                raise bad_value("list", int(numbers.max()), f"0 to {shared.rows - 1}", where=str(path))
            profiles[event_type] = SharedProfiles(shared, numbers, mass).whole()
        else:
            profiles[event_type] = Profiles(_lists(_with(table, path, "token_ids", "weights")), mass)
    if impression_ids is None:
        raise bad_value("profiles", str(directory), "a folder of profiles", todo="run captionary profile")
    return impression_ids, profiles


def _batches(
    key: str, ids: Ids, lists: Jagged, columns: Mapping[str, npt.NDArray[Any]]
) -> Iterator[pa.Table]:
    named = _whole(ids) if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids)
    if len(named) != lists.rows:
        raise bad_value(key, f"{len(named)} ids", f"one for each of {lists.rows} lists")
    for first in range(0, max(lists.rows, 1), _ROWS):
        rows = np.arange(first, min(first + _ROWS, lists.rows), dtype=np.int64)
        token_ids, weights = lists.take(rows).to_arrow()
        batch = {key: named.slice(first, len(rows)), "token_ids": token_ids}
        if weights is not None:
            batch["weights"] = weights
        yield pa.table({**batch, **{name: pa.array(column[rows]) for name, column in columns.items()}})


def _read(path: Path, *columns: str) -> pa.Table:
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise bad_value("file", str(path), "readable Parquet", where=str(error).splitlines()[0]) from None
    return _with(table, path, *columns)


def _with(table: pa.Table, path: Path, *columns: str) -> pa.Table:
    for column in columns:
        if column not in table.column_names:
            found = ", ".join(table.column_names)
            raise bad_value("columns", found, f"with {column} among them", where=str(path))
    return table


def _lists(table: pa.Table) -> Jagged:
    weights = table["weights"] if "weights" in table.column_names else None
    return Jagged.from_arrow(table["token_ids"], weights)


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
