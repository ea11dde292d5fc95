"""Training data of any size as a folder of shards in the order of time: how it is laid out and read.

    DIR/shards.json              ShardSchema, the files with their rows, where it all came from, a fingerprint
    DIR/items.parquet            a row an item: item_id; item.NAME columns; token_ids list<int32>; visual list<float>
    DIR/shards/train-00000.parquet   a row an impression, times rising: user_id, item_id, timestamp; context.NAME;
                                 label.TASK (null: missing); mass.EVENT; list.EVENT, a number of a profile list
    DIR/lists/train-00000.parquet    token_ids list<int32>, weights list<float>: each distinct profile list once

Row group g of a file of `lists` belongs to row group g of the shard beside it, and `list.EVENT` counts within it: a
row group can be read alone, so memory depends on its size and not on the shard's. `eval-*` shards are there to measure
on. `shard_writer.py` writes such folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from captionary.config import from_mapping
from captionary.errors import CaptionaryError, bad_value, nearest
from captionary.represent.jagged import Jagged
from captionary.spec import TaskKind

__all__ = ["FORMAT", "ItemTable", "RowGroup", "ShardFile", "ShardSchema", "Shards", "open_shards"]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ShardSchema:
    """What the columns of a folder of shards are."""

    tasks: tuple[str, ...]
    """Names, in the order of the ranker's outputs."""
    task_kinds: tuple[TaskKind, ...]
    task_weights: tuple[float, ...]
    context_categorical: tuple[str, ...] = ()
    context_numeric: tuple[str, ...] = ()
    item_categorical: tuple[str, ...] = ()
    item_numeric: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    """Event types that every impression has an activity of."""
    visual: int = 0
    """Width of the items' visual vectors; 0 without."""
    tokens: bool = False
    """Whether items have token lists."""
    profiles: bool = False
    """Whether impressions have a profile list of each event type."""
    vocabulary: int = 0
    """Token ids are below this; 0 without tokens and profiles."""
    tokenizer: str = ""
    """Which tokenizer the ids are of: those of another mean something else. A grown one keeps its name."""
    whitening: str = ""
    """Which projection the visual vectors are of: numbers of another mean something else."""

    @property
    def numeric(self) -> tuple[str, ...]:
        """Names of the numeric features, in order, as of `RankingData.numeric`."""
        return (
            *(f"context.{name}" for name in self.context_numeric),
            *(f"item.{name}" for name in self.item_numeric),
            *(f"activity.{event}" for event in self.events),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of every shard, in order."""
        return (
            *("user_id", "item_id", "timestamp"),
            *(f"context.{name}" for name in (*self.context_categorical, *self.context_numeric)),
            *(f"label.{task}" for task in self.tasks),
            *(f"mass.{event}" for event in self.events),
            *(f"list.{event}" for event in (self.events if self.profiles else ())),
        )

    def check_continues(self, before: ShardSchema, where: str) -> None:
        """Refuse to continue, on these shards, what was trained on shards of the schema `before`.

        Raises:
            CaptionaryError: names the first difference that a ranker cannot bear; more tokens it can.
        """
        for name in self.__dataclass_fields__:
            mine, theirs = getattr(self, name), getattr(before, name)
            if name == "vocabulary":
                continue
            if mine != theirs:
                rule = f"{theirs!r}, as in the shards that the checkpoint was trained on"
                todo = "make the shards with the same columns and tokenizer, or train anew"
                raise bad_value(name, mine, rule, where=where, todo=todo)


class ShardFile(NamedTuple):
    """One shard, as shards.json says."""

    name: str
    rows: int


class RowGroup(NamedTuple):
    """Some impressions, and the profile lists that they name."""

    table: pa.Table
    lists: Jagged | None
    where: str
    """Of which file, and which of its row groups: for errors."""


class ItemTable(NamedTuple):
    """The catalogue, I items."""

    ids: pa.Array
    categorical: dict[str, pa.Array]
    numeric: dict[str, npt.NDArray[np.float64]]
    """NaN where missing."""
    tokens: Jagged | None
    visual: npt.NDArray[np.float32] | None
    """[I, D]"""


@dataclass(frozen=True)
class Shards:
    """A folder of shards, opened by `open_shards`."""

    root: Path
    schema: ShardSchema
    train: tuple[ShardFile, ...]
    eval: tuple[ShardFile, ...]
    made_of: Mapping[str, Any]
    """Where it came from, as its writer said."""
    fingerprint: str
    """Of everything that was written."""

    def rows(self, part: str = "train") -> int:
        """Impressions of `train` or `eval`."""
        return sum(file.rows for file in self._files(part))

    def items(self) -> ItemTable:
        """The whole catalogue: what of it a ranker reads has to be in memory.

        Raises:
            CaptionaryError: the file is damaged, or its columns are others than shards.json says.
        """
        path, schema = self.root / "items.parquet", self.schema
        wanted = ["item_id", *(f"item.{name}" for name in (*schema.item_categorical, *schema.item_numeric))]
        wanted += ["token_ids"] if schema.tokens else []
        wanted += ["visual"] if schema.visual else []
        with _open(path) as file:
            _same_columns(file.schema_arrow.names, wanted, path)
            table = _read(lambda: file.read(), str(path))
        tokens = Jagged.from_arrow(table["token_ids"]) if schema.tokens else None
        if tokens is not None:
            _check_tokens(tokens, schema, str(path))
        visual = None
        if schema.visual:
            flat = table["visual"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            if len(flat) != table.num_rows * schema.visual or not np.isfinite(flat).all():
                rule = f"{schema.visual} finite numbers an item"
                raise bad_value("visual", f"{len(flat)} numbers", rule, where=str(path))
            visual = flat.astype(np.float32, copy=False).reshape(-1, schema.visual)
        numbers = {name: _numbers(table[f"item.{name}"], name, str(path)) for name in schema.item_numeric}
        return ItemTable(
            _whole(table["item_id"]),
            {name: _whole(table[f"item.{name}"]) for name in schema.item_categorical},
            numbers,
            tokens,
            visual,
        )

    def groups(
        self,
        part: str = "train",
        start: int = 0,
        stop: int | None = None,
        *,
        columns: Sequence[str] | None = None,
    ) -> Iterator[RowGroup]:
        """The impressions `start` to `stop` of a part in the order of time, a row group after the other.

        Args:
            part: train or eval.
            start: impressions to leave out; their row groups are not read.
            stop: default: to the end.
            columns: only these, and no lists: for a look at ids or numbers.

        Raises:
            CaptionaryError: a file that is damaged, has other columns, or holds numbers of lists that are not there.
        """
        stop = self.rows(part) if stop is None else stop
        first = 0  # of the file, then of the row group
        for listed in self._files(part):
            if first + listed.rows <= start or first >= stop:
                first += listed.rows
                continue
            path, beside = (self.root / folder / f"{listed.name}.parquet" for folder in ("shards", "lists"))
            with _open(path) as file:
                self._check_file(file, listed, path)
                lists = _open(beside) if self.schema.profiles and columns is None else None
                try:
                    for group in range(file.num_row_groups):
                        rows = file.metadata.row_group(group).num_rows
                        if first + rows > start and first < stop:
                            cut = slice(max(0, start - first), min(rows, stop - first))
                            where = f"{path}, row group {group}"
                            yield self._group(file, lists, group, cut, columns, where)
                        first += rows
                finally:
                    if lists is not None:
                        lists.close()

    def place(self, part: str, row: int) -> tuple[str, int, int]:
        """(shard, row group, row in it) of impression `row`; one past the last is the end of the last row group."""
        first, listed = 0, self._files(part)[0]
        for listed in self._files(part):
            if row < first + listed.rows:
                break
            first += listed.rows
        else:
            first -= listed.rows
        with _open(self.root / "shards" / f"{listed.name}.parquet") as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        group = int(np.searchsorted(starts, row - first, side="right")) - 1
        return listed.name, group, row - first - int(starts[group])

    def _files(self, part: str) -> tuple[ShardFile, ...]:
        if part not in ("train", "eval"):
            raise bad_value("part", part, nearest(part, ("train", "eval")))
        return self.train if part == "train" else self.eval

    def _check_file(self, file: pq.ParquetFile, listed: ShardFile, path: Path) -> None:
        _same_columns(file.schema_arrow.names, self.schema.columns, path)
        if file.metadata.num_rows != listed.rows:
            raise bad_value(
                "rows", file.metadata.num_rows, f"{listed.rows}, as shards.json says", where=str(path)
            )

    def _group(
        self,
        file: pq.ParquetFile,
        lists: pq.ParquetFile | None,
        group: int,
        cut: slice,
        columns: Sequence[str] | None,
        where: str,
    ) -> RowGroup:
        names = None if columns is None else list(columns)
        table = _read(lambda: file.read_row_group(group, names, use_threads=False), where)
        table = table.slice(cut.start, cut.stop - cut.start)
        if lists is None:
            return RowGroup(table, None, where)
        if group >= lists.num_row_groups:
            raise bad_value("row groups of lists", lists.num_row_groups, f"more than {group}", where=where)
        stored = _read(lambda: lists.read_row_group(group, use_threads=False), where)
        if stored.column_names != ["token_ids", "weights"]:
            raise bad_value("columns of lists", stored.column_names, "token_ids, weights", where=where)
        pool = Jagged.from_arrow(stored["token_ids"], stored["weights"])
        _check_tokens(pool, self.schema, where)
        for event in self.schema.events:
            numbers = table[f"list.{event}"].to_numpy()
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < pool.rows:
                worst = numbers.min() if numbers.min() < 0 else numbers.max()
                raise bad_value(f"list.{event}", int(worst), f"0 to {pool.rows - 1}", where=where)
        return RowGroup(table, pool, where)


def open_shards(root: Path) -> Shards:
    """Open a folder that `ShardWriter` wrote.

    Raises:
        CaptionaryError: no such folder, or shards.json is damaged or of another version.
    """
    root = Path(root)
    path = root / "shards.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["format"] != FORMAT:
            raise bad_value(
                "format", said["format"], str(FORMAT), where=str(path), todo="make the shards anew"
            )
        schema = from_mapping(ShardSchema, said["schema"], where=str(path))
        files = {
            part: tuple(ShardFile(each["name"], each["rows"]) for each in said[part])
            for part in ("train", "eval")
        }
        return Shards(root, schema, files["train"], files["eval"], said["made_of"], said["fingerprint"])
    except CaptionaryError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        where = getattr(error, "strerror", None) or str(error)
        todo = "make it with `captionary shards CONFIG --out DIR`"
        raise bad_value("shards", str(root), "a folder of shards", where=where, todo=todo) from None


def _open(path: Path) -> pq.ParquetFile:
    return _read(lambda: pq.ParquetFile(path), str(path))


def _read(work: Any, where: str) -> Any:
    try:
        return work()
    except (OSError, pa.ArrowException) as error:
        todo = "make the shards anew"
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise bad_value("shard", where, "readable Parquet", where=said, todo=todo) from None


def _same_columns(found: Sequence[str], expected: Sequence[str], path: Path) -> None:
    for name in expected:
        if name not in found:
            where = f"{path} has no column {name}"
            raise bad_value("columns", ", ".join(found), "those of shards.json", where=where)
    for name in found:
        if name not in expected:
            where = f"{path} has a column {name} that shards.json does not have"
            raise bad_value("columns", ", ".join(found), "those of shards.json", where=where)


def _check_tokens(lists: Jagged, schema: ShardSchema, where: str) -> None:
    if len(lists.values) and not 0 <= lists.values.min() <= lists.values.max() < schema.vocabulary:
        worst = lists.values.min() if lists.values.min() < 0 else lists.values.max()
        raise bad_value("token id", int(worst), f"0 to {schema.vocabulary - 1}", where=where)
    if lists.weights is not None and not np.isfinite(lists.weights).all():
        raise bad_value("weights of a list", "NaN or infinite", "finite", where=where)


def _numbers(column: pa.ChunkedArray, name: str, where: str) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if np.isinf(values).any():
        row = int(np.isinf(values).argmax())
        todo = "a number that is not known may be null"
        raise bad_value(name, float(values[row]), "finite", where=f"row {row}, {where}", todo=todo)
    return values


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()
