"""How fast the online store reads what one ranking request needs, and how fast it is written.

    python benchmarks/online_store.py            LMDB, and Redis where `redis-server` is installed
    python benchmarks/online_store.py --quick    a tenth of everything

One request: 5 lists of one user, their decisions, and 500 rows of 64 numbers, each request of another user and other
items out of 50,000. Reads are timed while nothing else runs, and once more while events are written beside.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from result import write_result

from captionary.online.items import ItemRecord
from captionary.online.log import EventMessage
from captionary.online.store import OnlineStore, open_store
from captionary.online.updates import ItemUpdate, apply_events, put_items
from captionary.represent.profiles import ProfileConfig

EVENTS = ("like", "comment", "share", "complete", "follow")
WIDTH, VOCABULARY, CANDIDATES, TOKENS = 64, 8000, 500, 12
DAY = 86_400_000_000


def main() -> None:
    """Measure, and write benchmarks/results/online_store.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, and no result file")
    quick = parser.parse_args().quick
    scale = 10 if quick else 1
    sizes = {
        "items": 50_000 // scale,
        "users": 2_000 // scale,
        "events": 100_000 // scale,
        "reads": 3000 // scale,
    }
    figures: dict[str, Any] = {
        "sizes": sizes | {"candidates": CANDIDATES, "row": WIDTH, "types": len(EVENTS)}
    }
    with tempfile.TemporaryDirectory() as folder:
        figures["lmdb"] = measured(str(Path(folder) / "store"), sizes)
        print("lmdb", figures["lmdb"])
        with server(Path(folder)) as url:
            if url is not None:
                figures["redis"] = measured(url, sizes)
                print("redis", figures["redis"])
    if not quick:
        print(write_result("online_store", figures))


def measured(url: str, sizes: dict[str, int]) -> dict[str, Any]:
    """Fill a store and read it."""
    rng = np.random.default_rng(0)
    config = ProfileConfig(event_types=EVENTS, half_life_days=14.0, top_k=24)
    store = open_store(url, config, np.ones(VOCABULARY, np.float32))
    began = time.perf_counter()
    for start in range(0, sizes["items"], 1000):
        put_items(store, [item(number, rng) for number in range(start, min(start + 1000, sizes["items"]))])
    items_a_second = sizes["items"] / (time.perf_counter() - began)
    apply_events(store, events(50, sizes, rng))  # compiles
    began = time.perf_counter()
    for _ in range(0, sizes["events"], 500):
        apply_events(store, events(500, sizes, rng))
    events_a_second = sizes["events"] / (time.perf_counter() - began)
    alone = reads(store, sizes, rng)
    ended = threading.Event()

    def write() -> None:
        other = np.random.default_rng(1)
        while not ended.is_set():
            apply_events(store, events(50, sizes, other))
            ended.wait(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    beside = reads(store, sizes, rng)
    ended.set()
    writer.join()
    store.close()
    return {
        "items_written_a_second": round(items_a_second),
        "events_applied_a_second": round(events_a_second),
        "read_ms": alone,
        "read_ms_beside_1000_events_a_second": beside,
    }


def reads(store: OnlineStore, sizes: dict[str, int], rng: np.random.Generator) -> dict[str, float]:
    """p50 and p99 of one request's features, milliseconds."""
    taken = []
    for _ in range(sizes["reads"]):
        wanted = rng.integers(0, sizes["items"], CANDIDATES).tolist()
        user = int(rng.integers(0, sizes["users"]))
        began = time.perf_counter()
        read = store.read(user, wanted, 400 * DAY, version="v1", width=WIDTH)
        taken.append(1000 * (time.perf_counter() - began))
        assert read.present.all()
    return {name: round(float(np.quantile(taken, q)), 3) for name, q in (("p50", 0.5), ("p99", 0.99))}


def item(number: int, rng: np.random.Generator) -> ItemUpdate:
    """An item with tokens and a row."""
    tokens = rng.integers(0, VOCABULARY, TOKENS).astype("<i4").tobytes()
    record = ItemRecord(item_id=number, status="ok", tokens=tokens, caption="a dog on a sofa in the park")
    return ItemUpdate(record, {"v1": rng.normal(size=WIDTH).astype(np.float32)})


def events(count: int, sizes: dict[str, int], rng: np.random.Generator) -> list[EventMessage]:
    """The next events, in order of time."""
    moment = time.time_ns() // 1000 % DAY
    return [
        EventMessage(
            user_id=int(rng.integers(0, sizes["users"])),
            item_id=int(rng.integers(0, sizes["items"])),
            event=EVENTS[int(rng.integers(0, len(EVENTS)))],
            timestamp=moment + number,
        )
        for number in range(count)
    ]


@contextmanager
def server(folder: Path) -> Iterator[str | None]:
    """A Redis server on a free loopback port that keeps what it acknowledges; None where it is not installed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    try:
        process = subprocess.Popen(
            [*words, "--appendonly", "yes", "--appendfsync", "always"], stdout=subprocess.DEVNULL
        )
    except FileNotFoundError:
        yield None
        return
    time.sleep(0.5)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
