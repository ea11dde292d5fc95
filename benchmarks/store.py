"""A caption store of a million records: opening, looking up, adding, and the search of near-duplicates.

    python benchmarks/store.py [--quick]

Records as of the built-in captioner: a caption of 60 characters, a vector of 320 numbers for one in ten, a sign each.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from result import write_result

from captionary.understand.similar import HashIndex, Sign
from captionary.understand.store import CaptionRecord, CaptionStore, now

CAPTION = "a small brown dog runs over the wet sand of a beach at noon."
BATCH, BULK = 32, 10_000


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def _put(
    store: CaptionStore, start: int, count: int, rng: np.random.Generator, *, vectors: bool = True
) -> None:
    keys = [f"{i:032x}" for i in range(start, start + count)]
    hashes = rng.integers(0, 1 << 64, count, dtype=np.uint64).tolist()
    grids = rng.integers(0, 256, (count, 192), dtype=np.uint8)
    present = now()
    store.put_many(
        [CaptionRecord(key, CAPTION, "ok", "", "", 36, 14, 20.0, present) for key in keys],
        "builtin-0123456789abcdef",
        encoder="encoder-0123456789abcdef",
        vectors={key: np.ones(320, np.float32) for key in keys[::10]} if vectors else None,
        signs={
            key: Sign(hash_, grid.tobytes()) for key, hash_, grid in zip(keys, hashes, grids, strict=True)
        },
    )


def main() -> None:
    """Measure and write benchmarks/results/store.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20,000 records instead of a million")
    parser.add_argument(
        "--scratch", type=Path, help="folder on the disk to measure; default: the temporary one"
    )
    options = parser.parse_args()
    rows = 20_000 if options.quick else 1_000_000
    rng = np.random.default_rng(0)
    folder = Path(tempfile.mkdtemp(dir=options.scratch))
    path = folder / "captions.sqlite"
    try:
        figures: dict[str, Any] = {"records": rows}
        with CaptionStore(path) as store:
            seconds, _ = _timed(lambda: [_put(store, i, BULK, rng) for i in range(0, rows, BULK)])
            figures["records a second, added 10,000 at a time"] = round(rows / seconds)
            seconds, _ = _timed(
                lambda: [_put(store, rows + i * BATCH, BATCH, rng, vectors=False) for i in range(200)]
            )
            figures["records a second, added 32 at a time, each batch flushed to disk"] = round(
                200 * BATCH / seconds
            )
        figures["size, MB"] = round(path.stat().st_size / 1e6)
        opened = []
        for _ in range(5):
            seconds, store = _timed(lambda: CaptionStore(path))
            opened.append(seconds)
            store.close()
        figures["open, s (median of 5)"] = round(statistics.median(opened), 4)
        store = CaptionStore(path)
        keys = [f"{i:032x}" for i in rng.integers(0, rows, 10_000).tolist()]
        seconds, found = _timed(lambda: store.get_many(keys, "builtin-0123456789abcdef"))
        figures["10,000 look-ups, s"] = round(seconds, 3)
        figures["found"] = len(found)
        seconds, (ids, hashes) = _timed(lambda: store.signs_after(0, "builtin-0123456789abcdef"))
        figures["read all hashes, s"] = round(seconds, 3)
        index = HashIndex(4)
        seconds, _ = _timed(lambda: index.extend(ids, hashes))
        figures["index them, s"] = round(seconds, 3)
        asked = [int(h) ^ (1 << 7) ^ (1 << 33) for h in hashes[rng.integers(0, len(hashes), 1000)]]
        seconds, answers = _timed(lambda: [index.near(one) for one in asked])
        figures["one search of near-duplicates, ms"] = round(seconds, 4)  # of 1,000 searches
        figures["near-duplicates found, share"] = sum(bool(answer) for answer in answers) / 1000
        figures["peak memory, MB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        store.close()
    finally:
        shutil.rmtree(folder)
    for name, value in figures.items():
        print(f"{name}: {value}")
    print(write_result("store-quick" if options.quick else "store", figures))


if __name__ == "__main__":
    main()
