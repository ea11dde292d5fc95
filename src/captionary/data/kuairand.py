"""KuaiRand-Pure: impressions of short videos with many kinds of engagement (Gao et al., CIKM 2022).

Source folder (columns that are read):
    interactions.parquet   user_id, video_id, time_ms, tab, is_click, long_view, is_like, is_follow,
                           is_comment, is_forward; like and long_watch (copies, compared where present)
    users.parquet          user_id, user_active_degree, is_video_author, *_range,
                           onehot_feat0, 1, 2, 6, 9, 10, 11
    items.parquet          video_id, author_id, video_type, upload_type, upload_dt_parsed, video_duration,
                           music_type, tag

Licence: CC BY-SA 4.0.

Decisions:
- No media: every item's list is empty, the captions stage has nothing to do.
- Tasks click, long_view, like, follow, comment, forward, each an event type too. is_hate is left out: it is
  as rare as the rarest of them, and an event of dislike would need a profile of another meaning.
- The same user, video and millisecond twice is one impression logged in two hourly reports; the two are
  merged, a label being 1 where either says so.
- The hour of the day comes from time_ms in Beijing time, never from `hourmin`: that is the hour of the
  report, which may be later than the impression and so tells of what came in between.
- An event has the time of its impression, although a like comes while the video plays: the next video has
  hardly ever begun by then. Impressions of one millisecond (one page) do not see each other's events.
- play_time_ms, *_stay_time, is_profile_enter, watch_ratio and finish are outcomes and left out.
  user_active_degree, the ranges and onehot_feat* are the publisher's snapshot of a user and may look ahead
  a little; all arms share them.
- Split `time`: impressions are ordered by time; the last eighth is eval, 7:1 as in the paper. Rows of one
  millisecond stay on one side.
- log_duration is log(1 + seconds); a picture set has no duration, hence 0.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from captionary.contract import Columns, DatasetSpec, Split, Task
from captionary.data.source import Type, events_of, publish, read_source, require
from captionary.errors import bad_value

__all__ = ["convert"]

TASKS = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "is_like",
    "follow": "is_follow",
    "comment": "is_comment",
    "forward": "is_forward",
}
COPIES = {"like": "is_like", "long_watch": "long_view"}
USER_COLUMNS: dict[str, Type] = {
    "user_active_degree": pl.String,
    "is_video_author": pl.Int64,
    "follow_user_num_range": pl.String,
    "fans_user_num_range": pl.String,
    "friend_user_num_range": pl.String,
    "register_days_range": pl.String,
    **{f"onehot_feat{index}": pl.Int64 for index in (0, 1, 2, 6, 9, 10, 11)},
}
TIME_ZONE = "Asia/Shanghai"


def convert(source: Path, out: Path) -> Path:
    """Write KuaiRand-Pure as a dataset directory; see the module for columns and decisions.

    Raises:
        CaptionaryError: a file or column is missing or wrong, labels contradict another, or `out` is taken.
    """
    require(source, ("interactions.parquet", "users.parquet", "items.parquet"), adapter="kuairand")
    impressions = _impressions(source)
    spec = DatasetSpec(
        name="kuairand",
        clock="time",
        time_zone=TIME_ZONE,
        tasks=tuple(Task(name=task) for task in TASKS),
        event_types=tuple(TASKS),
        context=Columns(categorical=("tab", "hour", *USER_COLUMNS)),
        item_features=Columns(
            categorical=("author_id", "tag", "music_type", "upload_type", "video_type"),
            numeric=("log_duration",),
        ),
        splits={"time": Split(column="split", kind="time")},
        default_split="time",
        license="CC BY-SA 4.0",
        source="KuaiRand-Pure (Gao et al. 2022), standard recommendation log",
    )
    return publish(out, spec, _items(source), events_of(impressions, TASKS), impressions)


def _items(source: Path) -> pl.DataFrame:
    columns: dict[str, Type] = {
        "video_id": pl.Int64,
        "author_id": pl.Int64,
        "video_type": pl.String,
        "upload_type": pl.String,
        "upload_dt_parsed": pl.Datetime("us"),
        "video_duration": pl.Float64,
        "music_type": pl.Int64,
        "tag": pl.String,
    }
    videos = read_source(source / "items.parquet", columns).sort("video_id")
    uploaded = pl.col("upload_dt_parsed").dt.replace_time_zone(TIME_ZONE).dt.convert_time_zone("UTC")
    return videos.select(
        pl.col("video_id").alias("item_id"),
        pl.lit([], pl.List(pl.String)).alias("media"),
        pl.lit(None, pl.String).alias("title"),
        uploaded.alias("created_at"),
        "author_id",
        "tag",
        "music_type",
        "upload_type",
        "video_type",
        (pl.col("video_duration").fill_null(0) / 1000).log1p().alias("log_duration"),
    )


def _impressions(source: Path) -> pl.DataFrame:
    path = source / "interactions.parquet"
    labels = list(TASKS.values())
    columns: dict[str, Type] = dict.fromkeys(("user_id", "video_id", "time_ms", "tab", *labels), pl.Int64)
    log = read_source(path, columns, optional=dict.fromkeys(COPIES, pl.Int64))
    for column in labels:
        wrong = log.filter(~pl.col(column).is_in([0, 1]).fill_null(False))[column]
        if len(wrong):
            raise bad_value(column, wrong[0], "0 or 1", where=f"{path}, {len(wrong)} rows")
    for copy in COPIES.keys() & set(log.columns):
        wrong = log.filter(pl.col(copy).ne_missing(pl.col(COPIES[copy])))[copy]
        if len(wrong):
            raise bad_value(copy, wrong[0], f"equal to {COPIES[copy]}", where=f"{path}, {len(wrong)} rows")
    users = read_source(source / "users.parquet", {"user_id": pl.Int64, **USER_COLUMNS})
    merged = (
        log.group_by("user_id", "video_id", "time_ms")
        .agg(pl.col("tab").min(), *(pl.col(column).max().cast(pl.Boolean) for column in labels))
        .sort("time_ms", "user_id", "video_id")
        .join(users, on="user_id", how="left", maintain_order="left")
    )
    timestamp = pl.from_epoch("time_ms", "ms").dt.cast_time_unit("us").dt.replace_time_zone("UTC")
    cut = merged["time_ms"][len(merged) * 7 // 8]
    return merged.select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("impression_id"),
        "user_id",
        pl.col("video_id").alias("item_id"),
        timestamp.alias("timestamp"),
        *(pl.col(column).alias(task) for task, column in TASKS.items()),
        "tab",
        timestamp.dt.convert_time_zone(TIME_ZONE).dt.hour().cast(pl.Int64).alias("hour"),
        *USER_COLUMNS,
        pl.when(pl.col("time_ms") >= cut).then(pl.lit("eval")).otherwise(pl.lit("train")).alias("split"),
    )
