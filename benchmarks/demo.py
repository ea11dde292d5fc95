"""How long the main job takes and how much memory, from an empty folder: captionary run configs/demo.yaml.

    python benchmarks/demo.py

Both runs are of the installed command: the first does everything, the second redoes nothing. Memory is the largest
sum of resident sets over the process and its children, sampled four times a second (pages that they share count
twice). Also runs the world without semantics, whose report must show no gain.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from result import write_result

ROOT = Path(__file__).parent.parent


def measured(config: Path, cwd: Path) -> dict[str, float]:
    """Wall-clock seconds and peak gigabytes of one `captionary run`."""
    began = time.monotonic()
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}  # as a user would run it
    run = subprocess.Popen([sys.executable, "-m", "captionary", "run", str(config)], cwd=cwd, env=environment)
    process, peak = psutil.Process(run.pid), 0
    while run.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in family))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.25)
    if run.returncode:
        raise SystemExit(f"{config.name} exited with {run.returncode}")
    return {"seconds": round(time.monotonic() - began, 1), "peak_gb": round(peak / 1e9, 2)}


def stages(folder: Path) -> dict[str, Any]:
    """Seconds of each stage, as its manifest has them."""
    return {path.parent.name: json.loads(path.read_text())["seconds"] for path in folder.glob("*/stage.json")}


def main() -> None:
    """Run the demo twice and the null world once, and write benchmarks/results/demo.json."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        cwd = Path(scratch)
        for name in ("demo", "null-world"):
            config = ROOT / "configs" / f"{name}.yaml"
            figures[name] = {"first": measured(config, cwd), "second": measured(config, cwd)}
            figures[name]["stages"] = stages(cwd / "runs" / name)
            evidence = json.loads((cwd / "runs" / name / "report" / "evidence.json").read_text())
            for key in ("fingerprints", "hardware", "command"):
                evidence["run"].pop(key)
            figures[name]["evidence"] = evidence
            manifest = json.loads((cwd / "runs" / name / "captions" / "stage.json").read_text())
            figures[name]["images_per_second"] = manifest["facts"]["images_per_second"]
    print(write_result("demo", figures))


if __name__ == "__main__":
    main()
