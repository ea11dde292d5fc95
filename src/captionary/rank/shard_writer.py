"""Write a folder of shards (see `shards.py`) from impressions that come in the order of time, chunk by chunk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionary.config import to_mapping
from captionary.errors import bad_value
from captionary.rank.batches import share_lists
from captionary.rank.shards import FORMAT, ShardSchema, dense, vectors_folder
from captionary.represent.jagged import Jagged

__all__ = ["ShardWriter"]

_TIME = pa.timestamp("us", tz="UTC")


class ShardWriter:
    """Fills a folder; use it as a context, within `captionary.publish.atomic_folder`.

    Args:
        folder: to fill, empty.
        schema: of the columns.
        made_of: where the data comes from, plain values that shards.json will say.
        group_rows: impressions of a row group, >= 1: what a reader has in memory at least.
        shard_rows: impressions of a shard, at least; a shard ends with a row group.

    Raises:
        CaptionaryError: sizes below 1.
    """

    def __init__(
        self,
        folder: Path,
        schema: ShardSchema,
        made_of: Mapping[str, Any],
        *,
        group_rows: int = 32_768,
        shard_rows: int = 1_048_576,
    ) -> None:
        for name, value in (("group_rows", group_rows), ("shard_rows", shard_rows)):
            if value < 1:
                raise bad_value(name, value, ">= 1")
        self.folder, self.schema, self.made_of = folder, schema, dict(made_of)
        self._parts = {
            part: _Part(folder, part, schema, group_rows, shard_rows) for part in ("train", "eval")
        }
        vectors = [vectors_folder(folder, name) for name in schema.vectors_of("impression")]
        for path in (folder / "shards", folder / "lists", *vectors):
            path.mkdir(parents=True, exist_ok=True)

    def items(self, tables: Iterable[pa.Table]) -> None:
        """Write the catalogue: item_id, item.NAME columns, and where the schema has them token_ids, token_weights,
        visual and vector.NAME."""
        writer: pq.ParquetWriter | None = None
        try:
            for table in tables:
                if writer is None:
                    writer = pq.ParquetWriter(self.folder / "items.parquet", table.schema, compression="zstd")
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()

    def write(self, part: str, table: pa.Table) -> None:
        """Append impressions, not earlier than those before.

        Args:
            part: train or eval.
            table: user_id, item_id, timestamp, context.NAME, label.TASK and mass.EVENT columns, and, where the schema
                has profiles, token_ids.EVENT and weights.EVENT lists in the place of list.EVENT; where it has vectors
                of impressions, the vectors themselves as vector.NAME, zeros for none.

        Raises:
            CaptionaryError: columns that are missing, times that fall, or vectors of another width or not finite.
        """
        self._parts[part].write(table)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self._parts.values():
            part.close(whole=kind is None)
        if kind is not None:
            return
        if not self._parts["train"].files:
            raise bad_value("training impressions", 0, ">= 1", where=str(self.made_of))
        said: dict[str, Any] = {"format": FORMAT, "schema": to_mapping(self.schema)}
        said |= {name: part.files for name, part in self._parts.items()}
        # Not of `made_of`: the same data, written another day, train the same ranker.
        digest = hashlib.blake2b(json.dumps(said, sort_keys=True, default=str).encode(), digest_size=12)
        for path in sorted(self.folder.rglob("*.parquet")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
        said |= {"made_of": self.made_of, "fingerprint": digest.hexdigest()}
        (self.folder / "shards.json").write_text(json.dumps(said, indent=1, default=str), encoding="utf-8")


class _Part:
    """The shards of train or eval: what is written, and the rows that wait until they fill a row group."""

    def __init__(
        self, folder: Path, name: str, schema: ShardSchema, group_rows: int, shard_rows: int
    ) -> None:
        self.folder, self.name, self.schema = folder, name, schema
        self.group_rows, self.shard_rows = group_rows, shard_rows
        self.files: list[dict[str, Any]] = []
        self.profiled = schema.events if schema.profiles else ()
        named = [name for name in schema.columns if not name.startswith("list.")]
        listed = [f"{what}.{event}" for event in self.profiled for what in ("token_ids", "weights")]
        self.columns = [*named, *listed]
        self._waiting: list[pa.Table] = []
        self._writers: list[pq.ParquetWriter] = []
        self._latest: int | None = None

    def write(self, table: pa.Table) -> None:
        for name in self.columns:
            if name not in table.column_names:
                rule = f"with {name} among them"
                raise bad_value(
                    "columns", ", ".join(table.column_names), rule, where=f"{self.name} impressions"
                )
        if not table.num_rows:
            return
        table = table.select(self.columns)
        times = table["timestamp"].cast(_TIME).cast(pa.int64()).to_numpy()
        before = np.concatenate([[times[0] if self._latest is None else self._latest], times[:-1]])
        if (times < before).any():
            row = int((times < before).argmax())
            rule = "not before the impression ahead of it"
            raise bad_value("timestamp", str(table["timestamp"][row]), rule, where=f"{self.name} impressions")
        self._latest = int(times[-1])
        self._waiting.append(table)
        if sum(each.num_rows for each in self._waiting) < self.group_rows:
            return
        whole = pa.concat_tables(self._waiting)
        full = whole.num_rows - whole.num_rows % self.group_rows
        for start in range(0, full, self.group_rows):
            self._group(whole.slice(start, self.group_rows))
        self._waiting = [whole.slice(full)] if full < whole.num_rows else []

    def close(self, *, whole: bool) -> None:
        if whole and self._waiting:
            self._group(pa.concat_tables(self._waiting))
        self._close_files()

    def _group(self, rows: pa.Table) -> None:
        parts = self._row_group(rows.combine_chunks())
        if not self._writers:
            name = f"{self.name}-{len(self.files):05d}"
            self.files.append({"name": name, "rows": 0, "first": str(rows["timestamp"][0])})
            for folder, part in parts.items():
                path = folder / f"{name}.parquet"
                self._writers.append(pq.ParquetWriter(path, part.schema, compression="zstd"))
        for writer, part in zip(self._writers, parts.values(), strict=True):
            writer.write_table(part, row_group_size=max(1, part.num_rows))
        said = self.files[-1]
        said["rows"] += rows.num_rows
        said["last"] = str(rows["timestamp"][-1])
        if said["rows"] >= self.shard_rows:
            self._close_files()

    def _close_files(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers = []

    def _row_group(self, rows: pa.Table) -> dict[Path, pa.Table]:
        """Folder → impressions, their distinct lists, their distinct vectors."""
        columns: dict[str, Any] = {}
        for name in self.schema.columns:
            if name.startswith(("list.", "vector.")):
                continue
            kind = _TIME if name == "timestamp" else None
            kind = pa.float32() if name.startswith(("label.", "mass.")) else kind
            try:
                columns[name] = rows[name] if kind is None else pc.cast(rows[name], kind)
            except pa.ArrowException:
                where = f"{self.name} impressions"
                raise bad_value(f"type of {name}", str(rows[name].type), str(kind), where=where) from None
        found = {}
        users = rows["user_id"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
        order = np.argsort(users, kind="stable")
        if self.profiled:
            parts = [Jagged.from_arrow(rows[f"token_ids.{e}"], rows[f"weights.{e}"]) for e in self.profiled]
            shared = share_lists(parts, order)
            for place, event in enumerate(self.profiled):
                columns[f"list.{event}"] = pa.array(shared.list_of[:, place].astype(np.int32))
            token_ids, weights = shared.lists.to_arrow()
            found[self.folder / "lists"] = pa.table({"token_ids": token_ids, "weights": weights})
        for name in self.schema.vectors_of("impression"):
            column, width = f"vector.{name}", self.schema.vectors[name].width
            values = dense(rows[column], column, width, f"{self.name} impressions")
            first, number = _share(values, order)
            columns[column] = pa.array(number.astype(np.int32))
            flat = pa.array(values[first].reshape(-1))
            found[vectors_folder(self.folder, name)] = pa.table(
                {"vector": pa.FixedSizeListArray.from_arrays(flat, width)}
            )
        return {self.folder / "shards": pa.table(columns), **found}


def _share(
    values: npt.NDArray[np.float32], order: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(rows [P] of which each has a vector of its own, which of them each row [N] has); vectors come in `order`, in
    which neighbours are read together, as for `share_lists`."""
    turned = values[order] + np.float32(0)  # which has one zero, not two
    bits = turned.view(np.dtype((np.void, turned.dtype.itemsize * turned.shape[1]))).reshape(-1)
    _, first, which = np.unique(bits, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    found = np.empty(len(values), np.int64)
    found[order] = number[which.reshape(-1)]
    return order[np.sort(first)], found
