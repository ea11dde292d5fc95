"""How soon the tokens of an uploaded picture are on the ranking path, with the built-in captioner.

    python benchmarks/ingest.py            5 uploads/s for a minute, then all at once
    python benchmarks/ingest.py --quick    5 uploads/s for 6 seconds; no result file

The world's own pictures, none of which the caption store knows. A worker process as `captionary ingest run` begins it
takes them from the SQLite log; uploads are sent at fixed moments whatever it does, and an item counts as visible when a
reader finds its row in the store, asked every 5 ms. Beside it 50 events a second go through the same worker.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from result import write_result

from captionary.online.log import (
    EVENTS,
    MEDIA,
    EventLog,
    EventMessage,
    MediaMessage,
    event_draft,
    media_draft,
    open_log,
)
from captionary.online.spool import Spool
from captionary.online.store import OnlineStore, open_store
from captionary.represent.profiles import ProfileConfig
from captionary.world.render import render
from captionary.world.scenes import draw_scenes

RATE = 5.0
WORKER = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {benchmarks!r})
from ingest import opened, tokenizer
from captionary.online.ingest import IngestRecipe, MediaPipeline
from captionary.online.log import open_log
from captionary.online.spool import Spool
from captionary.online.worker import IngestWorker
from captionary.understand.builtin import BuiltinCaptioner
from captionary.understand.store import CaptionStore
import signal
folder = Path(sys.argv[1])
class Rows:
    version = "v1"
    def fold(self, items):
        return np.array([[items.tokens.row(n).sum()] for n in range(len(items.ids))], np.float32)
pipeline = MediaPipeline(BuiltinCaptioner(), CaptionStore(folder / "captions.sqlite"), Spool(folder / "spool"),
                         IngestRecipe(tokenizer=tokenizer()))
worker = IngestWorker(open_log(str(folder / "log.sqlite")), opened(folder), pipeline, folders=[Rows()])
signal.signal(signal.SIGTERM, lambda *_: worker.stop())
print("ready", flush=True)
worker.run()
"""


def tokenizer() -> Any:
    """One that needs no fitting."""
    from captionary.represent.tokenizers import TokenizerConfig, make_tokenizer

    return make_tokenizer(TokenizerConfig(kind="hash", vocabulary_size=4096)).fit([])


def opened(folder: Path) -> OnlineStore:
    """The online store of the measurement."""
    return open_store(str(folder / "store"), ProfileConfig(event_types=("like",)), tokenizer().idf())


def main() -> None:
    """Measure, and write benchmarks/results/ingest.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="6 seconds, and no result file")
    quick = parser.parse_args().quick
    paced, burst = (30, 10) if quick else (300, 100)
    pictures = drawn(paced + burst)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        words = [sys.executable, "-c", WORKER.format(benchmarks=str(Path(__file__).parent)), scratch]
        worker = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        worker.stdout.readline()
        log, spool = open_log(str(folder / "log.sqlite")), Spool(folder / "spool")
        store = opened(folder)
        warm = threading.Event()
        send(log, spool, "warm", pictures[0][:-1] + b"x")
        send(log, spool, "warm too", drawn(1, seed=9)[0])
        visible(store, ["warm too"], warm)
        events = threading.Thread(target=send_events, args=(folder, warm))
        events.start()
        at_rate = {"uploads_a_second": RATE, "uploads": paced} | timed(
            store, log, spool, pictures[:paced], RATE
        )
        print(at_rate)
        at_once = {"uploads": burst} | timed(store, log, spool, pictures[paced:], None)
        print(at_once)
        warm.set()
        events.join()
        worker.terminate()
        worker.wait()
    if not quick:
        print(write_result("ingest", {"at_rate": at_rate, "at_once": at_once, "events_a_second": 50}))


def timed(
    store: OnlineStore, log: EventLog, spool: Spool, pictures: list[bytes], rate: float | None
) -> dict[str, float]:
    """Send pictures at their moments, and see when each is visible; seconds from the moment it was to be sent."""
    names = [f"{rate} {number}" for number in range(len(pictures))]
    seen: dict[str, float] = {}
    watch = threading.Thread(target=lambda: seen.update(visible(store, names, threading.Event())))
    watch.start()
    began = time.perf_counter()
    due = [began + (0 if rate is None else number / rate) for number in range(len(pictures))]
    for name, data, moment in zip(names, pictures, due, strict=True):
        time.sleep(max(0.0, moment - time.perf_counter()))
        send(log, spool, name, data)
    watch.join()
    taken = [seen[name] - moment for name, moment in zip(names, due, strict=True)]
    quantiles = {
        name: float(np.quantile(taken, q)) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }
    return {name: round(value, 3) for name, value in (quantiles | {"most": max(taken)}).items()}


def visible(store: OnlineStore, names: list[str], ended: threading.Event) -> dict[str, float]:
    """When each item first had a row."""
    seen: dict[str, float] = {}
    while len(seen) < len(names) and not ended.is_set():
        left = [name for name in names if name not in seen]
        present = store.read(0, left, 0, version="v1", width=1).present
        moment = time.perf_counter()
        seen.update({name: moment for name, there in zip(left, present, strict=True) if there})
        time.sleep(0.005)
    return seen


def send(log: EventLog, spool: Spool, name: str, data: bytes) -> None:
    """As the service does with an upload."""
    message = MediaMessage(item_id=name, media=(spool.put(data),), received_at=time.time_ns() // 1000)
    log.append(MEDIA, [media_draft(message, name)])


def send_events(folder: Path, ended: threading.Event) -> None:
    """50 events a second."""
    log, number = open_log(str(folder / "log.sqlite")), 0
    while not ended.wait(0.1):
        drafts = []
        for _ in range(5):
            number += 1
            event = EventMessage(
                user_id=number % 97,
                item_id=f"5.0 {number % 50}",
                event="like",
                timestamp=time.time_ns() // 1000,
            )
            drafts.append(event_draft(event, str(number)))
        log.append(EVENTS, drafts)


def drawn(count: int, seed: int = 0) -> list[bytes]:
    """PNG files of scenes."""
    scenes = draw_scenes(np.random.default_rng(seed), count)
    files = []
    for row in range(count):
        out = io.BytesIO()
        render(scenes, row).save(out, "PNG")
        files.append(out.getvalue())
    return files


if __name__ == "__main__":
    main()
