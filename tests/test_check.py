"""Each rule of the contract broken once: the violation names file, column, row and rule; no other is said."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from tests.tiny_data import SECONDS, Tiny, naive

from captionary.check import violations


def test_a_right_data_set_has_no_violation(tmp_path: Path) -> None:
    assert violations(Tiny().write(tmp_path)) == []


BROKEN: list[tuple[str, Callable[[Tiny], object], list[str]]] = [
    (
        "missing column",
        lambda t: t.set("items", media=None),
        [
            "media == (absent), must be a column (list<string>); items.parquet; "
            "its columns are item_id, title, tags, genre, price",
        ],
    ),
    (
        "misspelt column",
        lambda t: t.set("events", user_id=None, userid=[7, 7, 8]),
        [
            "user_id == (absent), must be a column (int64 or string); events.parquet; did you mean userid?",
        ],
    ),
    (
        "missing column named in dataset.yaml",
        lambda t: t.set("impressions", hour=None),
        [
            "hour == (absent), must be a column (an integer, bool or string); "
            "impressions.parquet, named by dataset.yaml: context: categorical; "
            "its columns are impression_id, user_id, item_id, timestamp, like, rating, age, split, "
            "split_cold",
        ],
    ),
    (
        "float ids",
        lambda t: t.set("items", item_id=[1.0, 2.0, 3.0, 4.0]),
        ["item_id == double, must be int64 or string; items.parquet: column item_id"],
    ),
    (
        "media as string",
        lambda t: t.set("items", media=["a", "b", "c", "d"]),
        ["media == large_string, must be list<string>; items.parquet: column media"],
    ),
    (
        "timestamps as numbers",
        lambda t: t.set("events", timestamp=[1, 2, 3]),
        [
            "timestamp == int64, must be a timestamp with a time zone, timestamp[us, UTC] at best; "
            "events.parquet: column timestamp",
        ],
    ),
    (
        "timestamps without a zone",
        lambda t: t.set("impressions", timestamp=naive(t.impressions)),
        [
            "timestamp == timestamp[us] without a time zone, must be a timestamp with one; "
            "impressions.parquet: column timestamp; say whose clock it was, for instance polars' "
            ".dt.replace_time_zone('Europe/Paris')",
        ],
    ),
    (
        "string labels",
        lambda t: t.set("impressions", like=["yes", "no"] * 4),
        [
            "like == large_string, must be bool or a number; "
            "impressions.parquet: column like, named by dataset.yaml: tasks: like",
        ],
    ),
    (
        "float category",
        lambda t: t.set("items", genre=[1.0, 2.0, 3.0, 4.0]),
        [
            "genre == double, must be an integer, bool or string; "
            "items.parquet: column genre, named by dataset.yaml: item_features: categorical",
        ],
    ),
    ("no item", lambda t: setattr(t, "items", t.items.clear()), ["rows == 0, must be >= 1; items.parquet"]),
    (
        "no event",
        lambda t: setattr(t, "events", t.events.clear()),
        ["rows == 0, must be >= 1; events.parquet"],
    ),
    (
        "no impression",
        lambda t: setattr(t, "impressions", t.impressions.clear()),
        ["rows == 0, must be >= 1; impressions.parquet"],
    ),
    (
        "duplicated item",
        lambda t: setattr(t, "items", pl.concat([t.items, t.items[1:3]])),
        ["item_id == 2, must be unique; items.parquet: column item_id, row 4 and 1 other"],
    ),
    (
        "duplicated impression",
        lambda t: t.change("impressions", "impression_id", 5, 100),
        ["impression_id == 100, must be unique; impressions.parquet: column impression_id, row 5"],
    ),
    (
        "null item",
        lambda t: t.change("impressions", "item_id", 2, None),
        ["item_id == null, must be not null; impressions.parquet: column item_id, row 2"],
    ),
    (
        "null user",
        lambda t: t.set("events", user_id=pl.Series([None, 7, None], dtype=pl.Int64)),
        ["user_id == null, must be not null; events.parquet: column user_id, row 0 and 1 other"],
    ),
    (
        "null time",
        lambda t: t.change("events", "timestamp", 1, None),
        ["timestamp == null, must be not null; events.parquet: column timestamp, row 1"],
    ),
    (
        "null media",
        lambda t: t.change("items", "media", 1, None),
        [
            "media == null, must be not null; items.parquet: column media, row 1; "
            "write an empty list for an item without media",
        ],
    ),
    (
        "null in media",
        lambda t: t.change("items", "media", 2, ["3.png", None]),
        ["media == ['3.png', None], must be a list without nulls; items.parquet: column media, row 2"],
    ),
    (
        "dangling event",
        lambda t: t.change("events", "item_id", 2, 99),
        ["item_id == 99, must be an item_id of items; events.parquet: column item_id, row 2"],
    ),
    (
        "dangling impression",
        lambda t: t.change("impressions", "item_id", 6, 99),
        ["item_id == 99, must be an item_id of items; impressions.parquet: column item_id, row 6"],
    ),
    (
        "ids of two types",
        lambda t: t.set("impressions", user_id=["7"] * 8, item_id=["1", "2", "3", "4"] * 2),
        [
            "item_id == string, must be int64 as in items; impressions.parquet: column item_id",
            "user_id == string, must be int64 as in events; impressions.parquet: column user_id",
        ],
    ),
    (
        "NaN label",
        lambda t: t.change("impressions", "rating", 3, math.nan),
        [
            "rating == nan, must be a finite label or null; impressions.parquet: column rating, row 3; "
            "null says that nothing is known",
        ],
    ),
    (
        "NaN label without a threshold",
        lambda t: t.set("impressions", like=[0.0, math.nan, 1.0, 1.0] * 2),
        [
            "like == nan, must be a finite label or null; impressions.parquet: column like, row 1 and 1 other; "
            "null says that nothing is known",
        ],
    ),
    (
        "no label at all",
        lambda t: t.set("impressions", like=pl.Series([None] * 8, dtype=pl.Boolean)),
        [
            "like == null, must be known in one row at least; impressions.parquet: column like, row 0 and 7 "
            "others; drop the task",
        ],
    ),
    (
        "no label in the rows to evaluate on",
        lambda t: t.set("impressions", like=[True, False, True, None, True, False, True, None]),
        [
            "labels of eval rows == 0, must be >= 1; column like; split cold has none",
            "labels of eval rows == 0, must be >= 1; column like; split warm has none",
        ],
    ),
    (
        "negative amount",
        lambda t: (t.spec["tasks"].append(SECONDS), t.set("impressions", seconds=[1.0, -2.0, None, 0.0] * 2)),
        ["seconds == -2.0, must be >= 0 or null; impressions.parquet: column seconds, row 1 and 1 other"],
    ),
    (
        "bool as an amount",
        lambda t: (t.spec["tasks"].append(SECONDS), t.set("impressions", seconds=[True, False] * 4)),
        [
            "seconds == bool, must be a number; impressions.parquet: column seconds, named by dataset.yaml: "
            "tasks: seconds",
        ],
    ),
    (
        "label neither 0 nor 1",
        lambda t: t.set("impressions", like=[0, 1, 0, 1, 2, 1, 0, -1]),
        [
            "like == 2, must be 0, 1 or null; impressions.parquet: column like, row 4 and 1 other; "
            "or say in dataset.yaml from which value on it is 1 (at), or that it is an amount (kind)",
        ],
    ),
    (
        "infinite feature",
        lambda t: t.change("impressions", "age", 1, math.inf),
        ["age == inf, must be finite or null; impressions.parquet: column age, row 1"],
    ),
    (
        "NaN event value",
        lambda t: t.change("events", "value", 1, math.nan),
        ["value == nan, must be finite or null; events.parquet: column value, row 1"],
    ),
    (
        "event that never occurs",
        lambda t: t.spec.update(event_types=["like", "shares"]),
        [
            "event_types == shares, must be share (did you mean that?) or one of like, share; dataset.yaml; "
            "events.parquet has no such event",
        ],
    ),
    (
        "unknown side of a split",
        lambda t: t.change("impressions", "split", 2, "test\n"),
        ["split == 'test\\n', must be train, eval or null; impressions.parquet: column split, row 2"],
    ),
    (
        "split without eval",
        lambda t: t.set("impressions", split=["train"] * 8),
        ["eval rows == 0, must be >= 1; impressions.parquet: column split; split warm has none"],
    ),
    (
        "split of nulls",
        lambda t: t.set("impressions", split=pl.Series([None] * 8, dtype=pl.String)),
        [
            "train rows == 0, must be >= 1; impressions.parquet: column split; split warm has none",
            "eval rows == 0, must be >= 1; impressions.parquet: column split; split warm has none",
        ],
    ),
    (
        "eval item in train",
        lambda t: t.change("impressions", "split_cold", 7, "train"),
        [
            "item_id == 4, must be in eval rows or in train rows, not in both (split cold is of kind items); "
            "impressions.parquet: column item_id, row 7",
        ],
    ),
    (
        "truth that is no probability",
        lambda t: setattr(
            t,
            "truth",
            pl.DataFrame({"impression_id": range(100, 108), "like": [0.5] * 7 + [1.5], "love": [0.5] * 8}),
        ),
        ["like == 1.5, must be a probability; truth/impressions.parquet: column like, rows: 1"],
    ),
    (
        "truth of other impressions",
        lambda t: setattr(
            t, "truth", pl.DataFrame({"impression_id": range(101, 109), "like": [0.5] * 8, "love": [0.5] * 8})
        ),
        ["impression_id == other ids, must be those of impressions, once each; truth/impressions.parquet"],
    ),
    (
        "truth without a task",
        lambda t: setattr(t, "truth", pl.DataFrame({"impression_id": range(100, 108), "like": [0.5] * 8})),
        ["love == (absent), must be a column of the truth; truth/impressions.parquet"],
    ),
]


@pytest.mark.parametrize(("harm", "lines"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_rule_is_said_with_its_place(
    tmp_path: Path, harm: Callable[[Tiny], object], lines: list[str]
) -> None:
    tiny = Tiny()
    harm(tiny)
    found = violations(tiny.write(tmp_path))
    assert found == lines


RIGHT: list[tuple[str, Callable[[Tiny], object]]] = [
    (
        "no title, no created_at, no value",
        lambda t: t.drop(items="title", events="value"),
    ),
    (
        "string ids",
        lambda t: t.cast("item_id", pl.String, "items", "events", "impressions"),
    ),
    ("int32 ids", lambda t: t.cast("item_id", pl.Int32, "events")),
    ("dictionary columns", lambda t: t.cast("event", pl.Categorical, "events")),
    (
        "another zone",
        lambda t: t.set("events", timestamp=t.events["timestamp"].dt.convert_time_zone("Asia/Tokyo")),
    ),
    ("nanoseconds", lambda t: t.set("events", timestamp=t.events["timestamp"].dt.cast_time_unit("ns"))),
    ("null labels", lambda t: t.change("impressions", "like", 4, None)),
    (
        "amounts with gaps",
        lambda t: (
            t.spec["tasks"].append(SECONDS),
            t.set("impressions", seconds=[1.5, None, 0.0, 900.0] * 2),
        ),
    ),
    ("0 and 1 as label", lambda t: t.set("impressions", like=[0, 1] * 4)),
    ("0.0 and 1.0 as label", lambda t: t.set("impressions", like=[0.0, 1.0] * 4)),
    ("no media at all", lambda t: t.set("items", media=pl.Series([[]] * 4, dtype=pl.List(pl.Null)))),
    ("no title in any row", lambda t: t.set("items", title=pl.Series([None] * 4, dtype=pl.Null))),
    ("eval before train", lambda t: t.set("impressions", split=["eval", *["train"] * 7])),
    (
        "truth in another order",
        lambda t: setattr(
            t,
            "truth",
            pl.DataFrame({"impression_id": range(107, 99, -1), "like": [0.5] * 8, "love": [1.0] * 8}),
        ),
    ),
]


@pytest.mark.parametrize("vary", [case[1] for case in RIGHT], ids=[case[0] for case in RIGHT])
def test_what_the_contract_allows(tmp_path: Path, vary: Callable[[Tiny], object]) -> None:
    tiny = Tiny()
    vary(tiny)
    assert violations(tiny.write(tmp_path)) == []
