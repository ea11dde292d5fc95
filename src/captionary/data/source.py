"""What the adapters share: reading a source folder, holding keys out, publishing the result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import polars as pl

from captionary.contract import DatasetSpec, atomic_folder, check_dataset, write_spec, write_table
from captionary.errors import CaptionaryError, bad_value

__all__ = ["Type", "events_of", "held_out", "publish", "read_source", "require", "shuffle_key"]

Type: TypeAlias = type[pl.DataType] | pl.DataType


def require(source: Path, names: Iterable[str], *, adapter: str) -> None:
    """Raise a CaptionaryError that lists which of `names` (folders end in /) are not in `source`."""
    if not source.is_dir():
        raise bad_value("source", str(source), "an existing folder", where=f"captionary data {adapter}")
    names = list(names)
    missing = [n for n in names if not ((source / n).is_dir() if n.endswith("/") else (source / n).is_file())]
    if missing:
        rule = f"a folder with {', '.join(names)}"
        where = f"captionary data {adapter}: {', '.join(missing)} not found"
        raise bad_value("source", str(source), rule, where=where)


def read_source(path: Path, columns: Mapping[str, Type], optional: Mapping[str, Type] = {}) -> pl.DataFrame:
    """The named columns of a .csv or .parquet file, of the given types; `optional` ones only where they are.

    Raises:
        CaptionaryError: a missing column, no row, a value of another type, or an unreadable file.
    """
    wanted = {**columns, **optional}
    try:
        if path.suffix == ".csv":
            frame = pl.read_csv(path, infer_schema=False)
        else:
            frame = pl.read_parquet(path, columns=[c for c in wanted if c in pl.read_parquet_schema(path)])
    except (pl.exceptions.PolarsError, OSError) as error:
        line = " ".join(str(error).split())
        raise bad_value("file", path.name, f"readable {path.suffix[1:]}", where=line) from None
    if missing := [column for column in columns if column not in frame.columns]:
        raise bad_value("columns", ", ".join(missing), "among the file's columns", where=str(path))
    if frame.is_empty():
        raise bad_value("rows", 0, ">= 1", where=str(path))
    types = {column: dtype for column, dtype in wanted.items() if column in frame.columns}
    try:
        if path.suffix == ".csv":  # Polars reads "True" and "1.0" as neither bool nor integer
            return frame.select(_parsed(column, dtype) for column, dtype in types.items())
        return frame.select(pl.col(column).cast(dtype) for column, dtype in types.items())
    except pl.exceptions.PolarsError as error:
        line = " ".join(str(error).split())[:300]
        rule = f"of types {', '.join(f'{column} {dtype}' for column, dtype in types.items())}"
        raise bad_value("columns", "other types", rule, where=f"{path}: {line}") from None


def held_out(keys: Iterable[int | str], share: float, *, salt: str) -> list[int | str]:
    """The `share` of the distinct keys (rounded) that a hash of salt and key puts first.

    The hash, not a random generator, so that the choice is the same on any machine and in any version.
    """
    distinct = sorted(set(keys), key=lambda key: shuffle_key(salt, key))
    return distinct[: round(share * len(distinct))]


def shuffle_key(*parts: object) -> bytes:
    """Sorting by this is a random order that is the same on any machine and in any version."""
    return hashlib.sha256(":".join(map(str, parts)).encode()).digest()


def events_of(impressions: pl.DataFrame, types: Iterable[str]) -> pl.DataFrame:
    """An event wherever the bool column of its name is true, at the impression's timestamp, in time order.

    Profiles take events strictly before an impression, so none sees the event that came of it.
    """
    parts = [
        impressions.filter(pl.col(event)).select(
            "user_id", "item_id", pl.lit(event).alias("event"), "timestamp"
        )
        for event in types
    ]
    return pl.concat(parts).sort("timestamp", "user_id", "item_id", "event")


def publish(
    out: Path, spec: DatasetSpec, items: pl.DataFrame, events: pl.DataFrame, impressions: pl.DataFrame
) -> Path:
    """Write and check a dataset directory; it becomes `out` only when it keeps the contract.

    Raises:
        CaptionaryError: `out` holds files of somebody else, or the tables break the contract.
    """
    with atomic_folder(out) as folder:
        for name, frame in (("items", items), ("events", events), ("impressions", impressions)):
            write_table(frame.to_arrow(compat_level=pl.CompatLevel.oldest()), folder / f"{name}.parquet")
        write_spec(spec, folder)
        if found := check_dataset(folder):
            raise CaptionaryError(f"{found[0]}; the source breaks the contract ({len(found)} violations)")
    return out


def _parsed(column: str, dtype: Type) -> pl.Expr:
    text = pl.col(column)
    if dtype == pl.Boolean:
        return text.str.to_lowercase().replace_strict({"true": True, "false": False}, return_dtype=pl.Boolean)
    if dtype.is_integer():
        return text.cast(pl.Float64).cast(dtype)
    return text.cast(dtype)
