"""The rules of the data contract: every violation in one pass, each with its file, column, row and rule.

Tables are read a column at a time, so that memory is bounded by the longest column and not by the table.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from captionary.contract import OPTIONAL, plain_type, read_files, table_files, truth_files
from captionary.errors import CaptionaryError, bad_value, nearest
from captionary.spec import read_spec

__all__ = ["violations"]

TYPES = {
    "key": "int64 or string",
    "media": "list<string>",
    "string": "string",
    "text": "string or list<string>",
    "time": "a timestamp with a time zone, timestamp[us, UTC] at best",
    "label": "bool or a number",
    "amount": "a number",
    "category": "an integer, bool or string",
    "number": "a number or bool",
}
REQUIRED = {
    "items": {"item_id": "key", "media": "media"},
    "events": {"user_id": "key", "item_id": "key", "event": "string", "timestamp": "time"},
    "impressions": {"impression_id": "key", "user_id": "key", "item_id": "key", "timestamp": "time"},
}
_OPTIONAL_KINDS = {
    "items": {"title": "string", "created_at": "time"},
    "events": {"value": "number"},
    "impressions": {},
}
_UNIQUE = {"items": "item_id", "impressions": "impression_id"}


class Table(NamedTuple):
    """The shards of one table, their row counts and their common schema of stored types."""

    files: list[Path]
    rows: list[int]
    schema: pa.Schema


def violations(root: Path) -> list[str]:
    """Every violation in the dataset directory `root`: of dataset.yaml, items, events, impressions, truth."""
    if not root.is_dir():
        return [str(bad_value("dataset", str(root), "an existing directory"))]
    return _Checker(root).run()


class _Checker:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: list[str] = []
        self.tables: dict[str, Table] = {}
        self.kinds: dict[tuple[str, str], str] = {}  # the columns of a right type, whose values can be read
        self.torn: set[tuple[str, str]] = set()  # columns whose type differs between shards
        self.keys: dict[tuple[str, str], pl.Series] = {}
        self.gaps: dict[str, pl.Series] = {}  # columns of labels that are null somewhere, and where

    def run(self) -> list[str]:
        self.spec, self.found = read_spec(self.root)
        for name in REQUIRED:
            self.open_table(name)
        for name in self.tables:
            for column, kind in (REQUIRED[name] | _OPTIONAL_KINDS[name]).items():
                self.check_type(name, column, kind, optional=column in OPTIONAL[name])
        self.check_named_columns()
        for name in self.tables:
            self.check_keys(name)
            self.check_numbers(name)
        self.check_event_types()
        self.check_labels()
        for split in self.spec.splits:
            self.check_split(split)
        self.check_truth()
        return self.found

    def add(self, what: str, value: object, rule: str, where: str, todo: str | None = None) -> None:
        line = str(bad_value(what, _shown(value), rule, where=where, todo=todo))
        self.found.append(" ".join(line.split()))  # what Arrow says may be of many lines

    # --- tables and types ---

    def open_table(self, name: str) -> None:
        try:
            files = table_files(self.root, name)
        except CaptionaryError as error:
            self.found.append(str(error))
            return
        rows, schemas = [], []
        for path in files:
            try:
                with pq.ParquetFile(path) as file:
                    rows.append(file.metadata.num_rows)
                    schemas.append(file.schema_arrow)
            except (pa.ArrowException, OSError) as error:
                self.add("file", self.relative(path), "readable Parquet", str(error))
                return
        for path, schema in zip(files, schemas, strict=True):
            for column in sorted({c for c in schema.names if schema.names.count(c) > 1}):
                self.add("column", column, "given once", self.relative(path))
                return
            for column in sorted({*schemas[0].names, *schema.names}):
                one, other = [_type(s, column) for s in (schemas[0], schema)]
                if one != other:
                    self.add(column, other, f"{one} as in {files[0].name}", self.relative(path))
                    self.torn.add((name, column))
        if sum(rows) == 0:
            self.add("rows", 0, ">= 1", self.relative(files[0].parent if len(files) > 1 else files[0]))
        self.tables[name] = Table(files, rows, schemas[0])

    def check_type(
        self, name: str, column: str, kind: str, *, optional: bool = False, by: str | None = None
    ) -> None:
        """One column is there and is of a kind; what dataset.yaml names `by` a key is named with it."""
        if (name, column) in self.torn:
            return
        schema, file = self.tables[name].schema, self.relative(self.tables[name].files[0])
        named = f", named by dataset.yaml: {by}" if by else ""
        if column not in schema.names:
            if not optional:
                rule = f"a column ({TYPES[kind]})"
                self.add(column, "(absent)", rule, file + named, _hint(column, schema.names))
            return
        where = f"{file}: column {column}{named}"
        dtype = plain_type(column, schema.field(column).type)
        if kind == "time" and pa.types.is_timestamp(dtype) and dtype.tz is None:
            todo = "say whose clock it was, for instance polars' .dt.replace_time_zone('Europe/Paris')"
            self.add(column, f"{dtype} without a time zone", "a timestamp with one", where, todo)
        elif not _is_kind(dtype, kind):
            self.add(column, str(schema.field(column).type), TYPES[kind], where)
        else:
            self.kinds.setdefault((name, column), kind)
            return
        self.kinds.pop((name, column), None)

    def check_named_columns(self) -> None:
        spec = self.spec
        named = []
        for task in spec.tasks:
            kind = "label" if task.kind == "binary" else "amount"
            named.append(("impressions", task.column, kind, f"tasks: {task.name}"))
        named += [("impressions", s.column, "string", f"splits: {name}") for name, s in spec.splits.items()]
        for table, key, columns in (
            ("impressions", "context", spec.context),
            ("items", "item_features", spec.item_features),
        ):
            named += [(table, column, "category", f"{key}: categorical") for column in columns.categorical]
            named += [(table, column, "number", f"{key}: numeric") for column in columns.numeric]
        named += [("items", column, "text", "text") for column in spec.text]
        for table, column, kind, by in named:
            optional = column in OPTIONAL[table]  # read as null where absent
            if table in self.tables:
                self.check_type(table, column, kind, optional=optional, by=by)

    # --- values ---

    def check_keys(self, name: str) -> None:
        for column in REQUIRED[name]:
            if (values := self.read(name, column)) is None:
                continue
            todo = "write an empty list for an item without media" if column == "media" else None
            self.report(name, column, values, values.is_null(), "not null", todo)
            if column == "media":
                holes = values.list.eval(pl.element().is_null()).list.any().fill_null(False)
                self.report(name, column, values, holes, "a list without nulls")
            if column == _UNIQUE.get(name):
                again = ~values.is_first_distinct() & values.is_not_null()
                self.report(name, column, values, again, "unique")
            if column in ("item_id", "user_id"):
                self.keys[name, column] = values
        self.check_item_ids(name)
        if name == "impressions":
            self.check_same_type("events", "user_id", name)

    def check_item_ids(self, name: str) -> None:
        known, ids = self.keys.get(("items", "item_id")), self.keys.get((name, "item_id"))
        if name == "items" or known is None or ids is None or known.is_empty():
            return
        if self.check_same_type("items", "item_id", name):
            dangling = ~ids.is_in(known.drop_nulls().unique().implode()) & ids.is_not_null()
            self.report(name, "item_id", ids, dangling, "an item_id of items")

    def check_same_type(self, one: str, column: str, other: str) -> bool:
        first, second = self.keys.get((one, column)), self.keys.get((other, column))
        if first is None or second is None or first.dtype == second.dtype:
            return True
        types = [plain_type(column, self.tables[name].schema.field(column).type) for name in (one, other)]
        where = f"{self.relative(self.tables[other].files[0])}: column {column}"
        self.add(column, str(types[1]), f"{types[0]} as in {one}", where)
        return False

    def check_numbers(self, name: str) -> None:
        for column in [c for (table, c), kind in self.kinds.items() if table == name and kind == "number"]:
            values = self.read(name, column)
            if values is not None and values.dtype.is_float():
                self.report(name, column, values, ~values.is_finite().fill_null(True), "finite or null")

    def check_event_types(self) -> None:
        values = self.read("events", "event")
        if values is not None and len(values):
            present = [str(value) for value in values.unique().drop_nulls()]
            for event in self.spec.event_types:
                if event not in present:
                    where = f"{self.relative(self.tables['events'].files[0])} has no such event"
                    self.add("event_types", event, nearest(event, present), f"dataset.yaml; {where}")

    def check_labels(self) -> None:
        plain = {task.column for task in self.spec.tasks if task.kind == "binary" and task.at is None}
        amounts = {task.column for task in self.spec.tasks if task.kind != "binary"}
        for column in dict.fromkeys(task.column for task in self.spec.tasks):
            values = self.read("impressions", column)
            if values is None or ("impressions", column) not in self.kinds:
                continue
            bad = values.is_null()
            if bad.any():
                self.gaps[column] = bad
            if bad.all() and len(bad):
                self.report("impressions", column, values, bad, "known in one row at least", "drop the task")
            if values.dtype.is_float():
                infinite = ~values.is_finite().fill_null(True)
                todo = "null says that nothing is known" if values.is_nan().any() else None
                self.report("impressions", column, values, infinite, "a finite label or null", todo)
                bad |= infinite
            if column in plain and values.dtype != pl.Boolean:
                todo = (
                    "or say in dataset.yaml from which value on it is 1 (at), or that it is an amount (kind)"
                )
                outside = (values != 0).fill_null(False) & (values != 1).fill_null(False) & ~bad
                self.report("impressions", column, values, outside, "0, 1 or null", todo)
            if column in amounts and values.dtype.is_numeric():
                self.report(
                    "impressions", column, values, (values < 0).fill_null(False) & ~bad, ">= 0 or null"
                )

    def check_split(self, name: str) -> None:
        column, kind = self.spec.splits[name].column, self.spec.splits[name].kind
        values = self.read("impressions", column)
        if values is None or not len(values):
            return
        unknown = ~values.is_in(["train", "eval"]).fill_null(True)
        self.report("impressions", column, values, unknown, "train, eval or null")
        where = f"{self.relative(self.tables['impressions'].files[0])}: column {column}"
        for side in ("train", "eval"):
            if not (values == side).any():
                self.add(f"{side} rows", 0, ">= 1", where, f"split {name} has none")
            for label, gaps in self.gaps.items():
                if (
                    not gaps.all()
                    and (values == side).any()
                    and gaps.filter((values == side).fill_null(False)).all()
                ):
                    self.add(f"labels of {side} rows", 0, ">= 1", f"column {label}", f"split {name} has none")
        items = self.keys.get(("impressions", "item_id"))
        if kind == "items" and items is not None:
            held_out = items.filter((values == "eval").fill_null(False)).drop_nulls().unique()
            both = (values == "train").fill_null(False) & items.is_in(held_out.implode()).fill_null(False)
            rule = f"in eval rows or in train rows, not in both (split {name} is of kind items)"
            self.report("impressions", "item_id", items, both, rule)

    def check_truth(self) -> None:
        files = truth_files(self.root)
        if not files:
            return
        where = self.relative(files[0])
        tasks = [task.name for task in self.spec.tasks]
        amounts = {task.name for task in self.spec.tasks if task.kind != "binary"}
        try:
            table = read_files(files, ["impression_id", *tasks])
        except (pa.ArrowException, OSError) as error:
            self.add("file", where, "readable Parquet", str(error))
            return
        for column in ("impression_id", *tasks):
            if column not in table.column_names:
                self.add(column, "(absent)", "a column of the truth", where)
            elif column != "impression_id" and table.schema.field(column).type != pa.float64():
                self.add(column, table.schema.field(column).type, "double", where)
            elif column != "impression_id":
                values = pl.Series(column, table[column])
                most, rule = (math.inf, "an expected amount") if column in amounts else (1, "a probability")
                wrong = ~(values.is_between(0, most) & values.is_finite()).fill_null(False)
                if wrong.any():
                    bad = values.filter(wrong)
                    self.add(column, bad[0], rule, f"{where}: column {column}, rows: {len(bad)}")
        ids = self.read("impressions", "impression_id")
        if ids is not None and "impression_id" in table.column_names:
            truth = pl.Series("impression_id", table["impression_id"])
            same = truth.dtype == ids.dtype and len(truth) == len(ids)
            if not same or not truth.is_in(ids.implode()).all() or not ids.is_in(truth.implode()).all():
                self.add("impression_id", "other ids", "those of impressions, once each", where)

    # --- reading and reporting ---

    def read(self, name: str, column: str) -> pl.Series | None:
        """One column over all shards; None where it is absent, mistyped or unreadable, as said before."""
        if name not in self.tables or (name, column) not in self.kinds:
            return None
        if (name, column) in self.keys:
            return self.keys[name, column]
        files = self.tables[name].files
        try:
            values = pl.Series(column, read_files(files, [column], OPTIONAL[name])[column])
        except (pa.ArrowException, OSError) as error:
            self.add("file", self.relative(files[0]), "readable Parquet", f"column {column}: {error}")
            del self.kinds[name, column]
            return None
        return values.cast(pl.String) if values.dtype == pl.Null else values

    def report(
        self, name: str, column: str, values: pl.Series, wrong: pl.Series, rule: str, todo: str | None = None
    ) -> None:
        """Say which row is the first of those that break a rule, and how many others do."""
        count = int(wrong.sum())
        if count == 0:
            return
        row = first = typing.cast(int, wrong.arg_max())
        shard = 0
        while row >= self.tables[name].rows[shard]:
            row -= self.tables[name].rows[shard]
            shard += 1
        where = f"{self.relative(self.tables[name].files[shard])}: column {column}, row {row}"
        others = f" and {count - 1:,} other{'s' * (count > 2)}" if count > 1 else ""
        self.add(column, values[first], rule, where + others, todo)

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _is_kind(dtype: pa.DataType, kind: str) -> bool:
    """Whether a plain type is of one of TYPES."""
    number = pa.types.is_integer(dtype) or (pa.types.is_floating(dtype) and not pa.types.is_float16(dtype))
    string = pa.types.is_string(dtype)
    strings = pa.types.is_list(dtype) and pa.types.is_string(dtype.value_type)
    kinds: dict[str, bool] = {
        "key": string or (pa.types.is_integer(dtype) and not pa.types.is_uint64(dtype)),
        "media": strings,
        "string": string or pa.types.is_null(dtype),
        "text": string or strings or pa.types.is_null(dtype),
        "time": (pa.types.is_timestamp(dtype) and dtype.tz is not None) or pa.types.is_null(dtype),
        "label": number or pa.types.is_boolean(dtype),
        "amount": number,
        "category": string or pa.types.is_integer(dtype) or pa.types.is_boolean(dtype),
        "number": number or pa.types.is_boolean(dtype),
    }
    return kinds[kind]


def _type(schema: pa.Schema, column: str) -> str:
    return str(plain_type(column, schema.field(column).type)) if column in schema.names else "(absent)"


def _hint(column: str, names: Sequence[str]) -> str:
    near = nearest(column, names).split(" (did you mean that?)")
    return f"did you mean {near[0]}?" if len(near) > 1 else "its columns are " + ", ".join(names[:20])


def _shown(value: object) -> object:
    """A cell as one line of an error: control characters escaped."""
    if isinstance(value, pl.Series):
        value = value.to_list()
    if isinstance(value, str) and not value.isprintable():
        return repr(value)
    return "null" if value is None else value
