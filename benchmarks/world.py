"""How fast the simulated world writes its log, and in how much memory.

    python benchmarks/world.py

Each size in a process of its own, three times for the demo's and once for ten million: items without pictures, so that
it is the log that is measured; the demo's once more with its 3,006 pictures.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from result import write_result

SIZES: dict[str, tuple[dict[str, Any], int]] = {
    "200,000 impressions": ({"pictures": False}, 3),
    "200,000 impressions and 3,006 pictures": ({}, 3),
    "10,000,000 impressions, 40,000 users": (
        {"pictures": False, "users": 40_000, "impressions": 10_000_000},
        1,
    ),
}
PROBE = """
import json, resource, sys, time
from pathlib import Path
from captionary.world.market import make_world
from captionary.world.settings import WorldConfig
began = time.monotonic()
make_world(WorldConfig(**json.loads(sys.argv[1])), Path(sys.argv[2]) / "world")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([time.monotonic() - began, peak]))
"""


def main() -> None:
    """Measure every size and write benchmarks/results/world.json."""
    figures: dict[str, Any] = {}
    for name, (config, runs) in SIZES.items():
        seconds, peaks = [], []
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as scratch:
                words = [sys.executable, "-c", PROBE, json.dumps(config), scratch]
                out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            taken, peak = json.loads(out)
            seconds.append(round(taken, 2))
            peaks.append(round(peak))
        figures[name] = {
            "seconds": seconds,
            "median_seconds": statistics.median(seconds),
            "peak_mb": max(peaks),
        }
        print(name, figures[name])
    print(write_result("world", figures))


if __name__ == "__main__":
    main()
