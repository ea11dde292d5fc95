from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.understand.fake import FakeCaptioner, column, items_of, write_pictures
from tqdm import tqdm

from captionary.errors import CaptionaryError
from captionary.understand import views, workers
from captionary.understand.caption import caption_items
from captionary.understand.captioner import Caption, StoppedError
from captionary.understand.job import CaptionJob, JobOptions
from captionary.understand.media import digest, digest_bytes
from captionary.understand.store import CaptionStore

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), *sys.path])}


@pytest.fixture
def store(tmp_path):
    with CaptionStore(tmp_path / "captions.sqlite") as opened:
        yield opened


def test_a_captioner_that_raises_loses_the_culprit_only(tmp_path, store):
    names = write_pictures(tmp_path, 10)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "poison.png")
    names.insert(6, "poison.png")

    def hook(image):
        if image.getpixel((0, 0)) == (1, 2, 3):
            raise RuntimeError("out of\nmemory")

    fake = FakeCaptioner(hook=hook)
    report = caption_items(items_of([[name] for name in names]), tmp_path, fake, store, batch_size=4)
    assert fake.calls == [4, 4, 1, 1, 1, 1, 3]
    assert column(report, "status") == ["ok"] * 6 + ["failed"] + ["ok"] * 4
    assert report.failed == {"captioner_error": 1}
    assert column(report, "detail")[6] == "RuntimeError: out of memory"
    healthy = FakeCaptioner()
    again = caption_items(items_of([[name] for name in names]), tmp_path, healthy, store)
    assert healthy.calls == [1]  # an error of the captioner may pass: it is tried again
    assert (again.new, again.reused, again.failed) == (1, 10, {})


def test_what_failed_is_free_for_another_job_at_once(tmp_path, store, monkeypatch):
    names = write_pictures(tmp_path, 12)
    changed = digest(tmp_path / names[1])
    monkeypatch.setattr(
        workers, "digest_bytes", lambda data: "" if digest_bytes(data) == changed else digest_bytes(data)
    )
    seen, free = [], []

    def hook(image):
        seen.append(image)
        if len(seen) <= 2:  # the first picture, in its batch and alone
            raise RuntimeError
        if len(seen) == 12:  # the last one
            with CaptionStore(store.path) as other:
                free.extend(other.claim([digest(tmp_path / name) for name in names], "fake-1"))

    fake = FakeCaptioner(hook=hook)
    report = caption_items(items_of([[name] for name in names]), tmp_path, fake, store, batch_size=2)
    assert report.failed == {"captioner_error": 1, "changed": 1}
    failed = [
        key for key, why in zip(column(report, "media_digest"), column(report, "reason"), strict=True) if why
    ]
    assert set(failed) <= set(free)


@pytest.mark.parametrize(
    ("captions", "vectors", "message"),
    [
        (lambda n: [Caption("a dog")] * (n - 1), lambda n: np.ones((n, 2)), "0 captions for 1 pictures"),
        (lambda n: ["a dog"] * n, lambda n: np.ones((n, 2)), "not a Caption: 'a dog'"),
        (lambda n: [Caption(None)] * n, lambda n: np.ones((n, 2)), "not a Caption"),
        (lambda n: [Caption("a dog")] * n, lambda n: np.ones((n, 3)), r"vectors of shape \(1, 3\)"),
        (lambda n: [Caption("a dog")] * n, lambda n: np.full((n, 2), np.nan), "not finite"),
        (lambda n: [Caption("a dog")] * n, lambda n: np.full((n, 2), 1e6), "not finite as float16"),
    ],
)
def test_answers_are_checked(tmp_path, store, captions, vectors, message):
    class Wrong(FakeCaptioner):
        def caption_and_embed(self, images):
            return captions(len(images)), vectors(len(images)).astype(np.float32)

    items = items_of([[name] for name in write_pictures(tmp_path, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = caption_items(items, tmp_path, Wrong(vector_size=2), store)
    assert report.failed == {"captioner_error": 2}
    assert re.search(message, column(report, "detail")[0])


def test_a_file_that_changes_while_it_is_read(tmp_path, store, monkeypatch):
    names = write_pictures(tmp_path, 3)
    items = items_of([[name] for name in names])
    monkeypatch.setattr(workers, "digest_bytes", lambda data: "another digest")
    report = caption_items(items, tmp_path, FakeCaptioner(), store)
    assert report.failed == {"changed": 3}
    monkeypatch.undo()
    assert caption_items(items, tmp_path, FakeCaptioner(), store).new == 3


def test_an_interrupted_job_keeps_what_it_captioned(tmp_path, store):
    items = items_of([[name] for name in write_pictures(tmp_path, 20)])
    seen = []
    before = set(threading.enumerate())

    def hook(image):
        seen.append(1)
        if len(seen) == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caption_items(items, tmp_path, FakeCaptioner(hook=hook), store, batch_size=4)
    assert len(store) == 8  # two whole batches
    assert not [thread for thread in set(threading.enumerate()) - before if "captionary" in thread.name]
    with CaptionStore(store.path) as other:  # and it holds nothing back from other jobs
        fake = FakeCaptioner()
        assert caption_items(items, tmp_path, fake, other).new == 12
        assert fake.images == 12


def test_reading_ahead_is_bounded(tmp_path, store, monkeypatch):
    items = items_of([[name] for name in write_pictures(tmp_path, 100)])
    decoded, lead = [], []
    decode = views.decode
    monkeypatch.setattr(views, "decode", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    fake = FakeCaptioner(hook=lambda image: lead.append(len(decoded) - len(lead)), seconds=0.001)
    caption_items(items, tmp_path, fake, store, batch_size=5)
    assert len(decoded) == 100
    assert 5 < max(lead) <= 3 * 5  # it does read ahead, and never by more than three batches


def test_pictures_arrive_shrunk_to_what_the_captioner_uses(tmp_path, store):
    Image.new("RGB", (1200, 900)).save(tmp_path / "a.jpg")
    sizes = []
    for image_size in (90, 0):
        fake = FakeCaptioner(
            image_size=image_size, variant=str(image_size), hook=lambda im: sizes.append(im.size)
        )
        caption_items(items_of([["a.jpg"]]), tmp_path, fake, store)
    assert sizes == [(120, 90), (round(448 * 4 / 3), 448)]


def test_a_full_disk_stops_the_job_and_loses_nothing(tmp_path, store):
    items = items_of([[name] for name in write_pictures(tmp_path, 60)])
    acknowledged = []

    class Telling(CaptionStore):
        def put_many(self, records, *rest, **more):
            super().put_many(records, *rest, **more)
            acknowledged.extend(record.media_digest for record in records)
            pages = self._db.execute("PRAGMA page_count").fetchone()[0]
            self._db.execute(f"PRAGMA max_page_count = {max(pages, 30)}")

    wordy = FakeCaptioner(hook=lambda image: f"{image.getpixel((0, 0))} " * 500)
    with (
        Telling(store.path) as small,
        pytest.raises(CaptionaryError, match=r"on a disk with space left; .*free"),
    ):
        caption_items(items, tmp_path, wordy, small, batch_size=4)
    kept = len(acknowledged)
    assert 0 < kept < 60
    assert store.get_many(acknowledged, "fake-1").keys() == set(acknowledged)
    report = caption_items(items, tmp_path, wordy, store, batch_size=4)  # there is space again
    assert (report.new, report.reused) == (60 - kept, kept)


JOB = """
import sys
from pathlib import Path
import pyarrow as pa
from captionary.understand.caption import caption_items
from captionary.understand.store import CaptionStore
from tests.understand.fake import FakeCaptioner
path, media, log = map(Path, sys.argv[1:])
names = sorted(p.name for p in media.iterdir())
items = pa.table({"item_id": names, "media": [[n] for n in names]})
def hook(image):
    with log.open("a") as file:
        file.write(str(image.getpixel((0, 0))) + "\\n")
with CaptionStore(path) as store:
    print("ready", flush=True)
    report = caption_items(items, media, FakeCaptioner(hook=hook, seconds=0.002), store, batch_size=4)
print(report.new, report.reused, report.failed)
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOB, *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


def test_two_jobs_on_one_store_do_no_double_work(tmp_path):
    write_pictures(tmp_path / "media", 100)
    path, log = tmp_path / "captions.sqlite", tmp_path / "log"
    children = [start(path, tmp_path / "media", log) for _ in range(2)]
    counts = [child.communicate()[0].split()[1:] for child in children]
    new = [int(made) for made, _, _ in counts]
    assert sum(new) == 100
    assert [int(reused) for _, reused, _ in counts] == [100 - made for made in new]
    assert len(log.read_text().splitlines()) == 100


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_captioner_that_may_not_go_on_keeps_what_it_answered(tmp_path, store, lanes):
    """A cap is reached in the second batch: its first picture is kept, nothing further asked, and the job says why."""

    class Capped(FakeCaptioner):
        """Whichever call comes second is the one that is cut short, and a later one is told the same."""

        lock = threading.Lock()  # of two lanes, both ask

        def caption(self, images):
            with self.lock:
                left = 5 - self.images
                if len(images) <= left:
                    return super().caption(images)
                answered = super().caption(images[:left]) if left else []
            raise StoppedError("money spent == 1, must be <= 1", [*answered, *[None] * (len(images) - left)])

    captioner = Capped()
    captioner.lanes = lanes
    media = items_of([[name] for name in write_pictures(tmp_path, 12)])
    with pytest.raises(StoppedError, match="money spent"):
        caption_items(media, tmp_path, captioner, store, batch_size=4 // lanes, progress=False)
    assert captioner.images == 5
    later = FakeCaptioner()
    report = caption_items(media, tmp_path, later, store, batch_size=4, progress=False)
    assert later.images == 7  # 12 - 4 - 1: claims of the rest were given back
    assert report.failed == {}


def test_lanes_are_given_the_next_batch_before_they_are_done_with_one(tmp_path, store):
    """A batch is kept while the next one is captioned, and each has its own captions."""
    began, kept = threading.Barrier(2), threading.Event()

    class Kept(CaptionStore):
        def put_many(self, records, *rest, **more):
            super().put_many(records, *rest, **more)
            kept.set()

    class Slow(FakeCaptioner):
        lanes = 2

        def caption(self, images):
            number = len(self.calls)
            answer = super().caption(images)
            if number < 2:
                began.wait(10)  # until both batches are with the captioner
            if number == 1:
                assert kept.wait(10)  # of which the first is kept while the second is not answered
            return answer

    media = items_of([[name] for name in write_pictures(tmp_path, 10)])
    slow = Slow()
    with Kept(store.path) as seen:
        report = caption_items(media, tmp_path, slow, seen, batch_size=2)
    assert slow.calls == [4, 4, 2]
    plain = FakeCaptioner()
    with CaptionStore(tmp_path / "plain.sqlite") as other:
        expected = caption_items(media, tmp_path, plain, other)
    assert column(report, "caption") == column(expected, "caption")
    assert (report.new, report.failed) == (10, {})
    assert not [thread for thread in threading.enumerate() if "captionary-call" in thread.name]


def test_a_batch_that_lanes_cannot_do_is_asked_one_by_one(tmp_path, store):
    def hook(image):
        if image.getpixel((0, 0)) == bad:
            raise RuntimeError("this one")

    names = write_pictures(tmp_path, 12)
    with Image.open(tmp_path / names[5]) as image:
        bad = image.convert("RGB").getpixel((0, 0))
    fake = FakeCaptioner(hook=hook)
    fake.lanes = 2
    report = caption_items(items_of([[name] for name in names]), tmp_path, fake, store, batch_size=2)
    assert (report.new, report.failed) == (11, {"captioner_error": 1})
    assert column(report, "detail")[5] == "RuntimeError: this one"


@pytest.mark.parametrize(("batch_size", "lanes", "called"), [(8, 3, 24), (32, 64, 256), (500, 2, 500)])
def test_lanes_raise_a_batch_up_to_a_bound(tmp_path, store, batch_size, lanes, called):
    """What is captioned in one call is kept in one commit: on 64 threads not 2,048 pictures."""
    fake = FakeCaptioner()
    fake.lanes = lanes
    with tqdm(disable=True) as bar:
        job = CaptionJob(tmp_path, fake, store, JobOptions(batch_size=batch_size), bar)
    assert job.batch_size == called
