"""Uploads and events from the log to the store: made once, seen at once, given up with a reason."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lmdb", reason="the embedded store is LMDB")

from tests.online.uploads import SumFolder, picture, pipeline, tokenizer, tokens_of, upload
from tests.online.worlds import CONFIG, DAY, IDF, events_of, expected, opened, same
from tests.understand.fake import FakeCaptioner

from captionary.errors import CaptionaryError
from captionary.online.allowance import Allowance
from captionary.online.decisions import forget_item
from captionary.online.ingest import IngestRecipe, Made, gate_of_stream
from captionary.online.log import (
    EVENTS,
    MEDIA,
    Draft,
    EventLog,
    EventMessage,
    MediaMessage,
    event_draft,
    media_draft,
    open_log,
)
from captionary.online.packing import id_bytes
from captionary.online.spool import Spool
from captionary.online.status import ingest_status
from captionary.online.store import OnlineStore
from captionary.online.store_lmdb import LmdbEngine
from captionary.online.updates import ItemUpdate, put_rows
from captionary.online.visible import ItemColumns
from captionary.online.worker import IngestWorker, WorkerOptions
from captionary.understand.captioner import Caption, StoppedError
from captionary.understand.gate_settings import GateConfig


class World:
    """A worker with all that it needs, and a service's end of the log."""

    def __init__(self, folder: Path, captioner: Any = None, **recipe: Any) -> None:
        self.captioner = captioner or FakeCaptioner()
        self.log: EventLog = open_log(str(folder / "log.sqlite"))
        self.store: OnlineStore = opened(str(folder / "store"))
        self.pipeline = pipeline(folder, self.captioner, **recipe)
        self.spool: Spool = self.pipeline.spool
        self.worker = IngestWorker(
            self.log,
            self.store,
            self.pipeline,
            folders=[SumFolder()],
            columns=ItemColumns(numeric=("price",)),
            options=WorkerOptions(retry_seconds=0.001, lease_seconds=0.5, gather_seconds=0, most_failures=3),
        )

    def send(self, message: MediaMessage, key: str | None = None) -> int:
        return self.log.append(MEDIA, [media_draft(message, key or f"{message.item_id}-{message.media}")])[0]

    def work_off(self) -> None:
        for _ in range(100):
            if not self.worker.media_once() and not self.log.backlog(MEDIA):
                return
            time.sleep(0.002)
        raise AssertionError("the log is never empty")

    def letters(self) -> list[tuple[str, str]]:
        return [(letter.entry.key, letter.reason) for letter in self.log.dead(MEDIA)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_upload_becomes_tokens_and_a_row(world: World) -> None:
    data = picture(1)
    before = time.time_ns() // 1000
    world.send(
        upload("sofa", world.spool.put(data), title="Sofa", columns={"price": 2.5}, received_at=before)
    )
    world.work_off()
    record = world.store.item("sofa")
    assert record is not None
    want = tokens_of(data, FakeCaptioner())
    assert (record.status, record.token_ids.tolist(), record.title) == ("ok", want, "Sofa")
    assert (bool(record.caption), bool(record.normalized), record.captioner) == (True, True, "fake-1")
    assert record.media_digest == record.media[0][3:]
    latency = record.latency_seconds
    assert latency is not None
    assert 0 <= latency < 60
    read = world.store.read("nobody", ["sofa"], 0, version="v1", width=3)
    assert read.rows.tolist() == [[len(want), sum(want), 2.5]]
    (settled,) = world.log.settled(MEDIA)
    assert settled.sequence == record.sequence
    assert world.worker.latencies.quantiles().keys() == {"p50", "p95", "p99"}


def test_nothing_is_captioned_twice(world: World) -> None:
    name = world.spool.put(picture(1))
    for number in range(3):
        world.send(upload(number, name))
        world.work_off()
    world.send(upload(3, name), key="again")
    world.send(upload(4, name), key="again")  # the producer's second try
    world.work_off()
    assert world.captioner.images == 1
    assert world.store.item_ids() == [0, 1, 2, 3]


def test_a_corrupt_upload_is_a_dead_letter_and_holds_up_nobody(world: World) -> None:
    world.send(upload("bad", world.spool.put(picture(1)[:100])))
    world.send(upload("none"))
    world.send(upload("text", world.spool.put(b"hello")))
    world.send(upload("elsewhere", "../../etc/passwd"))
    world.send(upload("good", world.spool.put(picture(2))))
    world.log.append(MEDIA, [Draft("junk", b"$x", b"{not json")])
    world.work_off()
    reasons = {key.split("-")[0]: reason for key, reason in world.letters()}
    assert reasons == {
        "bad": "truncated", "none": "no_media", "text": "not_an_image", "elsewhere": "bad_name", "junk": "bad_message",
    }  # fmt: skip
    good, bad = world.store.items(["good", "bad"])
    assert good is not None
    assert good.status == "ok"
    assert bad is not None
    assert (bad.status, bad.reason, bad.tokens) == ("failed", "truncated", b"")
    assert world.store.read(0, ["bad"], 0, version="v1", width=3).rows[0, :2].tolist() == [0, 0]
    assert world.worker.failed == 4


def test_a_captioner_that_fails_is_asked_again_and_its_letters_are_revived(tmp_path: Path) -> None:
    broken = threading.Event()
    broken.set()

    def hook(image: Any) -> str | None:
        if broken.is_set():
            raise RuntimeError("out of luck")
        return None

    world = World(tmp_path, FakeCaptioner(hook=hook))
    data = picture(1)
    world.send(upload("sofa", world.spool.put(data)))
    world.work_off()
    assert world.captioner.images == 3  # most_failures
    ((_, reason),) = world.letters()
    assert reason == "captioner_error"
    record = world.store.item("sofa")
    assert record is not None
    assert record.status == "failed"
    assert "out of luck" in record.detail
    broken.clear()
    assert world.log.revive(MEDIA) == 1
    world.work_off()
    record = world.store.item("sofa")
    assert record is not None
    assert record.token_ids.tolist() == tokens_of(data, FakeCaptioner())
    assert world.letters() == []


def test_a_failed_upload_takes_nothing_from_what_is_known(world: World) -> None:
    data = picture(1)
    world.send(upload("sofa", world.spool.put(data)))
    world.work_off()
    world.send(upload("sofa", world.spool.put(b"junk")))
    world.work_off()
    record = world.store.item("sofa")
    assert record is not None
    assert record.token_ids.tolist() == tokens_of(data, FakeCaptioner())
    assert len(world.letters()) == 1
    better = picture(2)
    world.send(upload("sofa", world.spool.put(better)))
    world.work_off()
    record = world.store.item("sofa")
    assert record is not None
    assert record.token_ids.tolist() == tokens_of(better, FakeCaptioner())


class Stopping(FakeCaptioner):
    """Cannot go on after so many pictures, until it is mended."""

    left = 1

    def caption(self, images: Any) -> list[Caption]:
        if self.left < len(images):
            raise StoppedError("the cap of money is reached", [None] * len(images))
        self.left -= len(images)
        return super().caption(images)


def test_a_captioner_that_stops_leaves_everything_in_the_log(tmp_path: Path) -> None:
    world = World(tmp_path, Stopping())
    world.worker.seconds_per_item = 10.0  # one at a time
    for number in range(3):
        world.send(upload(number, world.spool.put(picture(number))))
    world.worker.media_once()
    with pytest.raises(StoppedError):
        world.worker.media_once()
    assert (world.log.backlog(MEDIA), world.letters(), world.store.item_ids()) == (2, [], [0])
    world.captioner.left = 99
    world.work_off()
    assert world.store.item_ids() == [0, 1, 2]


def test_micro_batches_shrink_where_the_captioner_is_slow(tmp_path: Path) -> None:
    world = World(tmp_path, FakeCaptioner(seconds=0.02))
    world.worker.options = WorkerOptions(target_seconds=0.05, gather_seconds=0, batch_size=16)
    for number in range(14):
        world.send(upload(number, world.spool.put(picture(number))))
    world.work_off()
    assert world.captioner.calls[0] == 4
    assert 1 <= world.captioner.calls[-1] <= 2
    assert world.captioner.images == 14
    world.captioner.seconds = 0.0
    world.worker.seconds_per_item = 0.0001
    assert world.worker.batch == 16


def test_an_upload_that_kills_its_worker_is_worked_on_alone_and_given_up(world: World) -> None:
    world.worker.options = WorkerOptions(most_deliveries=6, lease_seconds=0.01, gather_seconds=0)
    world.send(upload("deadly", world.spool.put(picture(1))))
    for _ in range(5):  # so many workers died of it
        assert world.log.take(MEDIA, "dead", most=1, lease_seconds=0.01)
        time.sleep(0.011)
    make, sizes = world.pipeline.make, []

    def watched(messages: Any) -> Any:
        sizes.append([message.item_id for message in messages])
        if messages[0].item_id == "deadly":
            raise MemoryError
        return make(messages)

    world.pipeline.make = watched  # type: ignore[method-assign]
    for number in range(2):
        world.send(upload(number, world.spool.put(picture(number + 5))))
    world.work_off()
    assert sizes == [[0, 1], ["deadly"]]
    assert world.letters()[0][1] == "crashed"


def test_a_video_s_frames_are_captioned_wherever_the_spool_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av", reason="PyAV reads videos")
    from tests.understand.signals.films import film, scenes

    monkeypatch.chdir(tmp_path)
    world = World(Path())  # a path that is not absolute, as that of a run beside its configuration
    shots = [(scene.resize((64, 64)), 1.0) for scene in scenes(2)]
    world.send(upload("film", world.spool.put(film(shots))))
    world.work_off()
    record = world.store.item("film")
    assert record is not None
    assert record.status == "ok"
    assert world.captioner.images == 2
    assert len(record.token_ids)


def test_a_gate_holds_back_what_its_text_says_already(tmp_path: Path) -> None:
    world = World(tmp_path, gate=GateConfig(policy="rules", thin_text=0.5))
    world.worker.seconds_per_item = 0.001
    long = "red velvet sofa with oak legs and brass buttons from a castle in the north"
    for number, title in enumerate([long, None]):
        world.send(upload(number, world.spool.put(picture(number)), title=title))
    world.work_off()
    held, made = world.store.items([0, 1])
    assert held is not None
    assert (held.status, held.reason) == ("skipped", "gate_text_enough")
    assert made is not None
    assert made.status == "ok"
    assert world.captioner.images == 1
    assert world.letters() == []
    with pytest.raises(CaptionaryError, match="a stream has no end"):
        IngestRecipe(tokenizer=tokenizer(), gate=GateConfig(policy="budget", items=5))


def test_more_than_a_day_s_items_are_held_back_and_what_is_known_stays(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pipeline.allowance = Allowance(world.store, 3)
    for number in range(2):
        world.send(upload(number, world.spool.put(picture(number))))
    world.work_off()
    world.send(upload(5, world.spool.put(picture(0))))  # a caption that is known costs nothing
    world.work_off()
    for number in (2, 3, 0):
        world.send(upload(number, world.spool.put(picture(number + 10))))
    world.work_off()
    found = {number: world.store.item(number) for number in (0, 1, 2, 3, 5)}
    said = {number: (record.status, record.reason) for number, record in found.items() if record}
    assert said[3] == ("skipped", "gate_over_budget")
    assert said[0] == said[1] == said[2] == said[5] == ("ok", "")
    assert found[0] is not None
    assert found[0].revision == 0  # of the first upload
    assert (world.log.backlog(MEDIA), world.letters()) == (0, [])
    assert (world.captioner.images, world.worker.skipped) == (3, 2)


def test_an_allowance_fills_evenly_and_is_shared(world: World) -> None:
    day = 86_400_000_000
    one, other = Allowance(world.store, 10), Allowance(world.store, 10)
    assert one.take(8, at=0) == 8
    assert other.take(8, at=0) == 2
    assert other.take(1, at=day // 10 - 1_000_000) == 0
    assert one.take(5, at=day // 10) == 1
    assert one.take(5, at=0) == 0  # a clock that goes back gives nothing
    one.give_back(1, at=day // 10)
    assert other.take(5, at=day // 10) == 1
    assert one.take(99, at=5 * day) == 10  # no more than a day's, however long nothing came
    with pytest.raises(CaptionaryError, match="items per day == 0"):
        Allowance(world.store, 0)


def test_a_run_s_limits_give_way_to_a_day_s(tmp_path: Path) -> None:
    for config in (GateConfig(policy="budget", items=5), GateConfig(policy="learned", seconds=3.0)):
        with pytest.raises(CaptionaryError, match="--items-per-day"):
            IngestRecipe(tokenizer=tokenizer(), gate=gate_of_stream(config, None))
        recipe = IngestRecipe(tokenizer=tokenizer(), gate=gate_of_stream(config, 9))
        assert recipe.gate.policy == ("budget" if config.policy == "budget" else "always")


def test_rows_of_a_further_ranker_are_those_of_the_items_as_they_are(world: World) -> None:
    for number in range(3):
        world.send(upload(number, world.spool.put(picture(number))))
    world.work_off()
    before = [record for record in world.store.items([0, 1, 2]) if record is not None]
    world.send(upload(1, world.spool.put(picture(9))))  # changes while its row is made
    forget_item(world.store, 2)
    world.work_off()
    row = np.array([1.0, 2.0], np.float32)
    assert put_rows(world.store, [ItemUpdate(record, {"v2": row}) for record in before]) == 1
    read = world.store.read("x", [0, 1, 2], DAY, version="v2", width=2)
    assert read.present.tolist() == [True, False, False]
    assert read.rows[0].tolist() == [1.0, 2.0]
    assert world.store.read(
        "x", [0, 1], DAY, version="v1", width=3
    ).present.all()  # those of the first are there still


def test_an_item_that_was_forgotten_stays_forgotten(world: World) -> None:
    world.send(upload("sofa", world.spool.put(picture(1))))
    entries = world.log.take(MEDIA, world.worker.name, most=1)  # in hand when it is forgotten
    world.log.erase(MEDIA, id_bytes("sofa"))
    forget_item(world.store, "sofa", world.log.last(MEDIA))
    world.worker._work(entries)
    assert world.store.item("sofa") is None
    world.send(upload("sofa", world.spool.put(picture(2))), key="anew")
    world.work_off()
    assert world.store.item("sofa") is not None


def test_events_become_profiles_and_bad_ones_letters(world: World) -> None:
    events = events_of(50)
    drafts = [event_draft(event, f"key {n}") for n, event in enumerate(events)]
    bad = EventMessage(user_id="ann", item_id=1, event="like", timestamp=5, value=-1.0)
    world.log.append(EVENTS, [*drafts, event_draft(bad, "bad"), Draft("junk", b"$x", b"[]")])
    world.worker.run(drain=True)
    moments = [(f"user-{user}", 50 * DAY) for user in range(4)]
    for (user, moment), want in zip(moments, expected(events, {}, moments), strict=True):
        assert same(world.store.profile(user, moment), want)
    assert [(letter.entry.key, letter.reason) for letter in world.log.dead(EVENTS)] == [
        ("bad", "bad_event"), ("junk", "bad_event"),
    ]  # fmt: skip
    status = ingest_status(world.store, world.log)
    assert [(t.topic, t.waiting, t.dead) for t in status.topics] == [(MEDIA, 0, 0), (EVENTS, 0, 2)]
    assert status.workers[0].events == 50
    assert "50 events" in status.to_string()


def test_a_store_that_is_full_costs_a_wait_and_no_entry(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.store.close()
    engine = LmdbEngine(tmp_path / "small", map_size=1 << 18, most_bytes=1 << 18)
    world.worker.store = world.store = OnlineStore(engine, CONFIG, IDF)
    with suppress(CaptionaryError):
        while True:  # to the last page
            engine.update(lambda t: t.put(b"fill%d" % t.sequence, bytes(3000)))
    world.send(upload("sofa", world.spool.put(picture(1))))
    seen: list[str] = []

    def make_room() -> None:
        while not world.worker.trouble:
            time.sleep(0.005)
        seen.append(world.worker.trouble)
        seen.append(str(world.log.backlog(MEDIA)))
        engine._most = None

    thread = threading.Thread(target=make_room)
    thread.start()
    world.worker.run(drain=True)
    thread.join()
    assert "nothing of the update was kept" in seen[0]
    assert seen[1] == "1"
    record = world.store.item("sofa")
    assert record is not None
    assert record.status == "ok"
    assert world.letters() == []
    assert world.captioner.images == 1


def test_a_drain_that_cannot_go_on_ends_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def make(messages: Sequence[MediaMessage]) -> list[Made]:
        asked.append(len(messages))
        assert len(asked) < 8, "asked for ever"
        raise StoppedError("money spent == 1, must be <= 1")

    monkeypatch.setattr("captionary.online.worker._LONGEST_WAIT", 0.4)  # after .05, .1 and .2 seconds
    monkeypatch.setattr(world.pipeline, "make", make)
    world.send(upload("sofa", world.spool.put(picture(1))))
    with pytest.raises(StoppedError, match="money spent"):
        world.worker.run(drain=True)
    assert asked == [1] * 4
    monkeypatch.undo()
    world.work_off()
    record = world.store.item("sofa")
    assert record is not None
    assert record.status == "ok"


def test_rows_of_an_item_that_a_ranker_cannot_fold_are_left_out(world: World) -> None:
    class Picky(SumFolder):
        version = "picky"

        def fold(self, items: Any) -> Any:
            if "worn" in list(items.ids):
                raise CaptionaryError("column == age")
            return super().fold(items)

    world.worker.folders = (SumFolder(), Picky())
    world.worker.seconds_per_item = 0.001
    for number, name in enumerate(["new", "worn"]):
        world.send(upload(name, world.spool.put(picture(number))))
    world.work_off()
    assert world.store.read(0, ["new", "worn"], 0, version="v1", width=3).present.all()
    assert world.store.read(0, ["new", "worn"], 0, version="picky", width=3).present.tolist() == [True, False]


def test_videos_frames_and_several_pictures_are_read_as_the_batch_run_reads_them(tmp_path: Path) -> None:
    from captionary.understand.media_settings import MediaConfig

    world = World(tmp_path, media=MediaConfig(entries="all"))
    names = [world.spool.put(picture(number)) for number in range(2)]
    world.send(upload("sofa", *names))
    world.work_off()
    assert world.captioner.images == 2
    record = world.store.item("sofa")
    assert record is not None
    both = {token for number in range(2) for token in tokens_of(picture(number), FakeCaptioner())}
    assert set(record.token_ids.tolist()) <= both
    assert len(np.unique(record.token_ids)) > len(set(tokens_of(picture(0), FakeCaptioner())))


def test_the_spool_keeps_by_content_and_reaches_nothing_else(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    name = spool.put(b"media")
    assert spool.put(b"media") == name != spool.put(b"other")
    assert spool.path(name).read_bytes() == b"media"
    for bad in ("../x", "/etc/passwd", name + "x", "streams/a"):
        with pytest.raises(CaptionaryError, match="one that the spool gave"):
            spool.path(bad)
    spool.remove(name)
    assert not spool.path(name).exists()


@pytest.mark.parametrize(
    "change", [{"batch_size": 0}, {"lease_seconds": 0.0}, {"most_deliveries": 3}, {"gather_seconds": -1.0}]
)
def test_options_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CaptionaryError, match=next(iter(change))):
        WorkerOptions(**change)
