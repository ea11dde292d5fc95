"""MovieLens with posters, on a source of the same shape: 10 movies of which 8 have posters, 3 users."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from captionary.contract import Dataset, open_dataset
from captionary.data.movielens import convert
from captionary.errors import CaptionaryError

MOVIES = 10
POSTERS = range(1, 9)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    lines = ["movieId,title,genres,year,plot,director,has_poster"]
    lines += [
        f'{m},"Film, The {m}",Drama|War,199{m % 10}.0,,Somebody,{m in POSTERS}' for m in range(1, MOVIES)
    ]
    lines += [f"{MOVIES},Unknown,Comedy,,,,False"]
    (source / "items.csv").write_text("\n".join(lines) + "\n")
    (source / "users.csv").write_text(
        "userId,gender,age,occupation,zip\n3,M,25,15,1\n1,F,1,10,48067\n2,M,56,16,02136-1522\n"
    )
    rows = [
        {
            "userId": user,
            "movieId": 1 + (user * 3 + pos) % MOVIES,
            "rating": 1 + pos % 5,
            "pos": pos,
            "n_user": MOVIES,
        }
        for user in (3, 1, 2)
        for pos in reversed(range(MOVIES))
    ]
    types = {"userId": pl.Int32, "movieId": pl.Int32, "rating": pl.Int8, "pos": pl.Int32, "n_user": pl.Int32}
    pl.DataFrame(rows, schema=types).write_parquet(source / "ratings.parquet")
    return source


@pytest.fixture
def dataset(source: Path, tmp_path: Path) -> Dataset:
    return open_dataset(convert(source, tmp_path / "out"))


def frame(dataset: Dataset) -> pl.DataFrame:
    made = pl.from_arrow(dataset.impressions())
    assert isinstance(made, pl.DataFrame)
    return made


def test_only_movies_with_a_poster_are_there(dataset: Dataset, source: Path) -> None:
    items = dataset.items().to_pylist()
    assert [item["item_id"] for item in items] == list(POSTERS)
    assert items[0] == {
        "item_id": 1,
        "media": [str(source / "images" / "1.jpg")],
        "title": "Film, The 1",
        "created_at": None,
        "genres": ["Drama", "War"],
        "year": 1991,
        "plot": None,
    }
    assert set(frame(dataset)["item_id"]) == set(POSTERS)
    assert len(frame(dataset)) == 3 * len(POSTERS)


def test_tasks_are_thresholds_of_the_rating(dataset: Dataset) -> None:
    rows = frame(dataset).select("rating", "like", "love", "dislike").unique().sort("rating").rows()
    assert rows == [
        (1, False, False, True),
        (2, False, False, True),
        (3, False, False, False),
        (4, True, False, False),
        (5, True, True, False),
    ]
    assert [task.name for task in dataset.spec.tasks] == ["like", "love", "dislike"]


def test_timestamps_are_positions_and_events_have_those_of_their_ratings(
    dataset: Dataset, source: Path
) -> None:
    expected = {
        (row["userId"], row["movieId"]): datetime(2000, 1, 1, tzinfo=UTC) + timedelta(days=row["pos"])
        for row in pl.read_parquet(source / "ratings.parquet").iter_rows(named=True)
    }
    for row in frame(dataset).iter_rows(named=True):
        assert row["timestamp"] == expected[row["user_id"], row["item_id"]]
    events = dataset.events().to_pylist()
    assert all(event["timestamp"] == expected[event["user_id"], event["item_id"]] for event in events)
    labels = frame(dataset).select("like", "love", "dislike").sum().row(0)
    assert len(events) == sum(labels)
    assert dataset.spec.clock == "rank"


def test_people_come_with_their_ratings(dataset: Dataset) -> None:
    order = frame(dataset).select("user_id", "timestamp").rows()
    assert order == sorted(order)
    rows = frame(dataset).select("user_id", "gender", "age", "occupation").unique().sort("user_id").rows()
    assert rows == [(1, "F", 1, 10), (2, "M", 56, 16), (3, "M", 25, 15)]
    assert dataset.spec.context.categorical == ("gender", "age", "occupation")


def test_warm_is_the_last_eighth_of_each_user(dataset: Dataset) -> None:
    for _, rows in frame(dataset).sort("timestamp").group_by("user_id"):
        assert (
            rows["split_warm"].to_list() == ["train"] * 7 + ["eval"] * 1
        )  # 8 ratings of movies with posters


def test_cold_is_a_fifth_of_the_movies_whole(dataset: Dataset) -> None:
    sides = frame(dataset).group_by("item_id").agg(pl.col("split_cold").unique())
    assert all(len(side) == 1 for side in sides["split_cold"])
    assert sum(side[0] == "eval" for side in sides["split_cold"]) == round(0.2 * len(POSTERS))


def test_the_same_source_gives_the_same_data_set(source: Path, dataset: Dataset, tmp_path: Path) -> None:
    assert open_dataset(convert(source, tmp_path / "again")).fingerprint() == dataset.fingerprint()


def test_a_second_run_replaces_its_own_output_and_nothing_else(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out")
    convert(source, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(CaptionaryError, match=r"it holds notes\.txt"):
        convert(source, tmp_path / "out")
    with pytest.raises(CaptionaryError, match="must be a new or empty folder"):
        convert(source, source)
