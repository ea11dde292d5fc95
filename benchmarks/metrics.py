"""How long the metrics of 10 million rows and 5 tasks take, and in how much memory.

    python benchmarks/metrics.py [--quick]

One process: AUC, NE and calibration of all rows and of 20 user-disjoint subsets by task (what a comparison needs of an
arm and seed), then GAUC by user. Scores are float32 as rankers write them, a tenth of them rounded so that ties abound.
The compiled code is in numba's cache, as after any first run. Beside it, scikit-learn's AUC of one task.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
from result import write_result
from sklearn.metrics import roc_auc_score

from captionary.evidence.compare import measure, subsets
from captionary.evidence.metrics import auc, gauc


def main() -> None:
    """Measure, and write benchmarks/results/metrics.json unless --quick."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="200,000 rows, nothing written")
    quick = parser.parse_args().quick
    rows, tasks = (200_000 if quick else 10_000_000), 5
    rng = np.random.default_rng(0)
    users = rng.integers(rows // 50, size=rows)
    scores = np.empty((1, rows, tasks), np.float32)
    labels = np.empty((rows, tasks), np.float32)
    for task in range(tasks):
        made = rng.random(rows, dtype=np.float32) ** 3
        made[: rows // 10] = np.round(made[: rows // 10], 2)
        scores[0, :, task] = made
        labels[:, task] = rng.random(rows, dtype=np.float32) < made
    measure(labels[:1000], scores[:, :1000], subsets(users[:1000], 20, 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {"rows": rows, "tasks": tasks, "subsets": 20, "inputs_gb": round(before / 2**20, 2)}

    def timed(name: str, began: float) -> None:
        figures[name] = round(time.perf_counter() - began, 2)

    began = time.perf_counter()
    dealt = subsets(users, 20, seed=0)
    timed("seconds_to_deal_users", began)
    began = time.perf_counter()
    measured = measure(labels, scores, dealt)
    timed("seconds_of_all_tasks_and_subsets", began)
    figures["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    began = time.perf_counter()
    gauc(labels[:, 0], scores[0, :, 0], users)
    timed("seconds_of_gauc_of_one_task", began)
    began = time.perf_counter()
    ours = auc(labels[:, 0], scores[0, :, 0])
    timed("seconds_of_auc_of_one_task", began)
    began = time.perf_counter()
    theirs = roc_auc_score(labels[:, 0], scores[0, :, 0])
    timed("seconds_of_auc_of_one_task_by_scikit_learn", began)
    figures["difference_to_scikit_learn"] = abs(ours - float(theirs))
    if abs(ours - float(measured.auc[0, 0])) > 1e-12:
        raise SystemExit("the metric of all rows differs from that beside the subsets")
    print(json.dumps(figures, indent=1))
    if not quick:
        print(write_result("metrics", figures))


if __name__ == "__main__":
    main()
