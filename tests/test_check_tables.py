"""Tables and their files: absent, damaged, sharded, given twice; and what is said of all their violations together."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.tiny_data import Tiny, naive

from captionary.check import violations
from captionary.contract import check_dataset, open_dataset
from captionary.errors import CaptionaryError


def test_all_violations_are_listed_at_once(tmp_path: Path) -> None:
    tiny = Tiny()
    tiny.spec["clok"] = "time"
    tiny.change("items", "media", 0, None)
    tiny.set("events", timestamp=naive(tiny.events))
    tiny.change("impressions", "rating", 0, math.nan)
    tiny.change("impressions", "impression_id", 1, 100)
    whats = [line.split(" == ")[0] for line in violations(tiny.write(tmp_path))]
    assert whats == ["key", "timestamp", "media", "impression_id", "rating"]


def test_absent_tables_and_an_absent_directory(tmp_path: Path) -> None:
    root = Tiny().write(tmp_path / "set")
    (root / "events.parquet").unlink()
    rule = "events.parquet or a directory events/ of Parquet files"
    assert violations(root) == [f"events == (absent), must be {rule}; {root}"]
    assert violations(tmp_path / "none") == [f"dataset == {tmp_path / 'none'}, must be an existing directory"]


def test_a_file_that_is_not_parquet_or_damaged(tmp_path: Path) -> None:
    root = Tiny().write(tmp_path)
    (root / "events.parquet").write_text("user_id,item_id\n")
    assert violations(root)[0].startswith("file == events.parquet, must be readable Parquet; ")
    whole = (root / "items.parquet").read_bytes()
    (root / "items.parquet").write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])
    lines = violations(root)
    assert any(
        line.startswith("file == items.parquet, must be readable Parquet; column item_id: ") for line in lines
    )
    assert all("\n" not in line for line in lines)


def test_a_row_in_a_shard_is_named_by_shard(tmp_path: Path) -> None:
    tiny = Tiny()
    tiny.change("impressions", "item_id", 3, 98)
    tiny.change("impressions", "impression_id", 6, 100)
    root = tiny.write(tmp_path)
    (root / "impressions.parquet").unlink()
    (root / "impressions").mkdir()
    for index, (start, stop) in enumerate([(0, 3), (3, 3), (3, 8)]):  # the second shard is empty
        tiny.impressions[start:stop].write_parquet(root / "impressions" / f"part-{index}.parquet")
    assert violations(root) == [
        "impression_id == 100, must be unique; impressions/part-2.parquet: column impression_id, row 3",
        "item_id == 98, must be an item_id of items; impressions/part-2.parquet: column item_id, row 0",
    ]


def test_shards_must_have_the_same_columns(tmp_path: Path) -> None:
    tiny = Tiny()
    root = tiny.write(tmp_path)
    (root / "events.parquet").unlink()
    (root / "events").mkdir()
    tiny.events.write_parquet(root / "events" / "a.parquet")
    tiny.events.drop("value").with_columns(pl.col("item_id").cast(pl.String)).write_parquet(
        root / "events" / "b.parquet"
    )
    assert violations(root) == [
        "item_id == string, must be int64 as in a.parquet; events/b.parquet",
        "value == (absent), must be double as in a.parquet; events/b.parquet",
    ]


def test_a_column_given_twice(tmp_path: Path) -> None:
    tiny = Tiny()
    root = tiny.write(tmp_path)
    table = pq.read_table(root / "events.parquet")
    pq.write_table(
        pa.table([*table.columns, table["event"]], [*table.column_names, "event"]), root / "events.parquet"
    )
    assert violations(root) == ["column == event, must be given once; events.parquet"]


def test_a_table_given_twice(tmp_path: Path) -> None:
    tiny = Tiny()
    root = tiny.write(tmp_path)
    (root / "events").mkdir()
    tiny.events.write_parquet(root / "events" / "a.parquet")
    assert violations(root) == [f"events == events.parquet and events/, must be only one of the two; {root}"]


def test_open_raises_the_first_violation_and_says_how_many_there_are(tmp_path: Path) -> None:
    tiny = Tiny()
    tiny.change("events", "item_id", 2, 99)
    tiny.change("impressions", "impression_id", 1, 100)
    root = tiny.write(tmp_path)
    with pytest.raises(CaptionaryError) as caught:
        open_dataset(root)
    assert str(caught.value) == (
        "item_id == 99, must be an item_id of items; events.parquet: column item_id, row 2; "
        f"run `captionary check {root}` for all 2"
    )


def test_a_mended_file_is_checked_again(tmp_path: Path) -> None:
    tiny = Tiny()
    tiny.change("events", "item_id", 2, 99)
    root = tiny.write(tmp_path)
    assert len(check_dataset(root)) == 1
    Tiny().write(root)
    assert check_dataset(root) == []
    (root / "items.parquet").unlink()
    assert len(check_dataset(root)) == 1
