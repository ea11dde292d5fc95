from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import captionary.world.market as market
from captionary.contract import Dataset, check_dataset, open_dataset
from captionary.errors import CaptionaryError
from captionary.evidence.metrics import auc
from captionary.world.catalogue import draw_catalogue
from captionary.world.grammar import facts
from captionary.world.market import World, make_world
from captionary.world.settings import WorldConfig
from captionary.world.tasks import TASKS

TINY = WorldConfig.tiny(broken_media=3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(make_world(TINY, tmp_path_factory.mktemp("world") / "tiny"))


def test_it_fulfils_the_contract(tiny: Dataset) -> None:
    assert check_dataset(tiny.root) == []
    assert tiny.items().num_rows == 60 + 3
    assert tiny.impressions().num_rows == 2_000
    assert [task.name for task in tiny.spec.tasks] == [
        "comment",
        "like",
        "share",
        "time_spent",
        "consumption",
    ]
    assert set(tiny.spec.event_types) == {"like", "comment", "share", "complete"}


def test_media_lie_where_items_say_and_one_is_missing(tiny: Dataset) -> None:
    paths = [tiny.media_path(media[0]) for media in tiny.items()["media"].to_pylist()]
    assert [path.is_file() for path in paths] == [True] * 63  # three damages: corrupt, truncated, text
    assert len(set(paths)) == 63


def test_titles_say_nothing(tiny: Dataset) -> None:
    items = pl.from_arrow(tiny.items())
    titled = items.drop_nulls("title")
    assert 0 < len(titled) < 0.6 * len(items)
    assert (titled["title"] == "Post " + titled["item_id"].cast(pl.String)).all()


def test_nothing_is_shown_before_it_came_in(tiny: Dataset) -> None:
    log = pl.from_arrow(tiny.impressions()).join(pl.from_arrow(tiny.items()), on="item_id")
    assert (log["timestamp"] > log["created_at"]).all()
    assert (log["hour"] == log["timestamp"].dt.hour()).all()


def test_the_last_eighth_of_the_days_is_for_evaluation(tiny: Dataset) -> None:
    log = pl.from_arrow(tiny.impressions())
    assert log["timestamp"].is_sorted()
    assert log["impression_id"].to_list() == list(range(2_000))
    days = log.group_by("split").agg(pl.col("timestamp").dt.date().n_unique())
    assert dict(days.iter_rows()) == {"train": 14, "eval": 2}
    ends = log.group_by("split").agg(pl.min("timestamp").alias("first"), pl.max("timestamp").alias("last"))
    split = {row["split"]: row for row in ends.iter_rows(named=True)}
    assert split["train"]["last"] < split["eval"]["first"]


def test_events_are_the_positive_responses_a_little_later(tiny: Dataset) -> None:
    log, events = pl.from_arrow(tiny.impressions()), pl.from_arrow(tiny.events())
    for event, column in (
        ("like", "like"),
        ("comment", "comment"),
        ("share", "share"),
        ("complete", "consumption"),
    ):
        positive = log.filter(column)
        happened = events.filter(pl.col("event") == event)
        assert len(happened) == len(positive)
        later = happened.join_asof(
            positive, on="timestamp", by=["user_id", "item_id"], suffix="_shown",
            coalesce=False, check_sortedness=False,
        )  # fmt: skip
        delay = (later["timestamp"] - later["timestamp_shown"]).dt.total_milliseconds()
        assert delay.null_count() == 0
        assert delay.min() >= 1_000
        assert delay.median() < 60_000
    assert events["value"].is_between(0, 1).all()
    assert (events.filter(pl.col("event") == "complete")["value"] == 1).all()


def test_the_truth_is_beside_the_log(tiny: Dataset) -> None:
    truth = tiny.truth()
    assert truth is not None
    assert truth["impression_id"].to_pylist() == tiny.impressions()["impression_id"].to_pylist()
    scenes = draw_catalogue(TINY).scenes
    rows = pq.read_table(tiny.root / "truth" / "items.parquet").to_pylist()
    assert rows == [{"item_id": row} | facts(scenes, row) for row in range(63)]


def test_the_same_config_writes_the_same_bytes_and_another_seed_others(tiny: Dataset, tmp_path: Path) -> None:
    again = open_dataset(make_world(TINY, tmp_path / "again"))
    assert again.fingerprint() == tiny.fingerprint()
    other = open_dataset(make_world(WorldConfig.tiny(broken_media=3, seed=1), tmp_path / "other"))
    names = ("items", "events", "impressions")
    assert not any(getattr(other, name)().equals(getattr(tiny, name)()) for name in names)
    assert not other.impressions()["timestamp"].equals(tiny.impressions()["timestamp"])  # nor the same visits


def test_a_log_of_many_files_is_the_same_log(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market, "_SHARD", 300)
    many = open_dataset(make_world(TINY, tmp_path / "many"))
    assert len(list((many.root / "impressions").iterdir())) > 4
    for name in ("events", "impressions", "truth"):
        assert getattr(many, name)().equals(getattr(tiny, name)())


def test_memory_does_not_grow_with_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market, "_CHUNK", 1_000)
    config = WorldConfig.tiny(pictures=False, impressions=40_000)
    rows = [part.impressions.num_rows for part in World(config).log()]
    assert sum(rows) == 40_000
    assert max(rows) <= 1_000


def test_items_need_no_pictures(tmp_path: Path) -> None:
    data = open_dataset(make_world(WorldConfig.tiny(pictures=False), tmp_path / "bare"))
    assert data.items()["media"].to_pylist() == [[]] * 60
    assert not (data.root / "media").exists()


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(CaptionaryError, match="thesis"):
        make_world(WorldConfig.tiny(pictures=False), tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.fixture(scope="module")
def logs() -> dict[float, tuple[World, pa.Table, np.ndarray, np.ndarray]]:
    """What only shows in a world of some size: a log for each strength."""
    logs = {}
    for strength in (0.0, 1.0, 2.0):
        config = WorldConfig(
            pictures=False, users=1_500, items=1_000, impressions=75_000, semantic_strength=strength
        )
        world = World(config)
        parts = list(world.log())
        log = pa.concat_tables(part.impressions for part in parts)
        labels = [log[t.name].to_numpy() >= (t.at or 1) for t in TASKS]
        truth = pa.concat_tables(part.truth for part in parts)
        logs[strength] = (
            world,
            log,
            np.stack(labels, axis=1).astype(np.float32),
            np.stack([truth[task.name].to_numpy() for task in TASKS], axis=1),
        )
    return logs


def test_base_rates_hold_at_every_strength(logs: dict[float, Any]) -> None:
    rates = [task.base_rate for task in TASKS]
    for _, _, labels, _ in logs.values():
        np.testing.assert_allclose(labels.mean(0), rates, rtol=0.2)


def test_the_truth_is_calibrated(logs: dict[float, Any]) -> None:
    for _, _, labels, truth in logs.values():
        sigma = np.sqrt((truth * (1 - truth)).sum(0))
        assert (np.abs(labels.sum(0) - truth.sum(0)) < 4 * sigma).all()


def test_strength_is_what_the_oracle_knows_beyond_users_and_items(logs: dict[float, Any]) -> None:
    oracle, without = {}, {}
    for strength, (world, log, labels, truth) in logs.items():
        user, item = log["user_id"].to_numpy(), log["item_id"].to_numpy()
        biases = world.users.bias[user] + world.catalogue.quality[item]
        oracle[strength] = np.mean([auc(labels[:, t], truth[:, t]) for t in range(len(TASKS))])
        without[strength] = np.mean([auc(labels[:, t], biases[:, t]) for t in range(len(TASKS))])
    # Pages, hours and devices are in the oracle too, and worth little.
    assert 0 < oracle[0.0] - without[0.0] < 0.04
    assert 0.72 < oracle[1.0] < 0.78
    assert oracle[1.0] - without[1.0] > 0.08
    assert oracle[2.0] > oracle[1.0] + 0.05


def test_new_items_take_a_good_part_of_the_evaluation(logs: dict[float, Any]) -> None:
    log = pl.from_arrow(logs[1.0][1]).with_columns(pl.col("split").cast(pl.String))
    seen = log.filter(pl.col("split") == "train")["item_id"].unique()
    new = ~log.filter(pl.col("split") == "eval")["item_id"].is_in(seen.implode())
    assert 0.12 < new.mean() < 0.28
    assert log["split"].value_counts().sort("split")["count"].to_list()[0] / len(log) == pytest.approx(
        1 / 8, abs=0.02
    )
