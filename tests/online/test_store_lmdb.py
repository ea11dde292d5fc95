"""The embedded engine: room that grows or ends, and readers in other processes."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("lmdb", reason="the embedded store is LMDB")

from tests.online.worlds import DAY, catalogue, events_of, expected, item_of, opened, same

from captionary.errors import CaptionaryError
from captionary.online.keyvalue import StoreFullError
from captionary.online.store_lmdb import LmdbEngine
from captionary.online.updates import apply_events, put_items


def fill(engine: LmdbEngine, key: bytes, size: int) -> None:
    engine.update(lambda transaction: transaction.put(key, bytes(size)))


def test_the_map_grows_while_others_read(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path, map_size=1 << 20)
    fill(engine, b"first", 10)
    ended, wrong = threading.Event(), []

    def read() -> None:
        while not ended.is_set():
            _, (value,) = engine.read([b"first"])
            if value != bytes(10):
                wrong.append(value)
            time.sleep(0.001)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(12):
        fill(engine, b"%d" % number, 400_000)
    ended.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert engine.read([])[0] == 13
    engine.close()
    again = LmdbEngine(tmp_path, map_size=1 << 20, readonly=True)
    assert again.read([b"11"]) == (13, [bytes(400_000)])


def test_a_full_map_undoes_the_update_and_says_so(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path, map_size=1 << 20, most_bytes=2 << 20)
    fill(engine, b"kept", 500_000)
    with pytest.raises(
        StoreFullError, match=r"its map of 2,097,152 bytes is full; nothing of the update was kept"
    ):
        engine.update(lambda t: [t.put(b"%d" % n, bytes(100_000)) for n in range(30)])
    assert engine.read([b"kept", b"0"]) == (1, [bytes(500_000), None])
    fill(engine, b"more", 10)
    assert engine.read([])[0] == 2


def _full_disk(folder: Path, told: multiprocessing.connection.Connection) -> None:  # type: ignore[name-defined]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails, as on a full disk
    engine = LmdbEngine(folder)
    fill(engine, b"kept", 1000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    try:
        for number in range(40):
            fill(engine, b"%d" % number, 100_000)
    except StoreFullError as error:
        before = engine.read([b"kept"])
        told.send((str(error), before, engine.read([b"kept"])[0]))
    else:
        told.send(("no error", None, None))


def test_a_full_disk_undoes_the_update_and_says_so(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_full_disk, args=(tmp_path, theirs))
    child.start()
    assert ours.poll(30)
    said, kept, sequence = ours.recv()
    child.join()
    assert "nothing of the update was kept" in said
    assert kept[1] == [bytes(1000)]
    engine = LmdbEngine(tmp_path)  # the disk has room again
    assert engine.read([b"kept"]) == (sequence, [bytes(1000)])
    fill(engine, b"more", 5_000_000)
    assert engine.read([])[0] == sequence + 1


def _reader(folder: str, told: multiprocessing.connection.Connection) -> None:  # type: ignore[name-defined]
    from tests.online.worlds import CONFIG, IDF

    from captionary.online.store import open_store

    assert told.recv() == "go"
    store = open_store(folder, CONFIG, IDF, readonly=True)
    seen = []
    while not told.poll(0):
        read = store.read("user-0", [3], 99 * DAY, version="v1", width=3)
        seen.append((read.sequence, len(read.lists["like"].token_ids)))
    told.send((seen, store.profile("user-0", 99 * DAY)))


def test_processes_read_while_one_writes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # before this process opens the store
    pairs = [context.Pipe() for _ in range(1)]
    children = [context.Process(target=_reader, args=(str(tmp_path), theirs)) for _, theirs in pairs]
    for child in children:
        child.start()
    store = opened(str(tmp_path))
    put_items(store, [item_of(*pair) for pair in catalogue().items()])
    for ours, _ in pairs:
        ours.send("go")
    events = events_of(200)
    for start in range(0, 200, 10):
        apply_events(store, events[start : start + 10])
    for ours, _ in pairs:
        ours.send("enough")
    (want,) = expected(events, catalogue(), [("user-0", 99 * DAY)])
    for ours, _ in pairs:
        seen, last = ours.recv()
        assert same(last, want)
        assert seen == sorted(seen, key=lambda pair: pair[0])
    for child in children:
        child.join()


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match="must be a folder that holds an online store"):
        LmdbEngine(tmp_path / "absent", readonly=True)
    (tmp_path / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(CaptionaryError, match="must be a folder that holds, or can hold, an online store"):
        LmdbEngine(tmp_path)
