"""The main job on public data sets: what captions are worth there, as it comes out.

    python benchmarks/public.py --data DIR --work DIR [NAME ...]

DIR holds the folders movielens_posters, oasis and kuairand_pure; NAME is a config under configs/ (default: all of
them). Writes one figure file with the evidence of each run: verdict, arms, tests, warnings; nothing of the data.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from result import RESULTS, read_result, write_result

ROOT = Path(__file__).parent.parent
SOURCES = {
    "movielens": ("movielens-posters", "movielens_posters"),
    "oasis": ("oasis", "oasis"),
    "kuairand": ("kuairand", "kuairand_pure"),
}
CONFIGS = ("oasis", "oasis-on-visual", "kuairand", "movielens-cold", "movielens-warm")


def captionary(*words: str, cwd: Path) -> None:
    """Run one verb; its output goes to the terminal."""
    subprocess.run([sys.executable, "-m", "captionary", *words], cwd=cwd, check=True)


def main() -> None:
    """Convert what is asked for, run it, and write benchmarks/results/public.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("names", nargs="*", default=list(CONFIGS))
    options = parser.parse_args()
    work = options.work.resolve()
    shutil.copytree(ROOT / "configs", work / "configs", dirs_exist_ok=True)
    figures: dict[str, Any] = {}
    if (RESULTS / "public.json").exists():
        figures = read_result("public")["figures"]
    for name in options.names:
        key = name.split("-")[0]
        adapter, source = SOURCES[key]
        if not (work / "data" / key).exists():
            captionary(
                "data",
                adapter,
                "--from",
                str(options.data.resolve() / source),
                "--out",
                f"data/{key}",
                cwd=work,
            )
        captionary("run", f"configs/{name}.yaml", cwd=work)
        evidence = json.loads((work / "runs" / name / "report" / "evidence.json").read_text())
        for left_out in ("fingerprints", "hardware", "command", "config"):
            evidence["run"].pop(left_out)
        figures[name] = evidence
        result = write_result("public", figures)
    text = result.read_text()
    for path, name in (
        (work, "WORK"),
        (options.work, "WORK"),
        (options.data.resolve(), "DATA"),
        (options.data, "DATA"),
    ):
        text = text.replace(str(path), name)
    result.write_text(text)


if __name__ == "__main__":
    main()
