"""Threads against worker processes for reading ahead: pictures a second of decoding alone, and beside a busy captioner.

    python benchmarks/decoding.py [--quick]

Photographs of 1,600 × 1,200 pixels, JPEG, shrunk to a shorter side of 224. The busy captioner multiplies matrices on
one thread for 5 ms a picture, as a model does; what it loses is what decoding takes from it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from result import write_result

from captionary.understand.caption import caption_items
from captionary.understand.captioner import Caption
from captionary.understand.store import CaptionStore


class _Captioner:
    name = fingerprint = "benchmark"
    image_size = 224

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def caption(self, images: Sequence[Image.Image]) -> list[Caption]:
        left = self.seconds * len(images)
        matrix = np.ones((256, 256), np.float32)
        while left > 0:  # until so much work is done, however long that takes beside the decoding
            began = time.thread_time()
            for _ in range(10):
                matrix @ matrix
            left -= time.thread_time() - began
        return [Caption("a picture")] * len(images)


def main() -> None:
    """Measure and write benchmarks/results/decoding.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60 pictures instead of 600")
    quick = parser.parse_args().quick
    pictures = 60 if quick else 600
    cores = len(os.sched_getaffinity(0))
    figures: dict[str, Any] = {"pictures": pictures, "cores": cores, "pictures a second": {}}
    with tempfile.TemporaryDirectory() as scratch:
        media = Path(scratch) / "media"
        media.mkdir()
        rng = np.random.default_rng(0)
        for i in range(pictures):
            small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
            small.resize((1600, 1200), Image.Resampling.BICUBIC).save(media / f"{i:04d}.jpg", quality=88)
        names = sorted(path.name for path in media.iterdir())
        items = pa.table({"item_id": names, "media": [[name] for name in names]})
        ways = {"1 thread": (1, 0), "2 threads": (2, 0), "1 process": (1, 1), "2 processes": (2, 2)}
        for busy, seconds in (("decoding alone", 0.0), ("beside a busy captioner", 0.005)):
            for way, (threads, processes) in ways.items():
                with CaptionStore(Path(scratch) / f"{busy} {way}.sqlite") as store:
                    report = caption_items(
                        items,
                        media,
                        _Captioner(seconds),
                        store,
                        decode_threads=threads,
                        decode_processes=processes,
                    )
                rate = round(report.new / report.seconds, 1)
                figures["pictures a second"].setdefault(busy, {})[way] = rate
                print(busy, way, rate)
    print(write_result("decoding-quick" if quick else "decoding", figures))


if __name__ == "__main__":
    main()
