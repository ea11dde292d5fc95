"""What a caption budget buys in the demo world: AUC gain against the share of items captioned, policy by policy.

    python benchmarks/gate.py            3 seeds, 5 shares, 4 policies; 24 seeds at 20 %, budget, popular and random
    python benchmarks/gate.py --quick    1 seed at 20 %, budget, popular and random; writes no result

Every policy decides with what was known before the evaluation period, and lends tokens to what it leaves out in the
same way; at 20 % all are measured without lending too. There two policies differ by less than two rankers of the same
policy do, so they are compared seed by seed, over many seeds. Fails where `budget` keeps less than 60 % of the gain at
20 %, or is not ahead of `random` and `popular`.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from result import write_result
from tqdm import tqdm

from captionary.evidence.budget import BudgetCurve
from captionary.gating import decide, finished, fit_model, looked_before, measure_curve
from captionary.settings import RunConfig, load_run
from captionary.understand.gate_settings import POLICIES, GateConfig

ROOT = Path(__file__).parent.parent
AT, KEPT = 0.2, 0.6
SEEDS = 24
"""At `AT`; set before the first of them was measured."""
RIVALS = ("popular", "random")


def ahead(curve: BudgetCurve) -> dict[str, dict[str, float | None]]:
    """By how much `budget` is ahead of each rival at `AT`, in AUC gain: mean of the seeds' differences, its error."""
    found = {}
    for rival in RIVALS:
        gains = [np.array(curve.at(policy, AT).seed_gains) for policy in ("budget", rival)]
        apart = gains[0] - gains[1]
        error = float(apart.std(ddof=1) / np.sqrt(len(apart))) if len(apart) > 1 else None
        found[rival] = {
            "mean": float(apart.mean()),
            "standard_error": error,
            "seeds_ahead": int((apart > 0).sum()),
            "of_full_gain": float(apart.mean() / curve.full.gain),
        }
    return found


def measured(config: RunConfig, quick: bool) -> dict[str, Any]:
    """The curve, the forecasts at 20 %, the learned model, and how long it took."""
    stages = finished(config)
    began = time.monotonic()
    assert stages.captions is not None
    model = None if quick else fit_model(stages)
    with tqdm(desc="rankers") as bar:
        curve = measure_curve(
            stages,
            policies=("budget", "popular", "random") if quick else ("budget", "learned", "popular", "random"),
            shares=(AT,) if quick else (0.05, 0.1, AT, 0.5, 1.0),
            unlent=() if quick else (AT,),
            seeds=1 if quick else 3,
            workers=config.workers,
            model=model,
            done=lambda _: bar.update() and None,
        )
        most = curve
        if not quick:
            most = measure_curve(
                stages,
                policies=("budget", *RIVALS),
                shares=(AT,),
                unlent=(),
                seeds=SEEDS,
                workers=config.workers,
                done=lambda _: bar.update() and None,
            )
    print(curve.to_markdown(), most.to_markdown(), sep="\n\n")
    looked = looked_before(stages.captions.folder)
    forecasts = {}
    for policy in POLICIES:
        if policy != "learned":
            share = None if policy in ("always", "rules") else AT
            new = 10.0 if policy == "rules" else None
            chosen = GateConfig(policy=policy, share=share, new_days=new)
            found = decide(stages.config, stages.dataset, looked, chosen).forecast.to_dict()
            found.pop("rows")
            forecasts[policy] = found
    return {
        "curve": curve.to_dict(),
        "at_20_percent": most.to_dict(),
        "forecasts": forecasts,
        "learned": model and model._asdict(),
        "seconds": round(time.monotonic() - began, 1),
        "kept_by_budget_at_20_percent": most.at("budget", AT).kept,
        "ahead_of": ahead(most),
    }


def main() -> None:
    """Measure, write benchmarks/results/gate.json, and fail where the policy is not worth it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed at 20 %, nothing written")
    parser.add_argument("--runs", type=Path, help="folder of runs; default: a temporary one")
    parser.add_argument("--workers", type=int, help="processes side by side; default: those of the config")
    options = parser.parse_args()
    config = load_run(ROOT / "configs" / "demo.yaml")
    config = dataclasses.replace(config, workers=options.workers or config.workers)
    with tempfile.TemporaryDirectory() as scratch:
        figures = measured(dataclasses.replace(config, runs=options.runs or Path(scratch)), options.quick)
    if not options.quick:
        print(write_result("gate", figures))
    kept = figures["kept_by_budget_at_20_percent"]
    if kept is None or kept < KEPT or min(found["mean"] for found in figures["ahead_of"].values()) <= 0:
        raise SystemExit(f"budget keeps {kept} of the gain at {AT}, ahead of {figures['ahead_of']}")


if __name__ == "__main__":
    main()
