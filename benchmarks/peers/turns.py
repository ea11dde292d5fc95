"""What a contender of benchmarks/training.py does: train for so many seconds when a line on its input says so."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


def take_turns(step: Callable[[Any], int], batches: Iterator[Any], about: dict[str, Any]) -> None:
    """Answer each number of seconds with the samples learnt from, and the wall-clock and CPU seconds that it took.

    Args:
        step: learn from a batch, and wait until that is done; its rows.
        batches: endless.
        about: versions, said once.
    """
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        seconds, samples = float(line), 0
        began, worked = time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            samples += step(next(batches))
        taken = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - worked}
        print(json.dumps({"samples": samples} | taken), flush=True)
