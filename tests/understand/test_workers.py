from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.understand.fake import FakeCaptioner, column, items_of, write_pictures

from captionary.understand import workers
from captionary.understand.caption import caption_items
from captionary.understand.media import LIMITS, MediaError, digest
from captionary.understand.store import CaptionStore
from captionary.understand.views import View, read_picture
from captionary.understand.workers import DecodeTask, WorkerPool, automatic_processes, decode_task


def task(path: Path, reader=read_picture, *, sign: bool = False) -> DecodeTask:
    return DecodeTask(path, digest(path), View(path.name), 32, LIMITS, reader, sign)


def reader_that_dies(data, view, size, limits):
    os._exit(3)


def reader_that_hangs(data, view, size, limits):
    time.sleep(60)


def reader_with_a_bug(data, view, size, limits):
    raise ZeroDivisionError("oops")


@pytest.fixture
def pool():
    opened = WorkerPool(1)
    yield opened
    opened.close()


def test_a_worker_reads_what_a_thread_reads(tmp_path, pool):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    here, there = decode_task(task(tmp_path / "a.png", sign=True)), pool(task(tmp_path / "a.png", sign=True))
    assert here.image.size == there.image.size == (45, 32)
    assert here.image.tobytes() == there.image.tobytes()
    assert here.sign == there.sign is not None
    assert pool(task(tmp_path / "a.png")).sign is None
    (tmp_path / "b.png").write_text("words")
    with pytest.raises(MediaError) as refused:
        pool(task(tmp_path / "b.png"))
    assert refused.value.reason == "not_an_image"
    assert refused.value.detail == "the content is text"


def test_a_worker_that_dies_is_replaced(tmp_path, pool):
    write_pictures(tmp_path, 1)
    with pytest.raises(MediaError) as refused:
        pool(task(tmp_path / "00000.png", reader_that_dies))
    assert (refused.value.reason, refused.value.detail) == ("corrupt", "the decoder's process ended with 3")
    assert pool(task(tmp_path / "00000.png")).image.size == (8, 8)


def test_a_worker_that_hangs_is_replaced(tmp_path):
    write_pictures(tmp_path, 1)
    pool = WorkerPool(1, patience_seconds=0.3)
    with pytest.raises(MediaError) as refused:
        pool(task(tmp_path / "00000.png", reader_that_hangs))
    assert (refused.value.reason, refused.value.detail) == ("unreadable", "no picture within 0 s")
    pool._patience = 60
    assert pool(task(tmp_path / "00000.png")).image.size == (8, 8)
    pool.close()


def test_a_readers_bug_is_the_pictures_failure(tmp_path):
    write_pictures(tmp_path, 1)
    with pytest.raises(MediaError, match="ZeroDivisionError: oops"):
        decode_task(task(tmp_path / "00000.png", reader_with_a_bug))


def test_a_job_with_processes_is_a_job_with_threads(tmp_path):
    names = write_pictures(tmp_path / "media", 30)
    (tmp_path / "media" / "bad.png").write_text("words")
    items = items_of([[name] for name in [*names[:7], "bad.png", *names[7:]]])
    reports = []
    for processes in (0, 2):
        with CaptionStore(tmp_path / f"{processes}.sqlite") as store:
            fake = FakeCaptioner(vector_size=2)
            report = caption_items(
                items, tmp_path / "media", fake, store, batch_size=4, decode_processes=processes
            )
            reports.append(report)
            assert fake.calls == [4] * 7 + [2]  # the bad one's place in its batch is filled
    for name in ("caption", "status", "reason", "media_digest"):
        assert column(reports[0], name) == column(reports[1], name)


def test_workers_are_shared_by_threads(tmp_path):
    names = write_pictures(tmp_path, 40)
    pool = WorkerPool(2)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(pool, [task(tmp_path / name) for name in names]))
    pool.close()
    for name, decoded in zip(names, found, strict=True):
        assert decoded.image.tobytes() == Image.open(tmp_path / name).tobytes()


def test_the_automatic_choice(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(2)), raising=False)
    assert automatic_processes(10**6) == 0  # the model needs both
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert automatic_processes(10**6) == (4 if os.name != "nt" else 0)
    assert automatic_processes(workers._FEW_PICTURES - 1) == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(256)), raising=False)
    assert automatic_processes(10**6) == (8 if os.name != "nt" else 0)
