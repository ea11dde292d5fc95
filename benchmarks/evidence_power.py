"""Does the evidence machinery say `gain` where there is one, and only there?

    python benchmarks/evidence_power.py [--quick] [--work DIR] [--workers N]

Real: the worlds (`captionary.world`: users, items, exposure, drifting tastes, labels, true probabilities), and all of
the evidence code, `evaluate` and `conclude` as a run calls them. Simulated: the scores of the rankers, since thousands
cannot be trained here. A score is the logit of what a ranker can know without captions (of the true logit its best sum
of a user's and an item's part), for the arm with captions a planted share of what is left of the true logit, and
training noise: drawn anew for each arm and seed, half on items and half on impressions, at the scale at which gains
spread over seeds as real rankers' do in the world without semantics (the median arm of results/demo.json). What such
scores cannot show is luck that all seeds of an arm share, one training set; so some small worlds without semantics go
through the whole chain, captions and trainings included.

Asked: how often nothing is taken for something (strength 0); how often a planted gain is found, by its size and by
rows; and whether the plan that "cannot tell" proposes keeps its word: `gain` with the rows and seeds that it asked for,
`cannot tell` with a tenth of the rows.

Each world's answer is kept in DIR as it comes: a run that was stopped continues.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from result import read_result, write_result
from scipy import stats
from scipy.special import expit, logit

from captionary.contract import open_dataset
from captionary.evidence.arms import Arm, placebo_of
from captionary.evidence.evaluate import Evaluation, evaluate
from captionary.evidence.power import PAPER_GAIN
from captionary.evidence.result import RunInfo
from captionary.evidence.verdict import conclude
from captionary.stages import code_version
from captionary.world.market import make_world
from captionary.world.settings import WorldConfig

TASKS = ("like", "time_spent")
VISUAL = Arm(name="+visual", visual=True)
TOKENS = Arm(name="+visual+tokens(A)", visual=True, tokens="A")
SHUFFLED = placebo_of(TOKENS, "shuffled")
DEMO_ROWS = 23_810
MOST = 12_000_000
"""Rows times seeds that one world may have."""
Floats = npt.NDArray[np.float32]


class Job(NamedTuple):
    """One simulated comparison."""

    seed: int
    rows: int
    seeds: int
    strength: float
    """Of semantics in the world."""
    seen: float
    """Share of what only captions can tell that the arm with tokens sees."""
    noise: float
    """Scale of training noise."""
    placebo: bool = False

    @property
    def key(self) -> str:
        """Under which its answer is kept."""
        return json.dumps([round(x, 9) if isinstance(x, float) else x for x in self])


class Scores(Mapping[str, Floats]):
    """Arm → scores [S, N, T], drawn when asked for, so that one arm is in memory at a time."""

    def __init__(self, job: Job, known: Floats, said: Floats, item: npt.NDArray[np.int64]) -> None:
        self._job, self._known, self._said, self._item = job, known, said, item
        self._arms = [VISUAL, TOKENS, *([SHUFFLED] if job.placebo else [])]

    def __getitem__(self, name: str) -> Floats:
        place = [arm.name for arm in self._arms].index(name)
        rng = np.random.default_rng((self._job.seed, place))
        seen = self._job.seen * self._said if name == TOKENS.name else np.float32(0)
        scores = np.empty((self._job.seeds, *self._known.shape), np.float32)
        for drawn in scores:
            luck = rng.standard_normal((int(self._item.max()) + 1, len(TASKS)), np.float32)[self._item]
            luck += rng.standard_normal(self._known.shape, np.float32)
            expit(self._known + seen + np.float32(self._job.noise) * luck, out=drawn)
        return scores

    def __iter__(self) -> Iterator[str]:
        return iter(arm.name for arm in self._arms)

    def __len__(self) -> int:
        return len(self._arms)


def compared(job: Job) -> Evaluation:
    """A world, its scores, and what the evidence code makes of them."""
    config = WorldConfig(
        seed=job.seed,
        items=1500,
        users=max(job.rows // 20, 40),
        impressions=max(job.rows, 100),
        semantic_strength=job.strength,
        pictures=False,
    )
    with tempfile.TemporaryDirectory() as scratch:
        dataset = open_dataset(make_world(config, Path(scratch) / "world"))
        shown = dataset.impressions()
        truth = dataset.truth()
        places = [[task.name for task in dataset.spec.tasks].index(task) for task in TASKS]
        labels = dataset.labels(shown)[:, places]
        user = np.unique(shown["user_id"].to_numpy(), return_inverse=True)[1]
        item = np.unique(shown["item_id"].to_numpy(), return_inverse=True)[1]
        assert truth is not None
        assert truth["impression_id"].equals(shown["impression_id"])
        true = logit(np.stack([truth[task].to_numpy() for task in TASKS], axis=1))
    known = true if job.strength == 0 else without_captions(true, user, item)
    scores = Scores(job, known.astype(np.float32), (true - known).astype(np.float32), item)
    arms = [VISUAL, TOKENS, SHUFFLED] if job.placebo else [VISUAL, TOKENS]
    # No user is named for GAUC and recalibration, which are not asked about and take most of the time.
    return evaluate(labels, user, TASKS, scores, arms, subsets_of="reader", seed=job.seed, target=PAPER_GAIN)


def without_captions(
    true: npt.NDArray[np.float64], user: npt.NDArray[np.int64], item: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The sum of a user's and an item's part that is nearest to the true logits [N, T]: alternating means."""
    parts = np.zeros_like(true)
    for task in range(true.shape[1]):
        of_user, of_item = np.zeros(user.max() + 1), np.zeros(item.max() + 1)
        for _ in range(6):
            of_user = _means(true[:, task] - of_item[item], user)
            of_item = _means(true[:, task] - of_user[user], item)
        parts[:, task] = of_user[user] + of_item[item]
    return parts


def _means(values: npt.NDArray[np.float64], of: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.bincount(of, weights=values) / np.maximum(np.bincount(of), 1)


def answer(job: Job) -> dict[str, Any]:
    """What is kept of a comparison: plain JSON values."""
    found = compared(job)
    arm, detail = found.arms[1], found.details[0]
    outcome = arm.verdict
    if job.placebo:
        run = RunInfo(
            name="power", dataset="world", created_at="", train_rows=0, eval_rows=job.rows, users=0, items=0
        )
        outcome = conclude(found, run=run).outcome
    return {
        "verdict": arm.verdict,
        "outcome": outcome,
        "gain": arm.auc_gain,
        "seed_sd": arm.seed_sd,
        "p": arm.p_value,
        "combined_p": arm.combined_p_value,
        "task_p": min((p for p in detail.task_p_adjusted.values() if p is not None), default=1.0),
        "need": [detail.need.rows, detail.need.seeds] if detail.need else None,
    }


class Answers:
    """Answers kept in a file, line by line; what is there is not computed again."""

    def __init__(self, path: Path, workers: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._workers = path, workers
        self._known: dict[str, Any] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.endswith("}"):  # a line that was cut short by a kill is made anew
                    kept = json.loads(line)
                    self._known[kept["key"]] = kept["answer"]

    def of(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """The answers of all `jobs`, in their order."""
        missing = [job for job in jobs if job.key not in self._known]
        if self._workers > 1 and missing:
            with ProcessPoolExecutor(self._workers) as pool:
                for job, found in zip(missing, pool.map(answer, missing), strict=True):
                    self.keep(job.key, found)
        else:
            for job in missing:
                self.keep(job.key, answer(job))
        return [self._known[job.key] for job in jobs]

    def keep(self, key: str, found: Any) -> None:
        """Write an answer down."""
        self._known[key] = found
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "answer": found}) + "\n")

    def get(self, key: str) -> Any:
        """An answer, or None."""
        return self._known.get(key)


def calibrated(answers: Answers, quick: bool) -> tuple[float, float]:
    """(noise, seed spread that it makes): the scale at which gains spread over seeds as real rankers' do."""
    arms = read_result("demo")["figures"]["null-world"]["evidence"]["arms"]
    wanted = float(np.median([arm["seed_sd"] for arm in arms if arm["seed_sd"] is not None]))
    noise = 0.1
    for step in range(4):
        made = answers.of(
            [Job(900 + 10 * step + i, DEMO_ROWS, 6, 0.0, 0.0, noise) for i in range(2 if quick else 6)]
        )
        noise *= wanted / float(np.sqrt(np.mean([one["seed_sd"] ** 2 for one in made])))
    return noise, wanted


def planted(answers: Answers, gain: float, noise: float, rows: int) -> float:
    """How much the arm must see for that AUC gain: by secants, on the same worlds with and without."""

    def mean(seen: float) -> float:
        made = answers.of([Job(800 + i, rows, 2, 1.0, seen, noise) for i in range(3)])
        return float(np.mean([one["gain"] for one in made]))

    nothing, seen = mean(0.0), 0.01
    for _ in range(3):
        seen *= gain / (mean(seen) - nothing)
    return seen


def rate(hits: int, worlds: int, of: float) -> dict[str, Any]:
    """A share of worlds, with the 95 % binomial interval of what it should be."""
    low, high = stats.binom.interval(0.95, worlds, of)
    return {
        "share": round(hits / worlds, 4),
        "worlds": worlds,
        "expected": of,
        "interval": [round(low / worlds, 4), round(high / worlds, 4)],
        "within": bool(low <= hits <= high),
        "not_above": bool(hits <= high),
    }


def false_verdicts(answers: Answers, noise: float, worlds: int) -> dict[str, Any]:
    """Strength 0: how often each test and the verdict find something."""
    found: dict[str, Any] = {}
    for seeds in (3, 5):
        made = answers.of(
            [Job(10_000 * seeds + i, 12_000, seeds, 0.0, 0.0, noise, True) for i in range(worlds)]
        )
        named = {
            "subsets alone (the paper's test), p < 0.05": (sum(one["p"] < 0.05 for one in made), 0.05),
            "subsets and seeds, p < 0.05": (sum(one["combined_p"] < 0.05 for one in made), 0.05),
            "any task, corrected, p < 0.05": (sum(one["task_p"] < 0.05 for one in made), 0.05),
            "verdict of the arm as shipped, p < 0.01": (
                sum(one["verdict"] in ("gain", "loss") for one in made),
                0.01,
            ),
            "outcome gain of the run, placebo included": (
                sum(one["outcome"] == "gain" for one in made),
                0.005,
            ),
        }
        found[f"{seeds} seeds"] = {name: rate(hits, worlds, of) for name, (hits, of) in named.items()}
        for name, figures in found[f"{seeds} seeds"].items():
            print(f"{seeds} seeds, {name}: {figures}", flush=True)
    return found


def power_curve(
    answers: Answers, seen: dict[float, float], noise: float, sizes: list[int], worlds: int
) -> list[dict[str, Any]]:
    """Verdicts by planted gain and rows, 5 seeds."""
    curve = []
    for gain, dial in seen.items():
        for rows in sizes:
            made = answers.of([Job(70_000 + i, rows, 5, 1.0, dial, noise) for i in range(worlds)])
            said = Counter(one["verdict"] for one in made)
            curve.append(
                {
                    "auc_gain": gain,
                    "measured": round(float(np.mean([one["gain"] for one in made])), 5),
                    "rows": rows,
                    "seeds": 5,
                    "worlds": worlds,
                    "verdicts": dict(said),
                }
            )
            print(curve[-1], flush=True)
    return curve


def plans(
    answers: Answers, dial: float, noise: float, worlds: int, pilot: int, seeds_of_pilot: int = 12
) -> dict[str, Any]:
    """At the paper's gain: what a pilot asks for, and what is said with it and with a tenth of its rows."""
    pilots = answers.of([Job(50_000 + i, pilot, seeds_of_pilot, 1.0, dial, noise) for i in range(worlds)])
    needs = [one["need"] for one in pilots]
    asked = [(r, s) for r, s in (need or (None, None) for need in needs) if r and s and r * s <= MOST]
    full = answers.of([Job(60_000 + i, r, s, 1.0, dial, noise) for i, (r, s) in enumerate(asked)])
    small = answers.of(
        [Job(65_000 + i, max(r // 10, 600), s, 1.0, dial, noise) for i, (r, s) in enumerate(asked)]
    )
    given, tenth = (Counter(one["verdict"] for one in made) for made in (full, small))
    print(asked, given, tenth, flush=True)
    rows, seeds = (sorted(column) for column in zip(*asked, strict=True)) if asked else ([0], [0])
    return {
        "auc_gain": PAPER_GAIN,
        "pilot": {"rows": pilot, "seeds": seeds_of_pilot},
        "worlds": worlds,
        "asked_too_much_to_simulate": worlds - len(asked),
        "asked_rows": {"least": rows[0], "median": rows[len(rows) // 2], "most": rows[-1]},
        "asked_seeds": {"least": seeds[0], "median": seeds[len(seeds) // 2], "most": seeds[-1]},
        "verdicts_as_asked": dict(given),
        "verdicts_with_a_tenth_of_the_rows": dict(tenth),
    }


def end_to_end(answers: Answers, worlds: int) -> dict[str, Any]:
    """Small real worlds of strength 0: pictures, captions, tokens, trainings, report."""
    said, arms = Counter[str](), Counter[str]()
    for seed in range(worlds):
        if (found := answers.get(f"end to end {seed}")) is None:
            found = _whole_chain(seed)
            answers.keep(f"end to end {seed}", found)
        said[found["outcome"]] += 1
        arms.update(found["arms"])
        print("end to end", seed, dict(said), flush=True)
    return {"worlds": worlds, "outcomes": dict(said), "verdicts_of_all_caption_arms": dict(arms)}


def _whole_chain(seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        world = {
            "seed": 100 + seed,
            "items": 200,
            "users": 600,
            "impressions": 12_000,
            "semantic_strength": 0.0,
        }
        config = {
            "name": "null",
            "data": {"world": world},
            "evidence": {"placebos": ["shuffled"], "importance": 0, "requests": 0, "cards": 0},
            "workers": 1,
        }
        path = Path(scratch) / "null.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        words = [sys.executable, "-m", "captionary", "run", str(path)]
        subprocess.run(words, cwd=scratch, check=True, capture_output=True)
        evidence = json.loads((Path(scratch) / "runs/null/report/evidence.json").read_text())
    kept = [arm["verdict"] for arm in evidence["arms"] if arm["captions"] and not arm["ablation"]]
    return {"outcome": evidence["outcome"], "arms": kept}


def main() -> None:
    """Ask every question and write benchmarks/results/evidence_power.json; --quick asks each of a few worlds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few worlds each, nothing written")
    parser.add_argument(
        "--work", type=Path, help="folder of the answers; default: of this machine's temporary files"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes; default 1")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    quick = options.quick
    began = time.monotonic()
    code = hashlib.blake2b(Path(__file__).read_bytes(), digest_size=6).hexdigest() + code_version(
        "evidence", "world"
    )
    work = options.work or Path(tempfile.gettempdir()) / "captionary-evidence-power"
    answers = Answers(work / f"{code}.jsonl", options.workers)
    noise, spread = calibrated(answers, quick)
    gains = (PAPER_GAIN,) if quick else (0.0008, PAPER_GAIN, 0.0032, 0.0064)
    seen = {gain: planted(answers, gain, noise, 20_000 if quick else 200_000) for gain in gains}
    print(f"noise {noise:.4f} for a seed spread of {spread:.4f}; seen {seen}", flush=True)
    figures = {
        "simulated": "scores of rankers; worlds, labels, truth, evaluate and conclude are real",
        "training_noise": {
            "seed_sd_of_auc_gain": spread,
            "source": "results/demo.json, null-world, median arm",
        },
        "false_verdicts": false_verdicts(answers, noise, 4 if quick else 120),
        "power_curve": power_curve(
            answers, seen, noise, [6_000] if quick else [12_000, 48_000, 192_000], 2 if quick else 12
        ),
        "plans": plans(answers, seen[PAPER_GAIN], noise, 1 if quick else 20, 12_000 if quick else 48_000),
        "end_to_end": end_to_end(answers, 0 if quick else 6),
    }
    figures["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(figures, indent=1))
    if not quick:
        print(write_result("evidence_power", figures))


if __name__ == "__main__":
    main()
