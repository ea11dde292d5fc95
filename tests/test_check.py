"""Each rule of the contract broken once: the violation names file, column, row and rule; no other is said."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from captionary.check import violations
from captionary.contract import check_dataset, open_dataset
from captionary.errors import CaptionaryError

START = datetime(2024, 1, 1, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "name": "tiny",
    "tasks": [{"name": "like"}, {"name": "love", "column": "rating", "at": 5}],
    "event_types": ["like"],
    "context": {"categorical": ["hour"], "numeric": ["age"]},
    "item_features": {"categorical": ["genre"], "numeric": ["price"]},
    "text": ["title", "tags"],
    "splits": {"warm": {"column": "split"}, "cold": {"column": "split_cold", "kind": "items"}},
    "default_split": "warm",
}
SECONDS = {"name": "seconds", "kind": "weighted_logistic"}


class Tiny:
    """A data set that keeps every rule, to be broken: 4 items, 3 events, 8 impressions."""

    def __init__(self) -> None:
        self.spec = yaml.safe_load(yaml.safe_dump(SPEC))
        self.items = pl.DataFrame(
            {
                "item_id": [1, 2, 3, 4],
                "media": [["1.png"], [], ["3.png", "3b.png"], ["4.png"]],
                "title": ["one", None, "three", "four"],
                "tags": [["a"], ["a", "b"], [], ["c"]],
                "genre": ["x", "y", None, "x"],
                "price": [1.0, None, 3.0, 4.0],
            }
        )
        self.events = pl.DataFrame(
            {
                "user_id": [7, 7, 8],
                "item_id": [1, 2, 1],
                "event": ["like", "share", "like"],
                "timestamp": [START + timedelta(days=d) for d in range(3)],
                "value": [0.5, None, 1.0],
            }
        )
        self.impressions = pl.DataFrame(
            {
                "impression_id": list(range(100, 108)),
                "user_id": [7, 7, 7, 7, 8, 8, 8, 8],
                "item_id": [1, 2, 3, 4, 1, 2, 3, 4],
                "timestamp": [START + timedelta(days=d) for d in range(8)],
                "like": [True, False] * 4,
                "rating": [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 1.0, 2.0],
                "hour": [0, 1, 2, 3, 4, None, 6, 7],
                "age": [20.0, 20.0, 20.0, 20.0, None, 30.0, 30.0, 30.0],
                "split": ["train", "train", "train", "eval", "train", "train", None, "eval"],
                "split_cold": ["train", "train", "train", "eval"] * 2,
            }
        )
        self.truth: pl.DataFrame | None = None

    def set(self, table: str, **columns: Any) -> None:
        """Replace columns by lists or series; drop a column where None."""
        frame = getattr(self, table).drop([name for name, values in columns.items() if values is None])
        new = [pl.Series(name, values) for name, values in columns.items() if values is not None]
        setattr(self, table, frame.with_columns(new))

    def change(self, table: str, column: str, row: int, value: Any) -> None:
        """Replace one cell."""
        values = getattr(self, table)[column].to_list()
        values[row] = value
        self.set(table, **{column: pl.Series(column, values, getattr(self, table)[column].dtype)})

    def drop(self, **columns: str) -> None:
        """Drop one column of each table named."""
        for table, column in columns.items():
            self.set(table, **{column: None})

    def cast(self, column: str, dtype: Any, *tables: str) -> None:
        """Store a column as another type."""
        for table in tables:
            setattr(self, table, getattr(self, table).with_columns(pl.col(column).cast(dtype)))

    def write(self, root: Path) -> Path:
        root.mkdir(exist_ok=True)
        (root / "dataset.yaml").write_text(yaml.safe_dump(self.spec))
        for name in ("items", "events", "impressions"):
            getattr(self, name).write_parquet(root / f"{name}.parquet")
        if self.truth is not None:
            (root / "truth").mkdir()
            self.truth.write_parquet(root / "truth" / "impressions.parquet")
        return root


def test_a_right_data_set_has_no_violation(tmp_path: Path) -> None:
    assert violations(Tiny().write(tmp_path)) == []


def naive(frame: pl.DataFrame) -> pl.Series:
    return frame["timestamp"].dt.replace_time_zone(None)


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
