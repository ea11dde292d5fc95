from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.represent.profile_logs import IDF, ITEMS, TOKENS, capped

from captionary.errors import CaptionaryError
from captionary.represent import parquet as module
from captionary.represent.parquet import build_parquet
from captionary.represent.profiles import build_profiles
from captionary.represent.tables import read_profiles

N = 4000


def log(rng: np.random.Generator, shuffled: float) -> tuple[pa.Table, pa.Table]:
    """Events and impressions in order of time, apart from some jitter."""
    times = np.sort(rng.integers(0, 30 * 86_400_000_000, N))
    events = pa.table(
        {
            "user_id": rng.integers(0, 60, N),
            "item_id": pa.array(rng.choice([*ITEMS, "gone"], N)),
            "event": pa.array(rng.choice(["like", "share", "other"], N)).dictionary_encode(),
            "timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            "value": rng.random(N),
        }
    )
    reads = pa.table(
        {
            "impression_id": np.arange(N),
            "user_id": rng.integers(0, 70, N),
            "timestamp": pa.array(rng.permutation(times), pa.timestamp("us", "UTC")),  # ties with events
        }
    ).sort_by("timestamp")
    order = np.argsort(np.arange(N) + shuffled * rng.random(N))
    return events.take(order), reads.take(order)


@pytest.mark.parametrize("shuffled", [0, 300, 1e9])
@pytest.mark.parametrize("caps", [{}, {"last_events": 4, "last_days": 3.0, "per_item": 2}])
def test_parquet_gives_what_tables_in_memory_give(
    tmp_path: Path, shuffled: float, caps: dict[str, Any]
) -> None:
    events, reads = log(np.random.default_rng(1), shuffled)
    config = capped(caps)
    expected = build_profiles(events, reads, ITEMS, TOKENS, config, IDF)
    for part in range(2):  # two shards each, the first of them later than the second
        half = slice(N // 2, N) if part == 0 else slice(0, N // 2)
        rows = np.arange(N)[half]
        pq.write_table(events.take(rows), tmp_path / f"events{part}.parquet", row_group_size=300)
        # Without statistics, the timestamps themselves say when a row group begins.
        pq.write_table(
            reads.take(rows),
            tmp_path / f"reads{part}.parquet",
            row_group_size=170,
            write_statistics=part == 0,
        )
    built = build_parquet(
        [tmp_path / "events0.parquet", tmp_path / "events1.parquet"],
        [tmp_path / "reads0.parquet", tmp_path / "reads1.parquet"],
        ITEMS, TOKENS, config, tmp_path / "out", IDF, threads=2, step=1000,
    )  # fmt: skip
    assert (built.events, built.impressions) == (N, N)
    assert built.steps >= (5 if shuffled == 0 else 1)
    ids, profiles = read_profiles(tmp_path / "out")
    place = np.argsort(ids.to_numpy())
    back = np.argsort(reads["impression_id"].to_numpy())
    for event, one in expected.items():
        found, wanted = profiles[event].lists.take(place), one.lists.take(back)
        assert np.array_equal(found.values, wanted.values)
        assert np.array_equal(found.offsets, wanted.offsets)
        assert np.array_equal(found.weights, wanted.weights)  # type: ignore[arg-type]
        assert np.array_equal(profiles[event].mass[place], one.mass[back])
        assert built.lists[event] < N


def test_rows_are_held_only_as_long_as_they_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events, reads = log(np.random.default_rng(2), 0)
    pq.write_table(events, tmp_path / "events.parquet", row_group_size=100)
    pq.write_table(reads, tmp_path / "reads.parquet", row_group_size=100)
    held = []
    read = module._Rows.read
    monkeypatch.setattr(module._Rows, "read", lambda self: (read(self), held.append(self.held)))
    paths = [tmp_path / "events.parquet"], [tmp_path / "reads.parquet"]
    build_parquet(*paths, ITEMS, TOKENS, capped({}), tmp_path / "out", step=400)
    assert max(held) <= 400


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    events, reads = log(np.random.default_rng(3), 0)
    pq.write_table(events, tmp_path / "events.parquet")
    pq.write_table(reads.drop_columns(["impression_id"]), tmp_path / "reads.parquet")
    (tmp_path / "none.parquet").write_text("nothing")
    for files, message in (
        (([], ["reads"]), "events == no files, must be at least one"),
        ((["events"], ["reads"]), "must be with impression_id among them"),
        ((["none"], ["reads"]), "must be readable Parquet"),
    ):
        paths = [[tmp_path / f"{name}.parquet" for name in names] for names in files]
        with pytest.raises(CaptionaryError, match=message):
            build_parquet(*paths, ITEMS, TOKENS, capped({}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
