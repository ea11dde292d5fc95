"""OASIS photographs with single people's ratings of their beauty (Kurdi et al. 2017; Brielmann & Pelli 2019).

Source folder (columns that are read):
    ratings.parquet   user_id, item_id, beauty (1 to 7)
    items.csv         item_id, image_file, theme, category, source
    images/           the photographs

Licence: "free use in online and offline research studies"; no licence file. Nothing is copied: the data set
names the images by path.

Decisions:
- Tasks beautiful (beauty >= 5), striking (>= 6), ugly (<= 2), each an event type too.
- No title, no text: themes (Cat, Wedding) would name what the picture shows. Theme, category and source are
  columns, not features.
- Split `themes` (kind items): a fifth of the themes, whole, is eval, so that no eval photograph has a near
  twin in train.
- There is no clock, and photographs were shown in a random order, so a random order is drawn: within each
  user the train ratings in an order of their own, a day apart, and after them every eval rating at one and
  the same last timestamp. Profiles take events strictly before an impression. So an eval profile holds all
  of the user's train events and no eval event, and a train profile holds a random part of the train events:
  nothing that follows, and nothing that depends on the label to be predicted. Leaving only the row itself
  out of a profile of all the others (leave one out) would leak it: a user's total is fixed, so a profile
  with one event less than usual says that the row left out was a positive one. A model that knows the user
  reads the label off, in train and never in eval.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from captionary.contract import Columns, DatasetSpec, Split, Task, media_uri
from captionary.data.source import events_of, held_out, publish, read_source, require, shuffle_key

__all__ = ["convert"]

TASKS = ("beautiful", "striking", "ugly")
EVAL_SHARE = 0.2
EPOCH = pl.datetime(2000, 1, 1, time_unit="us", time_zone="UTC")


def convert(source: Path, out: Path) -> Path:
    """Write OASIS as a dataset directory; see the module for columns and decisions.

    Raises:
        CaptionaryError: a file or column is missing or wrong, or `out` is taken.
    """
    require(source, ("ratings.parquet", "items.csv", "images/"), adapter="oasis")
    items = _items(source, out)
    impressions = _impressions(source, items)
    spec = DatasetSpec(
        name="oasis",
        clock="none",
        tasks=tuple(Task(name=task) for task in TASKS),
        event_types=TASKS,
        context=Columns(),
        splits={"themes": Split(column="split", kind="items")},
        default_split="themes",
        license="free use in online and offline research studies, as stated by OASIS; no licence file",
        source="OASIS photographs (Kurdi et al. 2017), beauty ratings of Brielmann & Pelli (2019)",
    )
    return publish(out, spec, items, events_of(impressions, TASKS), impressions)


def _items(source: Path, out: Path) -> pl.DataFrame:
    columns = {
        "item_id": pl.Int64,
        "image_file": pl.String,
        "theme": pl.String,
        "category": pl.String,
        "source": pl.String,
    }
    photographs = read_source(source / "items.csv", columns).sort("item_id")
    media = [[media_uri(source / "images" / name, out)] for name in photographs["image_file"]]
    return photographs.select(
        "item_id",
        pl.Series("media", media, dtype=pl.List(pl.String)),
        pl.lit(None, pl.String).alias("title"),
        pl.lit(None, pl.Datetime("us", "UTC")).alias("created_at"),
        "theme",
        "category",
        "source",
    )


def _impressions(source: Path, items: pl.DataFrame) -> pl.DataFrame:
    columns = {"user_id": pl.Int64, "item_id": pl.Int64, "beauty": pl.Int8}
    ratings = read_source(source / "ratings.parquet", columns).sort("user_id", "item_id")
    themes = held_out(items["theme"], EVAL_SHARE, salt="oasis themes")
    held = items.filter(pl.col("theme").is_in(themes))["item_id"]
    order = [shuffle_key("oasis order", *row) for row in ratings.select("user_id", "item_id").iter_rows()]
    shuffled = ratings.with_columns(
        pl.col("item_id").is_in(held.implode()).alias("eval"), pl.Series("order", order)
    ).sort("user_id", "eval", "order")
    day = pl.min_horizontal(pl.int_range(pl.len()).over("user_id"), (~pl.col("eval")).sum().over("user_id"))
    return shuffled.select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("impression_id"),
        "user_id",
        "item_id",
        (EPOCH + pl.duration(days=day)).alias("timestamp"),
        "beauty",
        (pl.col("beauty") >= 5).alias("beautiful"),
        (pl.col("beauty") >= 6).alias("striking"),
        (pl.col("beauty") <= 2).alias("ugly"),
        pl.when("eval").then(pl.lit("eval")).otherwise(pl.lit("train")).alias("split"),
    )
