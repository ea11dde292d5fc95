"""The caption stage of a run, over a catalogue with a picture, a film, a loop, a sound and what is none of these."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.understand.fake import FakeCaptioner
from tests.understand.signals.films import animation, film, recording, scenes, siren

from captionary.captioning import Fetcher
from captionary.contract import DatasetSpec, Split, Task, write_table
from captionary.pipeline import run
from captionary.settings import DataConfig, RunConfig
from captionary.spec import write_spec
from captionary.understand.gate_audit import Audit, audit, read_forecast
from captionary.understand.gate_settings import GateConfig, Policy
from captionary.understand.media import MediaError
from captionary.understand.media_settings import MediaConfig
from captionary.understand.remote import RemoteConfig
from captionary.understand.signals.settings import SignalsConfig

pytest.importorskip("av", reason="the extra `video` is not installed")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    pictures = scenes(4)
    pictures[0].save(folder / "still.png")
    pictures[3].save(folder / "back.png")
    (folder / "film.mp4").write_bytes(film([(picture, 1.0) for picture in pictures[:3]], sound=siren(3.0)))
    (folder / "loop.gif").write_bytes(animation(pictures[1:3], "GIF"))
    (folder / "alarm.wav").write_bytes(recording(siren(3.0)))
    (folder / "notes.txt").write_text("no medium at all")
    media = [["still.png", "back.png"], ["film.mp4"], ["loop.gif"], ["alarm.wav"], ["notes.txt"], []]
    stamp = pa.timestamp("us", tz="UTC")
    n = len(media)
    items = pa.table(
        {
            "item_id": list(range(n)),
            "media": pa.array(media, pa.list_(pa.string())),
            "title": ["a still", "a film", "a loop", "an alarm", "some notes", "nothing"],
            "created_at": pa.array([None] * n, stamp),
        }
    )
    start = datetime(2026, 1, 1, tzinfo=UTC)
    times = pa.array([start + timedelta(hours=hour) for hour in range(4 * n)], stamp)
    rows = np.arange(4 * n)
    impressions = pa.table(
        {
            "impression_id": rows,
            "user_id": rows % 3,
            "item_id": rows % n,
            "timestamp": times,
            "like": rows % 2 == 0,
            "split": ["train"] * (2 * n) + ["eval"] * (2 * n),
        }
    )
    events = pa.table(
        {
            "user_id": rows % 3,
            "item_id": rows % n,
            "event": ["like"] * len(rows),
            "timestamp": times,
            "value": pa.array([None] * len(rows), pa.float64()),
        }
    )
    for name, table in (("items", items), ("impressions", impressions), ("events", events)):
        write_table(table, folder / f"{name}.parquet")
    write_spec(
        DatasetSpec(
            name="media",
            tasks=(Task(name="like"),),
            event_types=("like",),
            splits={"time": Split(column="split", kind="time")},
            default_split="time",
        ),
        folder,
    )
    return folder


def captioned(
    catalogue: Path, runs: Path, captioner: FakeCaptioner | None = None, **changes: object
) -> tuple[list[dict[str, object]], FakeCaptioner]:
    captioner = captioner or FakeCaptioner(vector_size=8, image_size=224)
    config = RunConfig(name="media", data=DataConfig(path=catalogue), runs=runs, **changes)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captionary.understand.captioner.load_captioner", lambda *_: captioner)
        run(config, "caption")
    return pq.read_table(config.folder / "captions" / "captions.parquet").to_pylist(), captioner


def test_every_kind_of_media_has_one_descriptor_with_its_origins(catalogue: Path, tmp_path: Path) -> None:
    rows, captioner = captioned(catalogue, tmp_path)
    still, moving, loop, alarm, notes, nothing = rows
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "ok", "failed", "skipped"]
    assert still["signals"] is None  # one caption: the captioner column says whose
    assert still["views"] == 1
    assert moving["views"] == 3
    assert loop["views"] == 2
    told = json.loads(str(alarm["signals"]))
    assert [signal["kind"] for signal in told] == ["sound"] * len(told)
    assert told[0]["origin"].startswith("sound")
    assert str(alarm["caption"]) == ", ".join(signal["text"] for signal in told)
    assert captioner.images == 1 + 3 + 2
    assert notes["reason"] == "not_an_image"
    assert nothing["reason"] == "no_media"


def test_a_second_run_decodes_and_captions_nothing(
    catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, captioner = captioned(catalogue, tmp_path)
    seen = captioner.images

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("captionary.understand.streams.perceive", refuse)
    rows, _ = captioned(
        catalogue, tmp_path, captioner, normalize=("lower",)
    )  # another stage, the same captions
    assert captioner.images == seen
    assert [row["status"] for row in rows][:4] == ["ok"] * 4


def test_all_entries_and_the_title_can_join_the_descriptor(catalogue: Path, tmp_path: Path) -> None:
    rows, _ = captioned(
        catalogue, tmp_path, media=MediaConfig(entries="all"), signals=SignalsConfig(title=True, sounds="")
    )
    assert rows[0]["views"] == 2
    assert str(rows[0]["caption"]).endswith("a still")
    kinds = [signal["kind"] for signal in json.loads(str(rows[0]["signals"]))]
    assert kinds == ["caption", "title"]
    assert (rows[3]["status"], rows[3]["reason"]) == ("skipped", "no_media")  # a sound that nobody listens to


def test_the_gate_leaves_items_out_with_its_reason(catalogue: Path, tmp_path: Path) -> None:
    rows, captioner = captioned(catalogue, tmp_path, gate=GateConfig(policy="random", items=2, lend=False))
    assert [row["reason"] for row in rows].count("gate_over_budget") == 4 - 2  # the alarm is no candidate
    assert (rows[3]["status"], rows[3]["views"]) == (
        "ok",
        None,
    )  # it is heard, and costs the captioner nothing
    assert rows[5]["reason"] == "no_media"
    assert captioner.images <= 3 + 2


@pytest.mark.parametrize("policy", ["always", "budget", "rules", "popular", "random"])
def test_a_limit_of_the_gate_holds_for_films_and_loops(
    catalogue: Path, tmp_path: Path, policy: Policy
) -> None:
    def spent(money: float, captioner: FakeCaptioner) -> tuple[int, Audit]:
        gate = GateConfig(policy=policy, price_per_item=1.0, money=money)
        before = captioner.images
        rows, _ = captioned(catalogue, tmp_path, captioner, gate=gate)
        none = np.zeros(0, np.int64)
        forecast = read_forecast(tmp_path / "media" / "gate" / "forecast.json")
        return captioner.images - before, audit(
            forecast, pa.Table.from_pylist(rows), none, none, price_per_item=1.0
        )

    images, booked = spent(5.0, FakeCaptioner(vector_size=8, image_size=224))
    assert 0 < images == booked.captions <= 5
    assert booked.money <= booked.forecast.money <= 5
    # All of them, each unfolded now; then the other captioner is asked for as many as are known to be there.
    captioned(catalogue, tmp_path)
    images, booked = spent(4.0, FakeCaptioner(vector_size=8, image_size=224, variant="2"))
    assert 0 < images == booked.captions <= 4
    assert booked.captions == (booked.forecast.captions or 0) - refused(booked)
    assert booked.forecast.bound == 0
    assert booked.money <= booked.forecast.money <= 4


def refused(booked: Audit) -> int:
    """What was chosen unread and is no picture: without the encoder's look, nobody knows."""
    return sum(booked.failed.values())


def test_remote_media_are_fetched_once_and_only_from_allowed_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)

    def fetched(uri: str, config: RemoteConfig) -> bytes:
        asked.append(uri)
        return picture.read_bytes()

    monkeypatch.setattr("captionary.captioning.fetch", fetched)
    find = Fetcher(RemoteConfig(allow=("https://pictures.example.com",)), tmp_path / "media")
    first = find("https://pictures.example.com/a.png", tmp_path)
    assert find("https://pictures.example.com/a.png", tmp_path) == first
    assert first.read_bytes() == picture.read_bytes()
    assert asked == ["https://pictures.example.com/a.png"]
    assert find("picture.png", tmp_path) == picture
    monkeypatch.undo()
    with pytest.raises(MediaError, match="allow"):
        find("https://elsewhere.example.com/a.png", tmp_path)
