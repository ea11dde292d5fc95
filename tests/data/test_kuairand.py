"""KuaiRand-Pure on a source of the same shape: 16 impressions of 3 videos to 2 users, one logged twice."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from captionary.contract import Dataset, open_dataset
from captionary.data.kuairand import TASKS, USER_COLUMNS, convert
from captionary.errors import CaptionaryError

START = 1_650_812_741_436  # 2022-04-24 15:05:41.436 UTC, 23:05 in Beijing
HOUR = 3_600_000


def interactions() -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for index in range(16):
        row = {
            "user_id": index % 2,
            "video_id": index % 3,
            "time_ms": START + index * HOUR,
            "hourmin": 0,
            "tab": index % 4,
        }
        row |= {"is_click": index % 2, "long_view": int(index % 4 == 1), "is_like": int(index < 2)}
        row |= {"is_follow": int(index == 3), "is_comment": int(index == 4), "is_forward": int(index == 5)}
        rows.append(row)
    rows.append({**rows[6], "hourmin": 100, "is_click": 1})  # the same impression in the next report
    made = pl.DataFrame(rows)
    return made.with_columns(
        pl.col("is_like").cast(pl.Int8).alias("like"), pl.col("long_view").alias("long_watch")
    )


def write(source: Path, log: pl.DataFrame) -> Path:
    source.mkdir()
    log.write_parquet(source / "interactions.parquet")
    users: dict[str, list[Any]] = {"user_id": [0, 1, 2]}
    for name, dtype in USER_COLUMNS.items():
        users[name] = ["a", "b", "c"] if dtype == pl.String else [0, 1, 2]
    pl.DataFrame(users).write_parquet(source / "users.parquet")
    pl.DataFrame(
        {
            "video_id": [0, 1, 2],
            "author_id": [10, 11, 10],
            "video_type": ["NORMAL"] * 3,
            "upload_type": ["Web", "Kmovie", "PictureSet"],
            "upload_dt_parsed": pl.Series([datetime(2022, 4, 9)] * 3, dtype=pl.Datetime("ns")),
            "video_duration": [9000.0, 99000.0, None],
            "music_type": [9.0, None, 4.0],
            "tag": ["39", "2,7", "unknown"],
        }
    ).write_parquet(source / "items.parquet")
    return source


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return open_dataset(convert(write(tmp_path / "source", interactions()), tmp_path / "out"))


def test_an_impression_logged_twice_is_one_with_the_labels_of_both(dataset: Dataset) -> None:
    rows = dataset.impressions().to_pylist()
    assert len(rows) == 16
    assert [row["click"] for row in rows] == [index % 2 == 1 or index == 6 for index in range(16)]


def test_labels_are_the_raw_columns_and_events_are_where_they_are_1(dataset: Dataset) -> None:
    impressions = dataset.impressions()
    assert [task.name for task in dataset.spec.tasks] == list(TASKS)
    assert dataset.labels(impressions).sum(axis=0).tolist() == [8 + 1, 4, 2, 1, 1, 1]
    assert dataset.events().num_rows == 9 + 4 + 2 + 1 + 1 + 1


def test_times_are_real_and_hours_are_those_of_beijing(dataset: Dataset) -> None:
    rows = dataset.impressions().to_pylist()
    assert rows[0]["timestamp"] == datetime(2022, 4, 24, 15, 5, 41, 436_000, tzinfo=UTC)
    assert [row["hour"] for row in rows] == [(23 + index) % 24 for index in range(16)]  # not hourmin
    assert dataset.spec.time_zone == "Asia/Shanghai"


def test_the_last_eighth_in_time_is_eval(dataset: Dataset) -> None:
    rows = dataset.impressions().to_pylist()
    assert [row["split"] for row in sorted(rows, key=lambda row: row["timestamp"])] == ["train"] * 14 + [
        "eval"
    ] * 2


def test_rows_of_one_millisecond_stay_on_one_side(tmp_path: Path) -> None:
    log = interactions().with_columns(pl.col("time_ms").clip(upper_bound=START + 13 * HOUR))
    dataset = open_dataset(convert(write(tmp_path / "source", log), tmp_path / "out"))
    assert [row["split"] for row in dataset.impressions().to_pylist()] == ["train"] * 13 + ["eval"] * 3


def test_items_have_features_and_no_media(dataset: Dataset) -> None:
    items = dataset.items().to_pylist()
    assert [item["media"] for item in items] == [[], [], []]
    assert items[0]["created_at"] == datetime(2022, 4, 9, tzinfo=UTC) - timedelta(
        hours=8
    )  # midnight in Beijing
    assert [item["log_duration"] for item in items] == pytest.approx([math.log(1 + 9), math.log(1 + 99), 0])
    assert [item["music_type"] for item in items] == [9, None, 4]
    assert dataset.spec.item_features.numeric == ("log_duration",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.lit(2).alias("is_follow"), "is_follow == 2, must be 0 or 1; .*17 rows"),
        (pl.lit(None, pl.Int64).alias("is_click"), "is_click == None, must be 0 or 1; .*17 rows"),
        ((1 - pl.col("like")).alias("like"), "like == 0, must be equal to is_like; .*17 rows"),
        (pl.col("video_id") + 1, "item_id == 3, must be an item_id of items"),
    ],
)
def test_labels_that_contradict_themselves_are_refused(tmp_path: Path, change: pl.Expr, message: str) -> None:
    source = write(tmp_path / "source", interactions().with_columns(change))
    with pytest.raises(CaptionaryError, match=message):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_copies_need_not_be_there(tmp_path: Path) -> None:
    source = write(tmp_path / "source", interactions().drop("like", "long_watch"))
    assert open_dataset(convert(source, tmp_path / "out")).impressions().num_rows == 16
