"""OASIS on a source of the same shape: 10 themes of 3 photographs, 4 raters."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from captionary.contract import Dataset, open_dataset
from captionary.data.oasis import convert

THEMES, EACH, USERS = 10, 3, 4


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    lines = ["item_id,image_file,theme,category,source"]
    lines += [f"{i + 4},{i + 4:03}.jpg,Theme {i // EACH},Object,Pixabay" for i in range(THEMES * EACH)]
    (source / "items.csv").write_text("\n".join(lines) + "\n")
    rows = [(u, i + 4, 1 + (3 * u + i) % 7) for u in range(USERS) for i in range(THEMES * EACH)]
    types = {"user_id": pl.Int32, "item_id": pl.Int32, "beauty": pl.Int8}
    pl.DataFrame(rows, schema=types, orient="row").write_parquet(source / "ratings.parquet")
    return open_dataset(convert(source, tmp_path / "out"))


def frame(dataset: Dataset) -> pl.DataFrame:
    items = pl.from_arrow(dataset.items(["item_id", "theme"]))
    made = pl.from_arrow(dataset.impressions())
    assert isinstance(made, pl.DataFrame)
    assert isinstance(items, pl.DataFrame)
    return made.join(items, on="item_id", maintain_order="left")


def test_items_have_a_picture_and_no_text(dataset: Dataset) -> None:
    items = dataset.items().to_pylist()
    assert len(items) == THEMES * EACH
    assert items[0]["media"][0].endswith("/source/images/004.jpg")
    assert all(item["title"] is None for item in items)
    assert dataset.spec.text == ()


def test_tasks_are_thresholds_of_beauty(dataset: Dataset) -> None:
    rows = frame(dataset).select("beauty", "beautiful", "striking", "ugly").unique().sort("beauty").rows()
    assert rows == [(b, b >= 5, b >= 6, b <= 2) for b in range(1, 8)]


def test_a_fifth_of_the_themes_is_held_out_whole(dataset: Dataset) -> None:
    sides = frame(dataset).group_by("theme").agg(pl.col("split").unique())
    assert all(len(side) == 1 for side in sides["split"])
    assert sum(side[0] == "eval" for side in sides["split"]) == round(0.2 * THEMES)
    assert dataset.spec.splits["themes"].kind == "items"


def test_an_eval_rating_comes_after_all_train_ratings_and_at_one_time_with_all_other_eval_ratings(
    dataset: Dataset,
) -> None:
    for _, rows in frame(dataset).group_by("user_id"):
        train, held = rows.filter(split="train"), rows.filter(split="eval")
        assert len(held) == round(0.2 * THEMES) * EACH
        assert held["timestamp"].n_unique() == 1
        assert train["timestamp"].n_unique() == len(train)
        assert train["timestamp"].max() < held["timestamp"][0]


def test_the_order_of_train_ratings_is_random_and_of_each_user_his_own(dataset: Dataset) -> None:
    orders = []
    for _, rows in frame(dataset).filter(split="train").group_by("user_id"):
        orders.append(tuple(rows.sort("timestamp")["item_id"]))
        assert orders[-1] != tuple(sorted(orders[-1]))
    assert len(set(orders)) == USERS


def test_events_before_a_row_hold_neither_itself_nor_a_held_out_photograph(dataset: Dataset) -> None:
    events = pl.from_arrow(dataset.events())
    assert isinstance(events, pl.DataFrame)
    held = set(frame(dataset).filter(split="eval")["item_id"])
    for row in frame(dataset).iter_rows(named=True):
        seen = events.filter(pl.col("user_id") == row["user_id"], pl.col("timestamp") < row["timestamp"])
        assert row["item_id"] not in set(seen["item_id"])
        assert not held & set(seen["item_id"])
