"""The Ray engine. The cluster is started once, in the one test that needs it: that takes most of its time."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.ray_cluster import local_cluster
from tests.understand.fake import FakeCaptioner, column, items_of, write_pictures
from tests.understand.servers import serving

from captionary.errors import CaptionaryError
from captionary.understand.caption import caption_items
from captionary.understand.captioner import StoppedError
from captionary.understand.endpoint import EndpointConfig
from captionary.understand.engine_ray import RayEngine, RemoteAccount, RemoteStore, StoreActor, _close
from captionary.understand.spending import Account, CapReachedError, Reserve
from captionary.understand.store import CaptionRecord, CaptionStore

POISON = (1, 2, 3)


class Mortal(FakeCaptioner):
    """Kills its process in the middle of the job, once; raises on one picture; logs what it is asked for."""

    def __init__(self, log: Path) -> None:
        super().__init__(vector_size=3, hook=self._meet, seconds=0.002)
        self.log = log

    def _meet(self, image: Image.Image) -> None:
        if image.getpixel((0, 0)) == POISON:
            raise RuntimeError("a bad picture")
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {image.tobytes().hex()}\n")
        asked = self.log.read_text().splitlines()
        mine = [line for line in asked if line.startswith(f"{os.getpid()} ")]
        if len(mine) == 30:
            try:
                self.log.with_suffix(".dead").touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Two workers on this machine; no part of it outlives the test, or writes outside of it."""
    pytest.importorskip("ray", reason="the Ray engine needs ray[data]")
    with local_cluster(monkeypatch, RAY_DATA_DISABLE_PROGRESS_BARS="1") as ray:
        yield ray


@pytest.mark.skipif(
    not os.environ.get("CAPTIONARY_RAY"),
    reason="to be run alone, with CAPTIONARY_RAY=1: beside the whole suite Ray now and then loses the store's actor",
)
def test_a_job_on_two_workers_one_of_which_is_killed(cluster, tmp_path):
    names = write_pictures(tmp_path, 160)
    Image.new("RGB", (8, 8), POISON).save(tmp_path / "poison.png")
    (tmp_path / "words.png").write_text("words")
    (tmp_path / "copy.png").write_bytes((tmp_path / names[0]).read_bytes())
    media = [*names[:80], "poison.png", "words.png", "none.png", *names[80:], "copy.png"]
    items = items_of([[name] for name in media] + [[]])
    log = tmp_path / "log"
    engine = RayEngine(actors=2, block=16)

    with CaptionStore(tmp_path / "captions.sqlite") as store:
        report = caption_items(items, tmp_path, Mortal(log), store, batch_size=4, engine=engine)
        assert log.with_suffix(".dead").exists()
        asked = [line.split()[0] for line in log.read_text().splitlines()]
        assert len(set(asked)) >= 3  # two workers, and the one that came for the dead one
        # Paid twice: at most the batch that died with its worker.
        assert 160 <= len(asked) <= 160 + 4 + 4
        assert report.failed == {"captioner_error": 1, "not_an_image": 1, "missing": 1}
        assert column(report, "detail")[80] == "RuntimeError: a bad picture"
        assert (report.new, report.reused, report.skipped) == (160, 1, {"no_media": 1})
        assert report.pictures == 160
        assert report.has_vector.sum() == 161
        assert not sqlite3.connect(store.path).execute("SELECT * FROM claims").fetchall()

        here = CaptionStore(tmp_path / "here.sqlite")
        log.with_suffix(".dead").touch()
        local = caption_items(items, tmp_path, Mortal(log), here, batch_size=4)
        for name in ("item_id", "media_digest", "caption", "status", "reason", "output_tokens"):
            assert column(report, name) == column(local, name)
        np.testing.assert_array_equal(report.vectors, local.vectors)

        before = len(log.read_text().splitlines())
        again = caption_items(items, tmp_path, Mortal(log), store)  # and here, in the cluster's store
        assert len(log.read_text().splitlines()) == before
        assert (again.new, again.reused, again.failed) == (0, 161, report.failed)
        here.close()

    pytest.importorskip("aiohttp", reason="the cap of an endpoint needs captionary[endpoint]")
    from captionary.understand.openai import EndpointCaptioner

    # One cap for both workers, and what was answered under it is kept.
    config = EndpointConfig(max_requests=9, concurrency=2)
    with CaptionStore(tmp_path / "served.sqlite") as store, serving(lambda r: r.say("a cat")) as server:
        captioner = EndpointCaptioner(f"{server.url}#tiny", config=config)
        with pytest.raises(StoppedError, match=r"max_requests == 9, .*; 9 were made"):
            caption_items(items, tmp_path, captioner, store, batch_size=4, engine=engine)
        assert len(server.requests) == 9
        assert sum(record.status == "ok" for _, record in store.rows()) == 9
        assert captioner.spent == (9, 90, 27, 0.0)


class Method:
    """One that is called as Ray's are."""

    def __init__(self, method):
        self.remote = method


class Direct:
    """Stands for Ray's handle of the store actor."""

    def __init__(self, actor):
        self.call, self.spend = Method(actor.call), Method(actor.spend)


@pytest.fixture
def direct(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="the Ray engine needs ray[data]")
    monkeypatch.setattr(ray, "get", lambda found: found)
    return StoreActor(str(tmp_path / "captions.sqlite"))


def test_the_store_from_afar(direct):
    one, other = RemoteStore(Direct(direct), "one"), RemoteStore(Direct(direct), "other")
    assert one.claim(["a", "b"], "c") == {"a", "b"}
    assert other.claim(["b", "z"], "c") == {"z"}
    one.put_many(
        [CaptionRecord("a", "a dog"), CaptionRecord("n", "", "failed")],
        "c",
        vectors={"a": np.ones(2, np.float32)},
        encoder="e",
    )
    assert other.get_many(iter(["a"]), "c")["a"].caption == "a dog"
    assert other.has_vectors(["a"], "e") == {"a"}
    other.put_many([CaptionRecord("z", "a dog", source="a")], "c")
    assert direct.made() == ({"a"}, {"z"})
    reborn = RemoteStore(Direct(direct), "one")  # the same actor, started again: its claims are free
    reborn.get_many([], "c")
    assert other.claim(["b"], "c") == {"b"}
    direct.close()
    with pytest.raises(AttributeError):
        other.close  # noqa: B018
    with pytest.raises(AttributeError):
        other._db  # noqa: B018


def test_the_account_outlives_its_actor(tmp_path, direct):
    path, begun = str(direct.path), Account(EndpointConfig(max_requests=2), 8)
    first, again = StoreActor(path, "job", begun), StoreActor(path, "job", begun)
    assert RemoteAccount(Direct(first)).ask("a")
    assert RemoteAccount(Direct(first)).ask("b")
    restarted = RemoteAccount(Direct(again))
    assert not restarted.ask("c")
    restarted.settle("a", Reserve(1, 2))
    restarted.settle("b", None)
    assert restarted.spent() == (2, 4097, 10, 0.0)
    with pytest.raises(CapReachedError, match="max_requests == 2"):
        restarted.ask("c")
    assert again.close().spent.requests == 2


def test_a_failing_store_is_an_error_of_the_user(tmp_path, monkeypatch, direct):
    direct.path.write_text("no store")
    with pytest.raises(CaptionaryError, match="must be a caption store"):
        RemoteStore(Direct(direct), "one").claim(["a"], "c")


@pytest.mark.parametrize("finished", [False, True])
def test_an_account_that_cannot_be_closed_hides_no_other_error(finished):
    """And the store's actor ends all the same."""
    ended = []

    class Ray:
        kill = staticmethod(ended.append)

        @staticmethod
        def get(_):
            raise CaptionaryError("spending == 3, must be writable")

    keeper = type("Keeper", (), {"close": type("Close", (), {"remote": staticmethod(lambda: None)})})
    caught = pytest.raises(CaptionaryError, match="writable") if finished else nullcontext()
    with caught:
        _close(Ray, keeper, None, finished)
    assert ended == [keeper]


@pytest.mark.parametrize(
    "wrong", [{"actors": 0}, {"block": 0}, {"gpus_per_actor": -1}, {"cpus_per_actor": -0.5}]
)
def test_bad_options(wrong):
    with pytest.raises(CaptionaryError, match=f"ray: {next(iter(wrong))} == .*, must be >="):
        RayEngine(**wrong)
