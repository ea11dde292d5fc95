"""The data contract: a directory of Parquet tables and a dataset.yaml, read, fingerprinted and written.

    DIR/dataset.yaml              DatasetSpec: tasks, event types, features, splits
    DIR/items.parquet             item_id, media list<string>; title, created_at (nullable); further columns
    DIR/events.parquet            user_id, item_id, event, timestamp; value (nullable)
    DIR/impressions.parquet       impression_id, user_id, item_id, timestamp; tasks, context and split columns
    DIR/truth/impressions*.parquet   only where known: impression_id and the true probability of each task

A table is one file `X.parquet` or a directory `X/` of shards read in name order. `check.py` holds the rules.
What a reader of `Dataset` sees is always of the same types: ids int64 or string, timestamps UTC microseconds,
strings plain (no dictionaries, no large_string); columns that may be absent are then there, and null.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionary.errors import CaptionaryError, bad_value, nearest
from captionary.publish import atomic_file, atomic_folder
from captionary.spec import Columns, DatasetSpec, Split, Task, TaskKind, read_spec, write_spec

__all__ = [
    "Columns",
    "Dataset",
    "DatasetSpec",
    "Split",
    "Task",
    "TaskKind",
    "atomic_file",
    "atomic_folder",
    "check_dataset",
    "media_uri",
    "open_dataset",
    "plain_type",
    "read_files",
    "table_files",
    "truth_files",
    "write_spec",
    "write_table",
]

TIMESTAMP = pa.timestamp("us", tz="UTC")
KEYS = ("item_id", "user_id", "impression_id")
OPTIONAL = {
    "items": {"title": pa.string(), "created_at": TIMESTAMP},
    "events": {"value": pa.float64()},
    "impressions": {},
}


@dataclass(frozen=True)
class Dataset:
    """A dataset directory that has passed every check. Made by `open_dataset`."""

    root: Path
    spec: DatasetSpec

    def items(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row per item, in file order. Raises CaptionaryError for a column that is not there."""
        return self._read("items", columns)

    def events(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row per event, in file order (not sorted by time)."""
        return self._read("events", columns)

    def impressions(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row per impression, in file order (not sorted by time)."""
        return self._read("impressions", columns)

    def labels(self, impressions: pa.Table) -> npt.NDArray[np.float32]:
        """The label of each task, from a table with the tasks' columns: float32 [N, T], NaN where it is null.

        0 or 1 of a binary task, an amount >= 0 in the column's unit of the others.
        """
        labels = np.empty((impressions.num_rows, len(self.spec.tasks)), np.float32)
        for index, task in enumerate(self.spec.tasks):
            if task.column not in impressions.column_names:
                where = f"task {task.name} of {self.root}"
                raise bad_value("column", task.column, "among the impressions' columns", where=where)
            values = impressions.column(task.column)
            if task.at is not None:
                values = pc.greater_equal(pc.cast(values, pa.float64()), task.at)
            labels[:, index] = pc.cast(values, pa.float32()).to_numpy()
        return labels

    def items_in(self, split: str, part: str) -> npt.NDArray[np.bool_]:
        """Which items [I] occur in the `part` (train or eval) of the impressions of `split`."""
        column = self.spec.splits[split].column
        impressions = self.impressions(["item_id", column])
        seen = pc.unique(impressions.filter(pc.equal(impressions[column], part))["item_id"])
        found = pc.is_in(self.items(["item_id"])["item_id"], value_set=seen)
        return np.asarray(found.combine_chunks().to_numpy(zero_copy_only=False))

    def truth(self) -> pa.Table | None:
        """impression_id and one float64 probability column per task name, or None where it is not known."""
        files = truth_files(self.root)
        tasks = [task.name for task in self.spec.tasks]
        return read_files(files, ["impression_id", *tasks]) if files else None

    def fingerprint(self) -> str:
        """Digest of every file beneath the root but hidden ones: contents and relative names, no location.

        File digests are kept in-process as long as size, times and inode stay what they were.
        """
        files = {path for path in self.root.rglob("*") if path.is_file()}
        for name in OPTIONAL:  # rglob does not enter a table directory that is a symbolic link
            files.update(table_files(self.root, name))
        digest = hashlib.blake2b(digest_size=16)
        for name, path in sorted((path.relative_to(self.root).as_posix(), path) for path in files):
            if not any(part.startswith(".") for part in name.split("/")):
                digest.update(f"{len(name)}:{name}".encode())
                digest.update(_file_digest(path))
        return digest.hexdigest()

    def media_path(self, uri: str) -> Path:
        """The local file that an entry of items.media means; relative ones lie beneath the root.

        Raises:
            CaptionaryError: `uri` has a scheme other than file:.
        """
        scheme, mark, rest = uri.partition("://")
        if mark and scheme.lower() == "file":
            return Path(unquote("/" + rest.partition("/")[2]))
        if mark and scheme.replace("+", "").isalnum():
            raise bad_value("media", uri, "a local path or a file: URI", where=str(self.root))
        return self.root / uri

    def _read(self, name: str, columns: Sequence[str] | None) -> pa.Table:
        table = read_files(table_files(self.root, name), columns, OPTIONAL[name])
        for column in columns or ():
            if column not in table.column_names:
                known = pq.read_schema(table_files(self.root, name)[0]).names
                raise bad_value("column", column, nearest(column, known), where=f"{name} of {self.root}")
        return table


def open_dataset(path: Path) -> Dataset:
    """Open a dataset directory, checked in full (once per process as long as its files stay as they are).

    Raises:
        CaptionaryError: the first violation that `check_dataset` finds.
    """
    root = Path(path).resolve()
    if found := check_dataset(root):
        raise CaptionaryError(f"{found[0]}; run `captionary check {path}` for all {len(found)}")
    return Dataset(root, read_spec(root)[0])


def check_dataset(path: Path) -> list[str]:
    """Every violation of the contract, each one line: file, column, row (counted from 0), rule."""
    from captionary.check import violations

    root = Path(path).resolve()
    files = [root / "dataset.yaml", *truth_files(root)]
    for name in OPTIONAL:
        files += [root / f"{name}.parquet", root / name, *sorted((root / name).glob("*.parquet"))]
    stamp = [(file, _stamp(file)) for file in files if file.exists()]
    if root not in _checked or _checked[root][0] != stamp:
        _checked[root] = (stamp, violations(root))
    return list(_checked[root][1])


def table_files(root: Path, name: str) -> list[Path]:
    """The Parquet files of a table in reading order.

    Raises:
        CaptionaryError: `name`.parquet and a directory `name` with Parquet files are both there, or neither.
    """
    file, folder = root / f"{name}.parquet", root / name
    shards = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    if file.is_file() and shards:
        raise bad_value(name, f"{name}.parquet and {name}/", "only one of the two", where=str(root))
    if not file.is_file() and not shards:
        rule = f"{name}.parquet or a directory {name}/ of Parquet files"
        raise bad_value(name, "(absent)", rule, where=str(root))
    return shards or [file]


def truth_files(root: Path) -> list[Path]:
    """The files of the known truth, none where it is not known."""
    return sorted((root / "truth").glob("impressions*.parquet"))


def read_files(
    files: Sequence[Path],
    columns: Sequence[str] | None = None,
    optional: Mapping[str, pa.DataType] | None = None,
) -> pa.Table:
    """Read the shards of a table with the contract's plain types.

    Columns that are nowhere are left out; those of `optional` (name to type) are null instead.
    """
    parts = []
    for path in files:
        # not pq.read_table: that would make columns of any a=b in the path
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow.names
            table = file.read(None if columns is None else [name for name in columns if name in known])
        parts.append(_plain_table(table))
    table = pa.concat_tables(parts, promote_options="permissive").replace_schema_metadata(None)
    for name, dtype in (optional or {}).items():
        if name in table.column_names:
            index = table.column_names.index(name)
            table = table.set_column(index, name, pc.cast(table[name], dtype, safe=False))
        elif columns is None or name in columns:
            table = table.append_column(name, pa.nulls(table.num_rows, dtype))
    return table if columns is None else table.select([c for c in columns if c in table.column_names])


def plain_type(name: str, dtype: pa.DataType) -> pa.DataType:
    """The type in which a column of this name and stored type is read."""
    if pa.types.is_dictionary(dtype):
        return plain_type(name, dtype.value_type)
    if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return pa.string()
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        null = pa.types.is_null(dtype.value_type)  # what Arrow makes of [[], [], …]
        return pa.list_(pa.string() if null else plain_type("", dtype.value_type))
    if pa.types.is_timestamp(dtype) and dtype.tz is not None:
        return TIMESTAMP
    return pa.int64() if name in KEYS and pa.types.is_integer(dtype) else dtype


def media_uri(path: Path, root: Path) -> str:
    """How items.media names a local file: relative beneath the dataset root, else its absolute path."""
    path, root = path.resolve(), root.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def write_table(
    data: pa.Table | Iterable[pa.RecordBatch | pa.Table], path: Path, schema: pa.Schema | None = None
) -> Path:
    """Write a Parquet file, visible only when complete; batches are written as they come, not held together.

    `schema` is needed only where `data` may be an iterable of nothing.
    """
    batches = iter([data]) if isinstance(data, pa.Table) else iter(data)
    with atomic_file(path) as file:
        batch = next(batches, None)
        if schema is None:
            if batch is None:
                raise bad_value("batches", "none", "at least one, or a schema given", where=str(path))
            schema = batch.schema
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            while batch is not None:
                writer.write(batch)
                batch = next(batches, None)
    return path


_checked: dict[Path, tuple[list[Any], list[str]]] = {}
_digests: dict[Path, tuple[tuple[int, ...], bytes]] = {}


def _stamp(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _file_digest(path: Path) -> bytes:
    stamp = _stamp(path)
    if path not in _digests or _digests[path][0] != stamp:
        with path.open("rb") as file:
            _digests[path] = (stamp, hashlib.file_digest(file, "blake2b").digest())
    return _digests[path][1]


def _plain_table(table: pa.Table) -> pa.Table:
    plain = pa.schema([pa.field(f.name, plain_type(f.name, f.type)) for f in table.schema])
    return table if table.schema.equals(plain) else table.cast(plain, safe=False)
