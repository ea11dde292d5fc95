"""How fast rankers train: ours with and without captions, FuxiCTR's DLRM, and TorchRec's with fused row-wise Adagrad.

    python benchmarks/training.py            about an hour on an idle machine; --quick a few minutes, and no result
    python benchmarks/training.py --run DIR  a finished run of configs/demo.yaml, else one is made up to its profiles

Each contender is a process of its own on one thread, with its rows and its model in memory. They take turns: in each
round every one trains some batches while the others wait, in an order that rotates; a ratio is of two speeds of the
same round, and what is reported is the median over rounds with its 95 % bootstrap interval.

On the demo world's rows, ours and FuxiCTR's are compared as trainers, each with its own gathering of batches, and steps
alone, on batches that lie ready (padded for FuxiCTR). TorchRec has no loader of its own: there, and on random rows, all
batches lie ready, for TorchRec as a KeyedJaggedTensor whose pooling is spared the weights. FuxiCTR is installed by pip
into a venv of its own; TorchRec is taken from this environment (see the Makefile).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from published import PUBLISHED
from result import write_result

HERE = Path(__file__).parent
ROOT = HERE.parent
FUXICTR = ["fuxictr==2.3.10", "h5py"]
RANDOM = {"batch": 4096, "features": 26, "rows": 100_000, "width": 32, "tokens": 32, "dense": 13}
BARS = {
    "captions ÷ without, demo rows": 0.95,
    "ours ÷ FuxiCTR, demo rows": 1.5,
    "ours ÷ TorchRec, demo rows": 1.0,
    "ours ÷ TorchRec, random rows": 0.6,
}


class Contender:
    """A process that trains when it is told to.

    Args:
        python: its interpreter.
        words: the script below benchmarks/peers and its arguments.
    """

    def __init__(self, python: str, *words: str) -> None:
        environment = dict(os.environ)
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
        paths = [str(ROOT / "src"), str(HERE), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        script, *rest = words
        self.process = subprocess.Popen(
            [python, str(HERE / "peers" / f"{script}.py"), *rest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.about = self._heard()

    def train(self, seconds: float) -> dict[str, float]:
        """Train for about so long: samples, and the seconds that they took."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self._heard()

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                said: dict[str, Any] = json.loads(line)
                return said
        raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")


def in_turns(
    contenders: dict[str, Contender], rounds: int, seconds: float, clock: str
) -> dict[str, list[float]]:
    """Samples per second of each contender in each round, one after the other in an order that rotates; `clock` says
    whether wall-clock seconds or those of the CPU count."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for name in names:  # compile, fill caches
        contenders[name].train(min(2.0, seconds))
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            done = contenders[name].train(seconds)
            speeds[name].append(done["samples"] / done[clock])
    return speeds


def interval(values: list[float]) -> list[float]:
    """95 % bootstrap interval of the median."""
    rng = np.random.default_rng(0)
    drawn = np.median(rng.choice(values, (4000, len(values))), axis=1)
    return [round(float(each), 3) for each in np.quantile(drawn, [0.025, 0.975])]


def speed(values: list[float]) -> dict[str, Any]:
    """Samples per second over rounds."""
    return {"median": round(statistics.median(values)), "rounds": [round(value) for value in values]}


def ratio(a: list[float], b: list[float]) -> dict[str, Any]:
    """A speed over another, round by round."""
    ratios = [one / other for one, other in zip(a, b, strict=True)]
    return {"median": round(statistics.median(ratios), 3), "interval": interval(ratios)}


def finished_run(folder: Path | None, scratch: Path) -> Path:
    """A run of configs/demo.yaml up to its profiles."""
    if folder is not None:
        return folder.resolve()
    words = [sys.executable, "-m", "captionary", "profile", str(ROOT / "configs" / "demo.yaml")]
    subprocess.run(words, cwd=scratch, check=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
    return scratch / "runs" / "demo"


def fuxictr(folder: Path) -> str:
    """An interpreter with FuxiCTR, which finds torch and numpy where this one has them: pip fetches neither."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*words, *FUXICTR], check=True)
        where = subprocess.run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        )
        (Path(where.stdout.strip()) / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(python)


def main() -> None:
    """Measure everything and write benchmarks/results/training.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="folder of a finished run of configs/demo.yaml")
    parser.add_argument("--peers", type=Path, help="folder to keep FuxiCTR's environment in")
    parser.add_argument("--quick", action="store_true", help="few short rounds, no result file")
    parser.add_argument(
        "--rounds", type=int, default=21, help="of each part, in which all contenders have a turn"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of a turn")
    parser.add_argument("--only", choices=["captions", "demo", "random"], help="one part, no result file")
    chosen = parser.parse_args()
    rounds, seconds = (3, 2.0) if chosen.quick else (chosen.rounds, chosen.seconds)
    clock = "cpu_seconds" if chosen.quick else "seconds"  # quick: bearable on a busy machine
    figures: dict[str, Any] = {"threads": 1, "rounds": rounds, "seconds_a_turn": seconds, "bars": BARS}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        parts = [chosen.only] if chosen.only else ["captions", "demo", "random"]
        run = finished_run(chosen.run, scratch) if set(parts) & {"captions", "demo"} else None
        rows = scratch / "rows"
        if run is not None:
            words = [sys.executable, str(HERE / "peers" / "rows.py"), str(run), str(rows)]
            subprocess.run(words, check=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
        python = fuxictr(chosen.peers or scratch / "fuxictr") if "demo" in parts else ""
        if "captions" in parts:
            figures |= _captions(run, rounds, seconds, clock)
        if "demo" in parts:
            figures |= _demo(rows, python, rounds, seconds, clock)
        if "random" in parts:
            figures |= _random(rounds, seconds, clock)
    print(json.dumps(figures, indent=1, ensure_ascii=False))
    for name, bar in BARS.items():
        if name in figures:
            found = figures[name]["median"]
            print(f"{name}: {found}, {'at least' if found >= bar else 'BELOW'} {bar}")
    if not (chosen.quick or chosen.only):
        print(write_result("training", figures))


def _captions(run: Path | None, rounds: int, seconds: float, clock: str) -> dict[str, Any]:
    arms = ("without", "captions", "visual", "visual and captions")
    contenders = {arm: Contender(sys.executable, "ours", "arm", str(run), arm, "{}") for arm in arms}
    speeds = in_turns(contenders, rounds, seconds, clock)
    _close(contenders)
    figures = {
        "demo rows, five tasks": {arm: speed(values) for arm, values in speeds.items()},
        "captions ÷ without, demo rows": ratio(speeds["captions"], speeds["without"]),
        "visual and captions ÷ without, demo rows": ratio(speeds["visual and captions"], speeds["without"]),
        "visual and captions ÷ visual, demo rows": ratio(speeds["visual and captions"], speeds["visual"]),
    }
    for name, sizes in PUBLISHED.items():
        words = ("ours", "arm", str(run))
        contenders = {arm: Contender(sys.executable, *words, arm, json.dumps(sizes)) for arm in arms[:2]}
        speeds = in_turns(contenders, rounds, seconds, clock)
        _close(contenders)
        figures[f"demo rows, {name}"] = sizes | {arm: speed(values) for arm, values in speeds.items()}
        figures[f"captions ÷ without, demo rows, {name}"] = ratio(speeds["captions"], speeds["without"])
    return figures


def _demo(rows: Path, python: str, rounds: int, seconds: float, clock: str) -> dict[str, Any]:
    contenders = {
        "ours": Contender(sys.executable, "ours", "rows", str(rows)),
        "ours, steps alone": Contender(sys.executable, "ours", "ready", str(rows)),
        "FuxiCTR": Contender(python, "fuxictr_dlrm", "loaded", str(rows)),
        "FuxiCTR, steps alone": Contender(python, "fuxictr_dlrm", "ready", str(rows)),
        "TorchRec, steps alone": Contender(sys.executable, "torchrec_dlrm", "rows", str(rows)),
    }
    speeds = in_turns(contenders, rounds, seconds, clock)
    versions = {name: each.about for name, each in contenders.items()}
    _close(contenders)
    ours, alone = speeds["ours"], speeds["ours, steps alone"]
    return {
        "demo rows, one task": {name: speed(values) for name, values in speeds.items()},
        "versions": versions,
        "ours ÷ FuxiCTR, demo rows": ratio(ours, speeds["FuxiCTR"]),
        "ours ÷ FuxiCTR, demo rows, steps alone": ratio(alone, speeds["FuxiCTR, steps alone"]),
        "ours ÷ TorchRec, demo rows": ratio(alone, speeds["TorchRec, steps alone"]),
        "ours with gathering ÷ TorchRec without, demo rows": ratio(ours, speeds["TorchRec, steps alone"]),
    }


def _random(rounds: int, seconds: float, clock: str) -> dict[str, Any]:
    sizes = json.dumps(RANDOM)
    contenders = {
        "ours": Contender(sys.executable, "ours", "random", sizes),
        "TorchRec": Contender(sys.executable, "torchrec_dlrm", "random", sizes),
    }
    speeds = in_turns(contenders, rounds, seconds, clock)
    _close(contenders)
    return {
        "random rows": RANDOM | {name: speed(values) for name, values in speeds.items()},
        "ours ÷ TorchRec, random rows": ratio(speeds["ours"], speeds["TorchRec"]),
    }


def _close(contenders: dict[str, Contender]) -> None:
    for each in contenders.values():
        each.close()


if __name__ == "__main__":
    main()
