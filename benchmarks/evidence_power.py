"""Does the evidence machinery say `gain` where there is one, and only there?

    python benchmarks/evidence_power.py [--quick]

The evaluation code is the real one (evaluate, conclude); what it is given is simulated at the level of scores, since
hundreds of rankers cannot be trained here: users with tastes, items with a quality, two tasks, and arms whose scores
see them with training noise. The noise sits on items and on (user, item) pairs, is drawn anew for each seed and arm,
and is scaled until the spread of a gain over seeds is the median one that real rankers show in the null world of
results/demo.json. What simulated scores cannot show is luck that all seeds of an arm share (one training set); so a few
small worlds without semantics go through the whole chain, captions and trainings included.

Asked: how often nothing is taken for something (strength 0); how often a planted gain is found, by its size and by
rows; and whether the plan that "cannot tell" proposes keeps its word: `gain` with the rows and seeds that it asked for,
`cannot tell` with a tenth of the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from result import read_result, write_result
from scipy import stats

from captionary.evidence.arms import Arm, placebo_of
from captionary.evidence.evaluate import Evaluation, evaluate
from captionary.evidence.power import PAPER_GAIN
from captionary.evidence.result import RunInfo
from captionary.evidence.verdict import conclude

ITEMS, TASKS, BASE = 3000, ("like", "share"), np.array([-1.6, -2.6], np.float32)
VISUAL = Arm(name="+visual", visual=True)
TOKENS = Arm(name="+visual+tokens(A)", visual=True, tokens="A")
SHUFFLED = placebo_of(TOKENS, "shuffled")
DEMO_ROWS = 23_810
MOST = 12_000_000
"""Rows times seeds that one world may have."""


class Dials(NamedTuple):
    """What is planted."""

    seen: float
    """How much of what captions say the arm with tokens sees."""
    noise: float
    """Scale of training noise."""


def world(seed: int, rows: int, seeds: int, dials: Dials, placebo: bool = True) -> Evaluation:
    """One simulated comparison, evaluated; 6 rows a user."""
    rng = np.random.default_rng(seed)
    users = max(rows // 6, 40)
    user, item = rng.integers(users, size=rows), rng.integers(ITEMS, size=rows)
    shape = (len(TASKS), rows)
    known = np.stack(
        [
            rng.normal(0, 0.45, users).astype(np.float32)[user]
            + rng.normal(0, 0.4, ITEMS).astype(np.float32)[item]
            for _ in TASKS
        ]
    )
    said = rng.normal(0, 0.5, shape).astype(np.float32)
    labels = (rng.random(shape) < _sigmoid(BASE[:, None] + known + said)).astype(np.float32)
    arms = [VISUAL, TOKENS, SHUFFLED] if placebo else [VISUAL, TOKENS]
    predictions = {}
    for arm in arms:
        scores = np.empty((seeds, rows, len(TASKS)), np.float32)
        for s in range(seeds):
            for t in range(len(TASKS)):
                luck = rng.normal(0, dials.noise, ITEMS).astype(np.float32)[item]
                luck += dials.noise * rng.standard_normal(rows, dtype=np.float32)
                seen = dials.seen * said[t] if arm is TOKENS else 0.0
                scores[s, :, t] = _sigmoid(BASE[t] + known[t] + seen + luck)
        predictions[arm.name] = scores
    return evaluate(labels.T, user, TASKS, predictions, arms, seed=seed, target=PAPER_GAIN)


def several(wanted: Iterable[tuple[int, int, int, Dials, bool]]) -> list[Evaluation]:
    """Worlds with these arguments, on all cores."""
    with ProcessPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(world, *zip(*wanted, strict=True))) if (wanted := list(wanted)) else []


def _sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))


def calibrated(quick: bool) -> tuple[float, float]:
    """(noise, seed spread it makes): the scale at which gains spread over seeds as real rankers' do."""
    arms = read_result("demo")["figures"]["null-world"]["evidence"]["arms"]
    wanted = float(np.median([arm["seed_sd"] for arm in arms if arm["seed_sd"] is not None]))
    noise = 0.1
    for step in range(4):
        found = np.mean(
            [
                (world(900 + 10 * step + i, DEMO_ROWS, 6, Dials(0.0, noise), False).arms[1].seed_sd or 0) ** 2
                for i in range(2 if quick else 6)
            ]
        )
        noise *= wanted / float(np.sqrt(found))
    return noise, wanted


def planted(gain: float, noise: float, rows: int) -> float:
    """How much the arm must see for that AUC gain: by secants, on the same worlds with and without."""

    def mean(seen: float) -> float:
        worlds = [world(800 + i, rows, 2, Dials(seen, noise), False) for i in range(3)]
        return float(np.mean([one.arms[1].auc_gain or 0 for one in worlds]))

    nothing, seen = mean(0.0), 0.01
    for _ in range(3):
        seen *= gain / (mean(seen) - nothing)
    return seen


def outcome(evaluation: Evaluation, rows: int) -> str:
    """The verdict of the run, placebo included where there is one."""
    if len(evaluation.arms) < 3:
        return str(evaluation.arms[1].verdict)
    run = RunInfo(
        name="power", dataset="simulated", created_at="", train_rows=0, eval_rows=rows, users=0, items=ITEMS
    )
    return conclude(evaluation, run=run).outcome


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


def false_verdicts(noise: float, worlds: int) -> dict[str, Any]:
    """Strength 0: how often each test and the verdict find something."""
    found: dict[str, Any] = {}
    for seeds in (3, 5):
        arms = several((10_000 * seeds + i, 12_000, seeds, Dials(0.0, noise), True) for i in range(worlds))
        tokens = [evaluation.arms[1] for evaluation in arms]
        named = {
            "subsets alone, p < 0.05": (sum((a.p_value or 0) < 0.05 for a in tokens), 0.05),
            "subsets and seeds, p < 0.05": (sum((a.combined_p_value or 0) < 0.05 for a in tokens), 0.05),
            "verdict gain or loss as shipped, p < 0.01": (
                sum(a.verdict in ("gain", "loss") for a in tokens),
                0.01,
            ),
            "outcome gain, placebo included": (sum(outcome(e, 12_000) == "gain" for e in arms), 0.005),
            "any task, corrected, p < 0.05": (
                sum(min(p or 1 for p in e.details[0].task_p_adjusted.values()) < 0.05 for e in arms),
                0.05,
            ),
        }
        found[f"{seeds} seeds"] = {name: rate(hits, worlds, of) for name, (hits, of) in named.items()}
        for name, figures in found[f"{seeds} seeds"].items():
            print(f"{seeds} seeds, {name}: {figures}", flush=True)
    return found


def power_curve(
    seen: dict[float, float], noise: float, sizes: list[int], worlds: int
) -> list[dict[str, Any]]:
    """Verdicts by planted gain and rows, 5 seeds."""
    curve = []
    for gain, dial in seen.items():
        for rows in sizes:
            made = several((70_000 + i, rows, 5, Dials(dial, noise), False) for i in range(worlds))
            said = Counter(str(one.arms[1].verdict) for one in made)
            curve.append(
                {"auc_gain": gain, "rows": rows, "seeds": 5, "worlds": worlds, "verdicts": dict(said)}
            )
            print(curve[-1], flush=True)
    return curve


def plans(dial: float, noise: float, worlds: int, pilot: int, seeds_of_pilot: int = 12) -> dict[str, Any]:
    """At the paper's gain: what a pilot asks for, and what is said with it and with a tenth of its rows."""
    dials = Dials(dial, noise)
    pilots = several((50_000 + i, pilot, seeds_of_pilot, dials, False) for i in range(worlds))
    needs = [one.details[0].need for one in pilots]
    asked = [
        (need.rows, need.seeds)
        for need in needs
        if need and need.rows and need.seeds and need.rows * need.seeds <= MOST
    ]
    too_much = worlds - len(asked)
    full = several((60_000 + i, r, s, dials, False) for i, (r, s) in enumerate(asked))
    small = several((65_000 + i, max(r // 10, 600), s, dials, False) for i, (r, s) in enumerate(asked))
    given = Counter(str(one.arms[1].verdict) for one in full)
    tenth = Counter(str(one.arms[1].verdict) for one in small)
    print(asked, given, tenth, flush=True)
    rows, seeds = (sorted(column) for column in zip(*asked, strict=True)) if asked else ([0], [0])
    return {
        "auc_gain": PAPER_GAIN,
        "pilot": {"rows": pilot, "seeds": seeds_of_pilot},
        "worlds": worlds,
        "asked_too_much_to_simulate": too_much,
        "asked_rows": {"least": rows[0], "median": rows[len(rows) // 2], "most": rows[-1]},
        "asked_seeds": {"least": seeds[0], "median": seeds[len(seeds) // 2], "most": seeds[-1]},
        "verdicts_as_asked": dict(given),
        "verdicts_with_a_tenth_of_the_rows": dict(tenth),
    }


def end_to_end(worlds: int) -> dict[str, Any]:
    """Small real worlds of strength 0: captions, tokens, trainings, report."""
    said, arms = Counter(), Counter()
    for seed in range(worlds):
        with tempfile.TemporaryDirectory() as scratch:
            config = {
                "name": "null",
                "data": {
                    "world": {
                        "seed": 100 + seed,
                        "items": 300,
                        "users": 800,
                        "impressions": 20_000,
                        "semantic_strength": 0.0,
                    }
                },
                "evidence": {"seeds": 3, "placebos": ["shuffled"]},
            }
            path = Path(scratch) / "null.yaml"
            path.write_text(json.dumps(config))  # JSON is YAML
            words = [sys.executable, "-m", "captionary", "run", str(path)]
            subprocess.run(words, cwd=scratch, check=True, capture_output=True)
            evidence = json.loads((Path(scratch) / "runs/null/report/evidence.json").read_text())
            said[evidence["outcome"]] += 1
            arms.update(arm["verdict"] for arm in evidence["arms"] if arm["captions"])
        print("end to end", seed, dict(said), flush=True)
    return {"worlds": worlds, "outcomes": dict(said), "verdicts_of_all_caption_arms": dict(arms)}


def main() -> None:
    """Run every question and write benchmarks/results/evidence_power.json; --quick asks each of a few worlds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few worlds each, nothing written")
    quick = parser.parse_args().quick
    began = time.monotonic()
    noise, spread = calibrated(quick)
    gains = (PAPER_GAIN,) if quick else (0.0008, PAPER_GAIN, 0.0032, 0.0064)
    seen = {gain: planted(gain, noise, 20_000 if quick else 150_000) for gain in gains}
    print(f"noise {noise:.4f} for a seed spread of {spread:.4f}; seen {seen}", flush=True)
    figures = {
        "training_noise": {
            "seed_sd_of_auc_gain": spread,
            "source": "results/demo.json, null-world, median arm",
        },
        "false_verdicts": false_verdicts(noise, 8 if quick else 200),
        "power_curve": power_curve(
            seen, noise, [6_000] if quick else [12_000, 48_000, 192_000], 4 if quick else 12
        ),
        "plans": plans(seen[PAPER_GAIN], noise, 2 if quick else 24, 12_000 if quick else 48_000),
        "end_to_end": end_to_end(1 if quick else 8),
    }
    figures["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(figures, indent=1))
    if not quick:
        print(write_result("evidence_power", figures))


if __name__ == "__main__":
    main()
