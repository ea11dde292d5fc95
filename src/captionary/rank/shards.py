"""Training data of any size as a folder of shards in the order of time: how it is laid out and read.

    DIR/shards.json              ShardSchema, the files with their rows, where it all came from, a fingerprint
    DIR/items.parquet            a row an item: item_id; item.NAME columns; token_ids list<int32>; token_weights
                                 list<float>; visual list<float>; vector.NAME list<float>
    DIR/shards/train-00000.parquet   a row an impression, times rising: user_id, item_id, timestamp; context.NAME;
                                 label.TASK (null: missing); mass.EVENT; list.EVENT, a number of a profile list;
                                 vector.NAME, a number of a vector
    DIR/lists/train-00000.parquet    token_ids list<int32>, weights list<float>: each distinct profile list once
    DIR/vectors/NAME/train-00000.parquet   vector list<float>: each distinct vector once
    DIR/whitening.npz            how `visual` was made of the encoder's vectors; DIR/projections/NAME.npz: the others
    DIR/token_vectors.npz        where the token table may start from

Row group g of a file of `lists` or `vectors` belongs to row group g of the shard beside it, and numbers count within
it: a row group can be read alone, so memory depends on its size and not on the shard's. `eval-*` shards are there to
measure on. `shard_writer.py` writes such folders.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionary.config import from_mapping
from captionary.errors import CaptionaryError, bad_value, nearest
from captionary.rank.shard_schema import ShardSchema
from captionary.represent.jagged import Jagged
from captionary.represent.vectors import TokenVectors, Whitening

__all__ = [
    "FORMAT",
    "TOKEN_VECTORS",
    "ItemTable",
    "RowGroup",
    "ShardFile",
    "ShardSchema",
    "Shards",
    "dense",
    "numbers",
    "open_shards",
    "projection_path",
    "vectors_folder",
]

FORMAT = 1
TOKEN_VECTORS = "token_vectors.npz"
_ANEW = "make the shards anew"

Floats = npt.NDArray[np.float32]


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
    vectors: Mapping[str, Floats] = MappingProxyType({})
    """Of impressions: name → [P, D] distinct ones that they name."""


class ItemTable(NamedTuple):
    """The catalogue, I items."""

    ids: pa.Array
    categorical: dict[str, pa.Array]
    numeric: dict[str, npt.NDArray[np.float64]]
    """NaN where missing."""
    tokens: Jagged | None
    """I lists, with weights where the shards have some."""
    visual: Floats | None
    """[I, D]"""
    vectors: Mapping[str, Floats] = MappingProxyType({})
    """Of items: name → [I, D]."""


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
    """Of schema, impressions and catalogue; the same ones, written again, have the same."""

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
        wanted += ["token_weights"] if schema.token_weights else []
        wanted += ["visual"] if schema.visual else []
        wanted += [f"vector.{name}" for name in schema.vectors_of("item")]
        with _open(path) as file:
            _same_columns(file.schema_arrow.names, wanted, path)
            table = _read(lambda: file.read(), str(path))
        tokens = None
        if schema.tokens:
            weights = table["token_weights"] if schema.token_weights else None
            tokens = Jagged.from_arrow(table["token_ids"], weights)
            _check_tokens(tokens, schema, str(path))
        ids = _whole(table["item_id"])
        distinct = pc.count_distinct(ids).as_py()
        if distinct < len(ids) or ids.null_count:  # an item's place among them is its row
            rule = f"{len(ids)}, unique and not null"
            raise bad_value("item ids", f"{distinct} distinct", rule, where=str(path))
        return ItemTable(
            ids,
            {name: _whole(table[f"item.{name}"]) for name in schema.item_categorical},
            {name: _finite(table[f"item.{name}"], name, str(path)) for name in schema.item_numeric},
            tokens,
            dense(table["visual"], "visual", schema.visual, str(path)) if schema.visual else None,
            {
                name: dense(table[f"vector.{name}"], f"vector.{name}", schema.vectors[name].width, str(path))
                for name in schema.vectors_of("item")
            },
        )

    def token_vectors(self) -> TokenVectors | None:
        """Where the token table may start from; None where the shards do not say.

        Raises:
            CaptionaryError: the file is missing or damaged.
        """
        return TokenVectors.load(self.root / TOKEN_VECTORS) if self.schema.token_vectors else None

    def projection(self, name: str = "") -> Whitening | None:
        """How a vector (default: the visual one) was made of its encoder's; None where the writer did not keep it.

        Raises:
            CaptionaryError: the file is damaged.
        """
        path = projection_path(self.root, name)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                return Whitening(stored["mean"], stored["components"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            where = str(error)[:200] or type(error).__name__
            raise bad_value("projection", str(path), "readable", where=where, todo=_ANEW) from None

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
            columns: only these, and no lists or vectors: for a look at ids or numbers.

        Raises:
            CaptionaryError: a file that is damaged, has other columns, or holds numbers of lists or vectors that are
                not there.
        """
        stop = self.rows(part) if stop is None else stop
        first = 0  # of the file, then of the row group
        for listed in self._files(part):
            if first + listed.rows <= start or first >= stop:
                first += listed.rows
                continue
            path = self.root / "shards" / f"{listed.name}.parquet"
            with ExitStack() as stack:
                file = stack.enter_context(_open(path))
                self._check_file(file, listed, path)
                beside = {}
                for column, folder in self._beside().items() if columns is None else ():
                    beside[column] = stack.enter_context(_open(folder / f"{listed.name}.parquet"))
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if first + rows > start and first < stop:
                        cut = slice(max(0, start - first), min(rows, stop - first))
                        where = f"{path}, row group {group}"
                        yield self._group(file, beside, group, cut, columns, where)
                    first += rows

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

    def _beside(self) -> dict[str, Path]:
        """Folders of what is stored once and named by number: "" of lists, names of vectors."""
        folders = {"": self.root / "lists"} if self.schema.profiles else {}
        names = self.schema.vectors_of("impression")
        return folders | {name: vectors_folder(self.root, name) for name in names}

    def _group(
        self,
        file: pq.ParquetFile,
        beside: Mapping[str, pq.ParquetFile],
        group: int,
        cut: slice,
        columns: Sequence[str] | None,
        where: str,
    ) -> RowGroup:
        names = None if columns is None else list(columns)
        table = _read(lambda: file.read_row_group(group, names, use_threads=False), where)
        table = table.slice(cut.start, cut.stop - cut.start)
        pool = None
        if "" in beside:
            stored = _stored(beside[""], group, ["token_ids", "weights"], "lists", where)
            pool = Jagged.from_arrow(stored["token_ids"], stored["weights"])
            _check_tokens(pool, self.schema, where)
            for event in self.schema.events:
                _check_numbers(table, f"list.{event}", pool.rows, where)
        vectors = {}
        for name in beside:
            if name:
                stored, said = _stored(beside[name], group, ["vector"], "vectors", where), f"vector.{name}"
                vectors[name] = dense(stored["vector"], said, self.schema.vectors[name].width, where)
                _check_numbers(table, said, len(vectors[name]), where)
        return RowGroup(table, pool, where, vectors)


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
            raise bad_value("format", said["format"], str(FORMAT), where=str(path), todo=_ANEW)
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


def vectors_folder(root: Path, name: str) -> Path:
    """Where the distinct vectors of impressions are, in a folder of shards."""
    return root / "vectors" / quote(name, safe="")


def projection_path(root: Path, name: str = "") -> Path:
    """Where a folder of shards keeps how a vector was projected, by default the visual one."""
    return root / "projections" / f"{quote(name, safe='')}.npz" if name else root / "whitening.npz"


def dense(column: pa.ChunkedArray, name: str, width: int, where: str) -> Floats:
    """A column of lists of `width` numbers as [N, width].

    Raises:
        CaptionaryError: lists of another length or null, or numbers that are not finite.
    """
    rule = f"{width} finite numbers each; zeros stand for none"
    kind = column.type
    if not (
        pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)
    ) or not pa.types.is_floating(kind.value_type):
        raise bad_value(name, str(kind), rule, where=where)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    if (lengths != width).any():
        row = int((lengths != width).argmax())
        raise bad_value(name, f"{lengths[row]} numbers", rule, where=f"row {row}, {where}")
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    values: Floats = flat.astype(np.float32, copy=False).reshape(-1, width)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        row = int((~finite).argmax())
        raise bad_value(name, "NaN or infinite", rule, where=f"row {row}, {where}")
    return values


def numbers(
    column: pa.ChunkedArray, name: str, where: str, kind: pa.DataType | None = None
) -> npt.NDArray[Any]:
    """A column of numbers or flags as float64, or as `kind`, NaN where null: [N].

    Raises:
        CaptionaryError: a column of anything else.
    """
    try:
        cast = column.cast(kind or pa.float64(), safe=False)
    except pa.ArrowException:
        raise bad_value(f"type of {name}", str(column.type), "that of numbers", where=where) from None
    values: npt.NDArray[Any] = cast.to_numpy(zero_copy_only=False)
    return values


def _stored(file: pq.ParquetFile, group: int, columns: Sequence[str], what: str, where: str) -> pa.Table:
    """The row group of a file of lists or vectors that belongs to row group `group` of the shard."""
    if group >= file.num_row_groups:
        raise bad_value(f"row groups of {what}", file.num_row_groups, f"more than {group}", where=where)
    stored = _read(lambda: file.read_row_group(group, use_threads=False), where)
    if stored.column_names != columns:
        raise bad_value(f"columns of {what}", stored.column_names, ", ".join(columns), where=where)
    return stored


def _check_numbers(table: pa.Table, name: str, count: int, where: str) -> None:
    column, rule = table[name], f"0 to {count - 1}"
    if column.null_count or not pa.types.is_integer(column.type):
        raise bad_value(name, "null" if column.null_count else str(column.type), rule, where=where)
    places = column.to_numpy()
    if len(places) and not 0 <= places.min() <= places.max() < count:
        worst = places.min() if places.min() < 0 else places.max()
        raise bad_value(name, int(worst), rule, where=where)


def _open(path: Path) -> pq.ParquetFile:
    return _read(lambda: pq.ParquetFile(path), str(path))


def _read(work: Any, where: str) -> Any:
    try:
        return work()
    except (OSError, pa.ArrowException) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise bad_value("shard", where, "readable Parquet", where=said, todo=_ANEW) from None


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


def _finite(column: pa.ChunkedArray, name: str, where: str) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = numbers(column, name, where)
    if np.isinf(values).any():
        row = int(np.isinf(values).argmax())
        todo = "a number that is not known may be null"
        raise bad_value(name, float(values[row]), "finite", where=f"row {row}, {where}", todo=todo)
    return values


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()
