"""The data set as its readers see it: plain types, labels, fingerprints, media; and tables written whole."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionary.contract import (
    Dataset,
    DatasetSpec,
    Split,
    Task,
    media_uri,
    open_dataset,
    write_spec,
    write_table,
)
from captionary.errors import CaptionaryError

UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")
NOON_IN_TOKYO = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=9)))
SPEC = DatasetSpec(
    name="tiny",
    tasks=(Task(name="like"), Task(name="love", column="rating", at=5), Task(name="bad", column="low")),
    splits={"warm": Split(column="split")},
    default_split="warm",
    event_types=("like",),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set in types that other libraries write: dictionaries, large strings, int32, nanoseconds."""
    root = tmp_path / "set"
    tokyo = pa.array([NOON_IN_TOKYO] * 3, pa.timestamp("ns", tz="Asia/Tokyo"))
    ids = pa.array([5, 6, 5], pa.int32())
    items = {
        "item_id": pa.array([5, 6], pa.int16()),
        "media": pa.array([["a b.png"], []], pa.large_list(pa.large_string())),
        "genre": pa.array(["x", "y"]).dictionary_encode(),
    }
    events = {
        "user_id": pa.array(["u", "v", "u"], pa.large_string()),
        "item_id": ids,
        "event": pa.array(["like"] * 3).dictionary_encode(),
        "timestamp": tokyo,
        "value": pa.array([1, None, 3], pa.int8()),
    }
    impressions = {
        "impression_id": pa.array([1, 2, 3], pa.int32()),
        "user_id": pa.array(["u", "v", "u"]).dictionary_encode(),
        "item_id": ids,
        "timestamp": tokyo,
        "like": pa.array([True, False, True]),
        "rating": pa.array([5, 4, 1], pa.int8()),
        "low": pa.array([0.0, 1.0, 1.0]),
        "split": pa.array(["train", "train", "eval"]),
    }
    for name, columns in (("items", items), ("events", events), ("impressions", impressions)):
        write_table(pa.table(columns), root / f"{name}.parquet")
    write_spec(SPEC, root)
    return root


def test_tables_are_read_in_plain_types(root: Path) -> None:
    dataset = open_dataset(root)
    assert dict(zip(dataset.items().column_names, dataset.items().schema.types, strict=True)) == {
        "item_id": pa.int64(),
        "media": pa.list_(pa.string()),
        "genre": pa.string(),
        "title": pa.string(),
        "created_at": UTC_MICROSECONDS,
    }
    assert dict(zip(dataset.events().column_names, dataset.events().schema.types, strict=True)) == {
        "user_id": pa.string(),
        "item_id": pa.int64(),
        "event": pa.string(),
        "timestamp": UTC_MICROSECONDS,
        "value": pa.float64(),
    }
    assert dataset.items()["title"].to_pylist() == [None, None]
    assert dataset.events()["value"].to_pylist() == [1.0, None, 3.0]
    assert dataset.impressions()["timestamp"][0].as_py() == datetime(2024, 1, 1, 12 - 9, tzinfo=UTC)


def test_columns_are_read_in_the_order_asked_for(root: Path) -> None:
    dataset = open_dataset(root)
    assert dataset.impressions(["split", "item_id"]).column_names == ["split", "item_id"]
    assert dataset.items(["created_at", "item_id"]).column_names == ["created_at", "item_id"]
    with pytest.raises(CaptionaryError, match=r"column == ratng, must be rating \(did you mean that\?\)"):
        dataset.impressions(["item_id", "ratng"])


def test_labels_follow_the_tasks(root: Path) -> None:
    dataset = open_dataset(root)
    labels = dataset.labels(dataset.impressions())
    # like as it is; love where rating 5, 4, 1 is >= 5; bad as it is
    assert labels.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 1]]
    assert labels.dtype == np.float32
    with pytest.raises(
        CaptionaryError, match="column == rating, must be among the impressions' columns; task love"
    ):
        dataset.labels(dataset.impressions(["like", "low"]))


def test_missing_labels_are_nan_and_amounts_are_themselves(root: Path) -> None:
    tasks = (*SPEC.tasks[:2], Task(name="seconds", column="low", kind="huber_log"))
    write_spec(dataclasses.replace(SPEC, tasks=tasks), root)
    table = pq.read_table(root / "impressions.parquet")
    for name, values in (("like", [True, None, False]), ("rating", [None, 5, 4]), ("low", [7.5, None, 0.0])):
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    write_table(table, root / "impressions.parquet")
    dataset = open_dataset(root)
    found = dataset.labels(dataset.impressions())
    np.testing.assert_array_equal(found, [[1, np.nan, 7.5], [np.nan, 1, np.nan], [0, 0, 0]])


def test_shards_are_read_in_name_order(root: Path) -> None:
    whole = open_dataset(root).impressions()
    (root / "impressions.parquet").unlink()
    write_table(whole[2:], root / "impressions" / "b.parquet")
    write_table(whole[:2], root / "impressions" / "a.parquet")
    (root / "impressions" / ".c.parquet").write_text("not a shard: hidden")
    assert open_dataset(root).impressions().equals(whole)


def test_a_path_that_looks_like_a_partition_adds_no_column(root: Path, tmp_path: Path) -> None:
    moved = tmp_path / "day=1"
    shutil.copytree(root, moved)
    assert "day" not in open_dataset(moved).items().column_names


def test_truth_is_read_where_there_is_any(root: Path) -> None:
    assert open_dataset(root).truth() is None
    truth = {
        "impression_id": [1, 2, 3],
        "like": [0.1] * 3,
        "love": [0.2] * 3,
        "bad": [0.3] * 3,
        "more": [0] * 3,
    }
    write_table(pa.table(truth), root / "truth" / "impressions.parquet")
    table = open_dataset(root).truth()
    assert table is not None
    assert table.column_names == ["impression_id", "like", "love", "bad"]


def test_the_fingerprint_is_of_contents_and_not_of_the_place(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    assert open_dataset(tmp_path / "copy").fingerprint() == open_dataset(root).fingerprint()
    os.utime(root / "items.parquet", (0, 0))
    assert open_dataset(tmp_path / "copy").fingerprint() == open_dataset(root).fingerprint()
    (root / ".hidden").write_text("marks and temporary files do not count")
    assert open_dataset(tmp_path / "copy").fingerprint() == open_dataset(root).fingerprint()


FILES = ["items.parquet", "events.parquet", "impressions.parquet", "dataset.yaml", "images/a.png"]


@pytest.mark.parametrize("name", FILES)
def test_the_fingerprint_follows_each_file(root: Path, name: str) -> None:
    (root / "images").mkdir()
    (root / "images" / "a.png").write_bytes(b"picture")
    before = Dataset(root, SPEC).fingerprint()
    stat = (root / name).stat()
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(
        root / name, ns=(stat.st_atime_ns, stat.st_mtime_ns)
    )  # of the same size, and pretending the same age
    assert Dataset(root, SPEC).fingerprint() != before
    (root / name).write_bytes(content)
    assert Dataset(root, SPEC).fingerprint() == before
    if name == "images/a.png":  # a table that is away is an error
        (root / name).rename(root / "images" / "b.png")
        assert Dataset(root, SPEC).fingerprint() != before


def test_media_paths(root: Path, tmp_path: Path) -> None:
    dataset = Dataset(root, SPEC)
    assert dataset.media_path("images/a b.png") == root / "images/a b.png"
    assert dataset.media_path("odd%20name:#1?.png") == root / "odd%20name:#1?.png"
    assert dataset.media_path(str(tmp_path / "x.png")) == tmp_path / "x.png"
    assert dataset.media_path("file:///pictures/a%20b.png") == Path("/pictures/a b.png")
    for uri in ("s3://bucket/a.png", "HTTP://[::1/a.png"):
        with pytest.raises(CaptionaryError, match="must be a local path or a file: URI"):
            dataset.media_path(uri)
    for path in (root / "images" / "a.png", tmp_path / "elsewhere.png"):
        assert dataset.media_path(media_uri(path, root)) == path
    assert media_uri(root / "images" / "a.png", root) == "images/a.png"
    assert media_uri(tmp_path / "elsewhere.png", root) == str(tmp_path / "elsewhere.png")


def test_batches_are_written_as_one_table(tmp_path: Path) -> None:
    batches = (pa.record_batch({"a": [i, i]}) for i in range(3))
    assert pq.read_table(write_table(batches, tmp_path / "a.parquet"))["a"].to_pylist() == [0, 0, 1, 1, 2, 2]
    write_table(iter([]), tmp_path / "b.parquet", pa.schema({"a": pa.int64()}))
    assert pq.read_table(tmp_path / "b.parquet").num_rows == 0
    with pytest.raises(CaptionaryError, match="batches == none, must be at least one, or a schema given"):
        write_table(iter([]), tmp_path / "c.parquet")


def test_a_table_whose_source_fails_is_not_there(tmp_path: Path) -> None:
    def failing() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"a": [1]})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_table(failing(), tmp_path / "a.parquet")
    assert os.listdir(tmp_path) == []
