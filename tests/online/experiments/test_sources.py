"""Events of a data set and of the service's own log: the same tables."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from captionary.errors import CaptionaryError
from captionary.online.experiments.sources import dataset_log, open_events
from captionary.world.market import WorldConfig, make_world


def test_a_data_set(tmp_path: Path) -> None:
    root = make_world(WorldConfig.tiny(pictures=False), tmp_path / "world")
    log = open_events(str(root))
    assert log.impressions.num_rows == 2000
    assert set(log.events.column_names) == {"user_id", "event", "timestamp", "value"}
    assert log.requests is None
    for path in (root / "impressions").iterdir():
        path.unlink()
    (root / "impressions").rmdir()
    assert dataset_log(root).impressions is None


def test_the_services_log(tmp_path: Path) -> None:
    pytest.importorskip("msgspec", reason="messages of the durable log are msgspec structs")
    from captionary.online.log import EVENTS, EventMessage, event_draft, open_log

    url = str(tmp_path / "log.sqlite")
    log = open_log(url)
    messages = [
        EventMessage(user_id=user, item_id=1, event="like", timestamp=10**6 * at, value=value)
        for user, at, value in ((7, 3, None), ("anna", 5, 2.0), ("late", 9, None))
    ]
    log.append(EVENTS, [event_draft(message, f"key {at}") for at, message in enumerate(messages)])
    taken = log.take(EVENTS, "worker", most=2)
    log.done(EVENTS, [entry.position for entry in taken], 1)
    log.close()
    events = open_events(url).events
    # What no worker has taken yet is not there yet.
    assert events["user_id"].to_list() == ["7", "anna"]
    assert events["timestamp"].dt.epoch("us").to_list() == [3_000_000, 5_000_000]
    assert events["value"].to_list() == [None, 2.0]


def test_requests_are_a_file_or_a_folder(tmp_path: Path) -> None:
    root = make_world(WorldConfig.tiny(pictures=False), tmp_path / "world")
    folder = tmp_path / "requests"
    folder.mkdir()
    for name in "ab":
        pl.DataFrame({"user_id": ["1"]}).write_parquet(folder / f"{name}.parquet")
    assert dataset_log(root, folder).requests.num_rows == 2
    assert dataset_log(root, folder / "a.parquet").requests.num_rows == 1
    with pytest.raises(CaptionaryError, match="a Parquet file or a folder of them"):
        dataset_log(root, tmp_path)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match="a data set's folder"):
        dataset_log(tmp_path / "none")
    with pytest.raises(CaptionaryError, match="or the durable log of the service"):
        open_events(str(tmp_path / "none"))
