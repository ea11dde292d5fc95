"""Reading a source folder: what is missing or wrong is named; what is held out is the same everywhere."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from captionary.contract import DatasetSpec, Split, Task
from captionary.data.source import events_of, held_out, publish, read_source, require
from captionary.errors import CaptionaryError


def test_require_lists_all_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    require(tmp_path, ["a.csv"], adapter="x")
    with pytest.raises(CaptionaryError) as caught:
        require(tmp_path, ["a.csv", "b.csv", "images/"], adapter="x")
    assert str(caught.value) == (
        f"source == {tmp_path}, must be a folder with a.csv, b.csv, images/; "
        "captionary data x: b.csv, images/ not found"
    )
    with pytest.raises(CaptionaryError, match="must be an existing folder; captionary data x"):
        require(tmp_path / "none", [], adapter="x")


def test_csv_is_read_by_the_types_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,year,on,zip,text\n1,1995.0,True,02136-1522,"a, b"\n2,,False,48067,\n')
    columns = {"id": pl.Int64, "year": pl.Int32, "on": pl.Boolean, "text": pl.String}
    frame = read_source(path, columns, {"more": pl.Int64})
    assert frame.rows() == [(1, 1995, True, "a, b"), (2, None, False, None)]
    assert frame.schema == columns


def test_parquet_is_read_by_the_types_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame(
        {"id": [1, 2], "extra": [0, 0], "copy": [3, 4]}, schema_overrides={"id": pl.Int32}
    ).write_parquet(path)
    assert read_source(path, {"id": pl.Int64}, {"copy": pl.Int8}).schema == {"id": pl.Int64, "copy": pl.Int8}


def test_a_wrong_source_file_is_refused(tmp_path: Path) -> None:
    csv, parquet = tmp_path / "a.csv", tmp_path / "a.parquet"
    csv.write_text("id,on\n1,perhaps\n")
    for columns, message in (
        ({"idd": pl.Int64, "zzz": pl.Int64}, f"columns == idd, zzz, must be among the file's columns; {csv}"),
        ({"on": pl.Boolean}, f"columns == other types, must be of types on Boolean; {csv}: "),
        ({"on": pl.Int64}, f"columns == other types, must be of types on Int64; {csv}: "),
    ):
        with pytest.raises(CaptionaryError) as caught:
            read_source(csv, columns)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
    csv.write_text("id,on\n")
    with pytest.raises(CaptionaryError, match="rows == 0, must be >= 1"):
        read_source(csv, {"id": pl.Int64})
    parquet.write_text("no Parquet")
    with pytest.raises(CaptionaryError, match=r"file == a\.parquet, must be readable parquet; "):
        read_source(parquet, {"id": pl.Int64})


def test_held_out_keys_are_a_fixed_share_that_depends_on_the_salt_alone() -> None:
    keys = list(range(1000))
    chosen = held_out(keys, 0.2, salt="a")
    assert len(set(chosen)) == 200
    assert held_out([*reversed(keys), *keys], 0.2, salt="a") == chosen
    assert chosen[:3] == [63, 845, 587]  # no machine and no version may choose others
    assert len(set(chosen) & set(held_out(keys, 0.2, salt="b"))) < 80  # 40 expected of independent choices


def impressions() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "impression_id": [0, 1],
            "user_id": [7, 7],
            "item_id": [2, 1],
            "timestamp": [datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)],
            "like": [True, True],
            "love": [False, True],
            "split": ["train", "eval"],
        }
    )


def test_events_are_the_true_labels_in_time_order() -> None:
    assert events_of(impressions(), ["like", "love"]).rows() == [
        (7, 1, "like", datetime(2024, 1, 1, tzinfo=UTC)),
        (7, 1, "love", datetime(2024, 1, 1, tzinfo=UTC)),
        (7, 2, "like", datetime(2024, 1, 2, tzinfo=UTC)),
    ]


def test_what_breaks_the_contract_is_not_published(tmp_path: Path) -> None:
    spec = DatasetSpec(
        name="x",
        tasks=(Task(name="like"),),
        splits={"s": Split(column="split")},
        default_split="s",
    )
    items = pl.DataFrame({"item_id": [1], "media": [[]]}, schema_overrides={"media": pl.List(pl.String)})
    with pytest.raises(CaptionaryError) as caught:
        publish(tmp_path / "out", spec, items, events_of(impressions(), ["like"]), impressions())
    assert str(caught.value) == (
        "item_id == 2, must be an item_id of items; events.parquet: column item_id, row 1; "
        "the source breaks the contract (2 violations)"
    )
    assert list(tmp_path.iterdir()) == []
