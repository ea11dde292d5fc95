"""MovieLens-1M with posters.

Source folder (columns that are read):
    ratings.parquet   userId, movieId, rating (1 to 5), pos (time rank within the user, from 0)
    items.csv         movieId, title, genres (joined by |), year, plot, has_poster
    users.csv         userId, gender, age (lower end of a bracket), occupation (code)
    images/           {movieId}.jpg, the posters

Licence: MovieLens allows research use and no redistribution; the posters are their studios'. Neither is
copied: the data set names the images by path.

Decisions:
- Only movies with a poster, and ratings of them: a rating of a movie without one says nothing about
  pictures.
- Tasks like (rating >= 4), love (= 5), dislike (<= 2), each an event type too.
- The source has the order of each user's ratings, not their clock: a timestamp is 2000-01-01 plus `pos`
  days, so that a half-life in days is one in ratings. `pos` counts ratings of movies without a poster too.
- Split `warm` (kind time): the last eighth of each user's ratings is eval, 7:1 as in the paper.
- Split `cold` (kind items): a fifth of the movies, chosen by a hash, is eval with all its ratings. Profiles
  are then to be built without the events of those movies: on the day such a movie is new, nobody has rated
  any of them.
- Genres and year are columns, not features: they are a rival of captions, for an arm of its own.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from captionary.contract import Columns, DatasetSpec, Split, Task, media_uri
from captionary.data.source import Type, events_of, held_out, publish, read_source, require

__all__ = ["convert"]

TASKS = ("like", "love", "dislike")
COLD_SHARE = 0.2
EPOCH = pl.datetime(2000, 1, 1, time_unit="us", time_zone="UTC")


def convert(source: Path, out: Path) -> Path:
    """Write MovieLens-1M with posters as a dataset directory; see the module for columns and decisions.

    Raises:
        CaptionaryError: a file or column is missing or wrong, or `out` is taken.
    """
    require(source, ("ratings.parquet", "items.csv", "users.csv", "images/"), adapter="movielens-posters")
    items = _items(source, out)
    impressions = _impressions(source, items)
    spec = DatasetSpec(
        name="movielens-posters",
        clock="rank",
        tasks=tuple(Task(name=task) for task in TASKS),
        event_types=TASKS,
        context=Columns(categorical=("gender", "age", "occupation")),
        text=("title", "genres", "plot"),
        splits={
            "warm": Split(column="split_warm", kind="time"),
            "cold": Split(column="split_cold", kind="items"),
        },
        default_split="warm",
        license="MovieLens: research use, no redistribution; posters: copyright of their studios",
        source="MovieLens-1M ratings with movie posters",
    )
    return publish(out, spec, items, events_of(impressions, TASKS), impressions)


def _items(source: Path, out: Path) -> pl.DataFrame:
    columns = {
        "movieId": pl.Int64,
        "title": pl.String,
        "genres": pl.String,
        "year": pl.Int32,
        "plot": pl.String,
        "has_poster": pl.Boolean,
    }
    movies = read_source(source / "items.csv", columns).filter("has_poster").sort("movieId")
    media = [[media_uri(source / "images" / f"{movie}.jpg", out)] for movie in movies["movieId"]]
    return movies.select(
        pl.col("movieId").alias("item_id"),
        pl.Series("media", media, dtype=pl.List(pl.String)),
        "title",
        pl.lit(None, pl.Datetime("us", "UTC")).alias("created_at"),
        pl.col("genres").str.split("|"),
        "year",
        "plot",
    )


def _impressions(source: Path, items: pl.DataFrame) -> pl.DataFrame:
    columns: dict[str, Type] = {
        "userId": pl.Int64,
        "movieId": pl.Int64,
        "rating": pl.Int8,
        "pos": pl.Int32,
    }
    ratings = read_source(source / "ratings.parquet", columns).sort("userId", "pos")
    ratings = ratings.filter(pl.col("movieId").is_in(items["item_id"].implode()))
    columns = {"userId": pl.Int64, "gender": pl.String, "age": pl.Int64, "occupation": pl.Int64}
    users = read_source(source / "users.csv", columns)
    cold = held_out(items["item_id"], COLD_SHARE, salt="movielens-posters cold")
    seen, total = pl.int_range(pl.len()).over("userId"), pl.len().over("userId")
    return ratings.join(users, on="userId", how="left", maintain_order="left").select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("impression_id"),
        pl.col("userId").alias("user_id"),
        pl.col("movieId").alias("item_id"),
        (EPOCH + pl.duration(days="pos")).alias("timestamp"),
        "rating",
        (pl.col("rating") >= 4).alias("like"),
        (pl.col("rating") == 5).alias("love"),
        (pl.col("rating") <= 2).alias("dislike"),
        "gender",
        "age",
        "occupation",
        _side(seen * 8 >= total * 7).alias("split_warm"),
        _side(pl.col("movieId").is_in(cold)).alias("split_cold"),
    )


def _side(is_eval: pl.Expr) -> pl.Expr:
    return pl.when(is_eval).then(pl.lit("eval")).otherwise(pl.lit("train"))
