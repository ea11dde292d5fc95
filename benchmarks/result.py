"""What every benchmark writes: figures with commit, command, hardware and date, into benchmarks/results/NAME.json."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write_result(name: str, figures: dict[str, Any]) -> Path:
    """Write `figures` with their provenance; returns the path."""
    root = Path(__file__).parent.parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = [line for line in git("status", "--porcelain").splitlines() if "benchmarks/results" not in line]
    result = {
        "name": name,
        "commit": git("rev-parse", "--short", "HEAD") + (" + uncommitted changes" if changed else ""),
        "command": re.sub(
            r"(?<=\s)/\S*/", "", " ".join(["python", *sys.orig_argv[1:]]).replace(str(root) + "/", "")
        ),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": _hardware(),
        "python": platform.python_version(),
        "figures": figures,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def read_result(name: str) -> dict[str, Any]:
    """Read what `write_result` wrote."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def _hardware() -> str:
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, {_card()}"


def _card() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no accelerator"
