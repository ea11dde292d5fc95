"""A job is killed again and again: nothing that was acknowledged is lost, and nothing is captioned twice after it.

One light process imports the job once and forks its lives from there, so that a life costs milliseconds.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.understand.fake import write_pictures

from captionary.understand.store import CaptionStore

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), *sys.path])}

LIVES = """
import os, random, signal, sys, time
from pathlib import Path
from tqdm import tqdm
from captionary.understand.captioner import Caption
from captionary.understand.job import CaptionJob, JobOptions
from captionary.understand.store import CaptionStore
from captionary.understand.views import View

path, media, log = map(Path, sys.argv[1:4])
seed, kills, lanes = map(int, sys.argv[4:])
views = [View(name) for name in sorted(os.listdir(media))]
options = JobOptions(batch_size=4 // lanes, similar=None if seed % 2 else 4, force=False)
written = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

def tell(*words):  # one write: whole or not at all, and kept when the process is killed
    os.write(written, (" ".join(words) + chr(10)).encode())

class Fake:
    name = fingerprint = "fake"
    image_size = 8
    def caption(self, images):
        assert len(images) <= 4
        said = [str(image.getpixel((0, 0))).replace(" ", "") for image in images]
        for text in said:
            tell("asked", text)
        time.sleep(0.01)
        return [Caption(text) for text in said]

class Telling(CaptionStore):
    def put_many(self, records, captioner, **more):
        super().put_many(records, captioner, **more)
        for record in records:
            tell("acknowledged", record.caption, record.media_digest)

def live():
    with Telling(path) as store, tqdm(disable=True) as bar:
        fake = Fake()
        fake.lanes = lanes
        CaptionJob(media, fake, store, options, bar).run(views)
    tell("finished")

rng = random.Random(seed)
for life in range(kills + 1):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            live()
            code = 0
        finally:
            os._exit(code)
    if life < kills:
        # From before the store is open until far into the work: a life takes about 10 ms to its first batch.
        time.sleep(rng.random() ** 2 * 0.12)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    tell("died", str(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forked")
@pytest.mark.parametrize(("seed", "lanes"), [(1, 1), (2, 1), (3, 2)])
def test_ninety_kills_lose_nothing_and_pay_nothing_twice(tmp_path, seed, lanes):
    names = write_pictures(tmp_path / "media", 800)  # more than the lives before the last can finish
    path, log = tmp_path / "captions.sqlite", tmp_path / "log"
    arguments = [path, tmp_path / "media", log, seed, 30, lanes]
    subprocess.run([sys.executable, "-c", LIVES, *map(str, arguments)], env=ENVIRONMENT, check=True)
    lines = [line.split() for line in log.read_text().splitlines()]
    lives = [line[1] for line in lines if line[0] == "died"]
    assert len(lives) == 31
    killed = sum(status == "9" for status in lives)
    assert killed >= 25  # the rest had finished before their kill came
    assert lives[-1] == "0"

    acknowledged, asked, again = {}, Counter(), []
    for word, *rest in lines:
        if word == "acknowledged":
            caption, key = rest
            assert key not in acknowledged  # none twice
            acknowledged[key] = caption
        elif word == "asked":
            asked[rest[0]] += 1
            again += [rest[0]] if rest[0] in acknowledged.values() else []
    assert again == []  # no picture was ever asked for after its caption was acknowledged
    # What was asked for twice was in a batch that died with its process, and that was not committed; a captioner with
    # lanes has two.
    twice = sum(asked.values()) - len(asked)
    assert twice <= 4 * lanes * killed

    with CaptionStore(path) as store:
        found = store.get_many(acknowledged, "fake")
        assert {key: record.caption for key, record in found.items()} == acknowledged  # none lost
        # A kill between commit and acknowledgement leaves a record that nobody heard of; it is not made again.
        assert len(acknowledged) <= len(store) == len(names)
        assert len(names) - len(acknowledged) <= 4 * killed
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert check.execute("SELECT count(*) FROM claims").fetchone() == (0,)
    check.close()


WORKING = """
import sys, time
from pathlib import Path
from tqdm import tqdm
from captionary.understand.captioner import Caption
from captionary.understand.job import CaptionJob, JobOptions
from captionary.understand.store import CaptionStore
from captionary.understand.views import View
class Fake:
    name = fingerprint = "fake"
    image_size = 8
    def caption(self, images):
        print("working", flush=True)
        time.sleep(0.05)
        return [Caption("a dog") for image in images]
media = Path(sys.argv[2])
views = [View(path.name) for path in sorted(media.iterdir())]
with CaptionStore(Path(sys.argv[1])) as store, tqdm(disable=True) as bar:
    CaptionJob(media, Fake(), store, JobOptions(batch_size=4, decode_processes=2), bar).run(views)
"""


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(word) for task in tasks.iterdir() for word in (task / "children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are looked up in /proc")
@pytest.mark.parametrize("signal", ["SIGKILL", "SIGINT"])
def test_no_worker_outlives_its_job(tmp_path, signal):
    import signal as signals

    write_pictures(tmp_path / "media", 100)
    command = [sys.executable, "-c", WORKING, str(tmp_path / "captions.sqlite"), str(tmp_path / "media")]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as job:
        assert job.stdout.readline() == "working\n"
        workers = children_of(job.pid)
        assert len(workers) == 2
        job.send_signal(getattr(signals, signal))
        job.wait(10)
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [pid for pid in workers if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # dead, and waiting to be counted by whoever inherited it
