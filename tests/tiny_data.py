"""A small data set that keeps every rule of the contract, for tests to break."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import yaml

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


def naive(frame: pl.DataFrame) -> pl.Series:
    return frame["timestamp"].dt.replace_time_zone(None)
