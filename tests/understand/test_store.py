from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.understand.similar import Sign
from captionary.understand.store import CaptionRecord, CaptionStore, now

VECTOR = np.ones(2, np.float32)
ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), *sys.path])}


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "captions.sqlite"


def records(*digests: str, caption: str = "a dog") -> list[CaptionRecord]:
    return [CaptionRecord(key, caption, created_at=now()) for key in digests]


def test_what_is_put_is_got(path):
    made = datetime(2024, 2, 29, 23, 59, 59, 123457, tzinfo=UTC)
    record = CaptionRecord("d1", "a dog\0 on a sofa ☂", "ok", "", "", 36, 7, 12.5, made)
    refused = CaptionRecord("d2", status="failed", reason="corrupt", detail="JPEG: no end", created_at=made)
    with CaptionStore(path) as store:
        store.put_many([record, refused], "captioner 1")
        assert store.get_many(["d1", "d2", "d3", "d1"], "captioner 1") == {"d1": record, "d2": refused}
        assert store.get_many(["d1"], "captioner 2") == {}
        assert store.get_many([], "captioner 1") == {}
    with CaptionStore(path) as store:
        assert store.get_many(["d1"], "captioner 1") == {"d1": record}
        assert len(store) == 2


def test_vectors_are_float16(path):
    vector = np.array([1 / 3, -2.0, 60_000.0], np.float32)
    with CaptionStore(path) as store:
        store.put_many(records("d1", "d2"), "c", encoder="e", vectors={"d1": vector})
        found = store.get_vectors(["d1", "d2"], "e")
        assert found.keys() == {"d1"} == store.has_vectors(["d1", "d2"], "e")
        assert found["d1"].dtype == np.float32
        np.testing.assert_array_equal(found["d1"], vector.astype(np.float16).astype(np.float32))
        assert store.get_vectors(["d1"], "another encoder") == {}


def test_more_keys_than_one_query_takes(path):
    keys = [f"{i:032x}" for i in range(3 * 500 + 7)]
    with CaptionStore(path) as store:
        store.put_many(records(*keys), "c")
        assert store.get_many(keys, "c").keys() == set(keys)


def test_the_first_record_stays_unless_it_failed(path):
    with CaptionStore(path) as store:
        store.put_many([CaptionRecord("d1", status="failed", reason="empty_caption")], "c")
        store.put_many(records("d1", caption="a dog"), "c")
        store.put_many(records("d1", caption="a cat"), "c")
        store.put_many([CaptionRecord("d1", status="failed", reason="corrupt")], "c")
        found = store.get_many(["d1"], "c")["d1"]
        assert (found.caption, found.status, found.reason) == ("a dog", "ok", "")
        assert len(store) == 1


def test_half_a_surrogate_pair_is_stored_as_text(path):
    with CaptionStore(path) as store:
        store.put_many(records("d1", caption="a \ud83d dog"), "c")
        assert store.get_many(["d1"], "c")["d1"].caption == "a ? dog"


def test_a_batch_is_stored_whole_or_not_at_all(path):
    with CaptionStore(path) as store:
        with pytest.raises(AttributeError):
            store.put_many(records("d1", "d2"), "c", encoder="e", vectors={"d1": "not a vector"})
        assert len(store) == 0
        store.put_many(records("d1", "d2"), "c")  # and the store can go on
        assert len(store) == 2


def test_replacing_never_takes_a_caption_away(path):
    with CaptionStore(path) as store:
        store.put_many(records("d1"), "c", encoder="e", vectors={"d1": np.ones(2, np.float32)})
        store.put_many(records("d1", caption="a cat"), "c", replace=True)
        store.put_many([CaptionRecord("d1", status="failed", reason="empty_caption")], "c", replace=True)
        store.put_many([], "c", encoder="e", vectors={"d1": np.zeros(2, np.float32)}, replace=True)
        assert store.get_many(["d1"], "c")["d1"].caption == "a cat"
        assert store.get_vectors(["d1"], "e")["d1"].tolist() == [0, 0]
        assert len(store) == 1


def test_signs_are_seen_by_others_as_they_come(path):
    high, low = Sign((1 << 64) - 2, bytes(192)), Sign(7, bytes(range(192)))
    with CaptionStore(path) as one, CaptionStore(path) as other:
        one.put_many(records("d1", "d2"), "c", signs={"d1": high, "d2": low})
        ids, hashes = other.signs_after(0, "c")
        assert [other.sign(int(id_)) for id_ in ids] == [("d1", high), ("d2", low)]
        assert hashes.tolist() == [high.hash, low.hash]
        assert other.last_sign() == ids[-1]
        assert other.get_signs(["d2", "d3"], "c") == {"d2": low}
        assert len(other.signs_after(0, "another captioner")[0]) == 0
        one.put_many(records("d1"), "c", signs={"d1": low}, replace=True)
        later, hashes = other.signs_after(int(ids[-1]), "c")
        assert hashes.tolist() == [low.hash]  # what was replaced comes again
        assert other.sign(int(ids[0])) is None
        one.forget("c", ["d1"])
        assert other.sign(int(later[0])) is None


def test_a_store_of_the_version_before_is_upgraded(path):
    path.parent.mkdir()
    old = sqlite3.connect(path)
    old.executescript(
        """CREATE TABLE captions (
            media_digest TEXT NOT NULL, captioner TEXT NOT NULL, caption TEXT NOT NULL, status TEXT NOT NULL,
            reason TEXT NOT NULL, detail TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL, latency_ms REAL NOT NULL, created_at INTEGER NOT NULL,
            PRIMARY KEY (captioner, media_digest)) WITHOUT ROWID;
        CREATE TABLE vectors (media_digest TEXT NOT NULL, encoder TEXT NOT NULL, vector BLOB NOT NULL,
            PRIMARY KEY (encoder, media_digest));
        CREATE TABLE claims (media_digest TEXT NOT NULL, captioner TEXT NOT NULL, owner TEXT NOT NULL,
            expires_at REAL NOT NULL, PRIMARY KEY (captioner, media_digest)) WITHOUT ROWID;
        INSERT INTO captions VALUES ('d1', 'c', 'a dog', 'ok', '', '', 36, 7, 12.5, 1000001);
        PRAGMA application_id = 1128353876; PRAGMA user_version = 1;"""
    )
    old.close()
    for _ in range(2):
        with CaptionStore(path) as store:
            when = datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC)
            expected = CaptionRecord("d1", "a dog", "ok", "", "", 36, 7, 12.5, when)
            assert store.get_many(["d1"], "c") == {"d1": expected}
            store.put_many(records("d2")[:1], "c", signs={"d2": Sign(1, bytes(192))})
            assert len(store.signs_after(0, "c")[0]) == 1


def test_lists_of_fingerprints_and_the_newest_caption(path):
    early, late = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)
    with CaptionStore(path) as store:
        assert store.captioners() == store.encoders() == []
        store.put_many(
            [CaptionRecord("d1", "first", created_at=early)], "c2", encoder="e", vectors={"d1": VECTOR}
        )
        store.put_many([CaptionRecord("d1", "then", created_at=late), CaptionRecord("d2", "two")], "c1")
        store.put_many([CaptionRecord("d1", status="failed", created_at=late)], "c3")
        assert store.captioners() == ["c1", "c2", "c3"]
        assert store.encoders() == ["e"]
        found = store.newest(["d1", "d2", "d3"])
        assert {key: (record.caption, name) for key, (record, name) in found.items()} == {
            "d1": ("then", "c1"),
            "d2": ("two", "c1"),
        }


def test_rows_come_in_order_page_by_page(path, monkeypatch):
    monkeypatch.setattr("captionary.understand.store._PAGE", 3)
    with CaptionStore(path) as store:
        store.put_many(records(*"gfedcba"), "c2")
        store.put_many(records(*"xyz"), "c1")
        assert [(name, record.media_digest) for name, record in store.rows()] == [
            *(("c1", key) for key in "xyz"),
            *(("c2", key) for key in "abcdefg"),
        ]
        assert [record.media_digest for _, record in store.rows("c1")] == list("xyz")
        assert store.forget("c2", "abz") == 2
        assert store.forget("c2") == 5
        assert len(store) == 3


def test_a_claim_is_renewed_while_its_job_works(path, monkeypatch):
    with CaptionStore(path) as one:
        one.claim(["a", "b"], "c", lease_seconds=1)
        one.put_many(records("x"), "c")  # too soon to renew
        assert one._db.execute("SELECT max(expires_at) FROM claims").fetchone()[0] < time.time() + 2
        one._renewed -= 200
        one.put_many(records("y"), "c")
        assert one._db.execute("SELECT min(expires_at) FROM claims").fetchone()[0] > time.time() + 500


def test_another_containers_process_is_not_taken_for_dead(path):
    with CaptionStore(path) as one, CaptionStore(path) as other:
        one.claim(["a"], "c")
        machine, _, started, name = one._owner.split("|")
        one._db.execute("UPDATE claims SET owner = ?", (f"{machine}x|999999999|{started}|{name}",))
        assert other.claim(["a"], "c") == set()
        one._db.execute("UPDATE claims SET owner = ?", (f"{machine}|999999999|{started}|{name}",))
        assert other.claim(["a"], "c") == {"a"}


def test_claims_are_granted_once(path):
    with CaptionStore(path) as one, CaptionStore(path) as other:
        assert one.claim(["a", "b"], "c") == {"a", "b"}
        assert other.claim(["b", "z"], "c") == {"z"}
        assert other.claim(["a", "b"], "another captioner") == {"a", "b"}
        assert one.claim(["a"], "c") == {"a"}  # its own again
        one.put_many(records("a"), "c")
        one.release(["b"])
        assert other.claim(["a", "b"], "c") == {"a", "b"}
        assert one.claim(["a", "b", "z", "q"], "c") == {"q"}
        one.release()  # all of its own, none of another's
        assert one.claim(["a", "b", "z", "q"], "c") == {"q"}
    with CaptionStore(path) as third:
        assert third.claim(["a", "b", "z"], "c") == {"a", "b", "z"}  # closing gave them up


def test_claims_expire(path):
    with CaptionStore(path) as one, CaptionStore(path) as other:
        one.claim(["a"], "c", lease_seconds=60)
        assert other.claim(["a"], "c") == set()
        ends = one._db.execute("SELECT expires_at FROM claims").fetchone()[0]
        assert 50 < ends - time.time() <= 60
        one._db.execute("UPDATE claims SET expires_at = ?", (time.time() - 1,))
        assert other.claim(["a"], "c") == {"a"}
        assert one.claim(["a"], "c") == set()
        one.release()  # does not take what is now another's
        assert one.claim(["a"], "c") == set()


CLAIMER = """
import sys, time
from pathlib import Path
from captionary.understand.store import CaptionStore
store = CaptionStore(Path(sys.argv[1]))
print(sorted(store.claim(["a", "b"], "c", lease_seconds=3600)), flush=True)
time.sleep(60)
"""


def test_claims_of_a_killed_process_are_free_at_once(path):
    child = start(CLAIMER, path)
    assert child.stdout.readline() == "['a', 'b']\n"
    with CaptionStore(path) as store:
        assert store.claim(["a"], "c") == set()
        child.kill()
        child.wait()
        assert store.claim(["a"], "c") == {"a"}


def test_a_process_id_that_was_given_again_holds_no_claim(path):
    with CaptionStore(path) as one, CaptionStore(path) as other:
        one.claim(["a"], "c")
        host, pid, _, name = one._owner.split("|")
        one._db.execute("UPDATE claims SET owner = ?", (f"{host}|{pid}|1|{name}",))
        assert other.claim(["a"], "c") == ({"a"} if Path("/proc/self/stat").exists() else set())


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from captionary.understand.store import CaptionRecord, CaptionStore, now
store, name = CaptionStore(Path(sys.argv[1])), sys.argv[2]
i = 0
while True:
    keys = [f"{name}-{i + j}" for j in range(5)]
    store.put_many([CaptionRecord(k, "caption of " + k, created_at=now()) for k in keys], "c", encoder="e",
                   vectors={k: np.full(16, i, np.float32) for k in keys})
    i += 5
    sys.stdout.write(f"{i}\\n")
    sys.stdout.flush()
"""


def test_kill_9_loses_nothing_that_was_acknowledged(path):
    rng = random.Random(3)
    acknowledged = {}
    for life in range(10):
        child = start(WRITER, path, life)
        child.stdout.readline()  # it has started: the moment of the kill is one of its work
        time.sleep(rng.random() * 0.05)
        os.kill(child.pid, signal.SIGKILL)
        lines = child.stdout.read().splitlines()
        child.wait()
        acknowledged[life] = int(lines[-1]) if lines else 5
    with CaptionStore(path) as store:
        for life, count in acknowledged.items():
            keys = [f"{life}-{i}" for i in range(count + 10)]
            found, vectors = store.get_many(keys, "c"), store.get_vectors(keys, "e")
            assert set(keys[:count]) <= found.keys()
            assert len(found) in (count, count + 5)  # the batch in the air is whole or absent
            assert found.keys() == vectors.keys()
            assert all(record.caption == f"caption of {key}" for key, record in found.items())
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    duplicates = "SELECT count(*) - count(DISTINCT media_digest) FROM captions"
    assert check.execute(duplicates).fetchone() == (0,)
    check.close()


COUNTER = """
import sys
from pathlib import Path
from captionary.understand.store import CaptionRecord, CaptionStore
store, name = CaptionStore(Path(sys.argv[1])), sys.argv[2]
for i in range(100):
    if store.claim([f"shared-{i}"], "c") and not store.get_many([f"shared-{i}"], "c"):
        store.put_many([CaptionRecord(f"shared-{i}", name), CaptionRecord(f"{name}-{i}")], "c")
print("done")
"""


def test_processes_that_write_at_once(path):
    children = [start(COUNTER, path, name) for name in ("one", "two")]
    assert [child.communicate()[0] for child in children] == ["done\n"] * 2
    with CaptionStore(path) as store:
        shared = store.get_many([f"shared-{i}" for i in range(100)], "c")
        assert len(shared) == 100
        # Every shared key was done by one process only, which shows in its private key.
        assert len(store) == 200
        for i in range(100):
            assert store.get_many([f"{shared[f'shared-{i}'].caption}-{i}"], "c")


def test_a_file_that_is_no_store(path):
    path.parent.mkdir()
    path.write_bytes(b"item_id,caption\n" * 100)
    with pytest.raises(CaptionaryError, match=r"must be a caption store.*name another file"):
        CaptionStore(path)
    assert path.read_bytes() == b"item_id,caption\n" * 100


def test_another_programs_database_is_left_alone(path):
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE bookmarks (url)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(CaptionaryError, match="another program's"):
        CaptionStore(path)
    assert path.read_bytes() == before


def test_a_corrupt_store(path):
    with CaptionStore(path) as store:
        store.put_many(records(*map(str, range(2000))), "c")
    data = bytearray(path.read_bytes())
    data[4096 : 4096 * 20] = b"\xff" * (4096 * 19)
    path.write_bytes(data)
    with pytest.raises(CaptionaryError, match=r"must be intact.*\.recover"), CaptionStore(path) as store:
        store.get_many(map(str, range(2000)), "c")


def test_a_store_of_a_newer_version(path):
    CaptionStore(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(CaptionaryError, match=r"store version == 99, must be <= 2; .*upgrade"):
        CaptionStore(path)


def test_a_full_disk(path):
    with CaptionStore(path) as store:
        store.put_many(records("d1"), "c")
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(CaptionaryError, match="must be on a disk with space left"):
            store.put_many(records(*map(str, range(1000)), caption="x" * 100), "c")
        store._db.execute(f"PRAGMA max_page_count = {pages + 1000}")
        assert store.get_many(["d1", "1"], "c").keys() == {"d1"}
        store.put_many(records("d2"), "c")  # space was freed: it goes on


def test_not_writable(path, tmp_path):
    with CaptionStore(path) as store:
        store._db.execute("PRAGMA query_only = 1")
        with pytest.raises(CaptionaryError, match="must be writable"):
            store.put_many(records("d1"), "c")
    (tmp_path / "file").touch()
    with pytest.raises(CaptionaryError, match="in a writable folder"):
        CaptionStore(tmp_path / "file" / "captions.sqlite")
    with pytest.raises(CaptionaryError, match="a file that can be opened"):
        CaptionStore(tmp_path)


def test_a_store_that_stays_locked(path):
    with CaptionStore(path) as one, CaptionStore(path, busy_seconds=0.05) as other:
        one._db.execute("BEGIN IMMEDIATE")
        with pytest.raises(CaptionaryError, match=r"must be free; .*another process"):
            other.put_many(records("d1"), "c")
        one._db.execute("ROLLBACK")
        other.put_many(records("d1"), "c")
