"""What the evaluation rows hold of each task, and what of it a reader should know before believing a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from captionary.evidence.by_kind import is_continuous
from captionary.evidence.compare import Measured
from captionary.evidence.result import TaskInfo
from captionary.spec import TaskKind

__all__ = ["RARE", "task_infos", "task_warnings"]

RARE = 50
"""Fewer positives (or negatives) than this in the evaluation rows get a warning."""


def task_infos(
    labels: npt.NDArray[np.float32],
    names: Sequence[str],
    baseline: Measured,
    mask: npt.NDArray[np.bool_],
    kinds: Sequence[TaskKind],
    more: npt.NDArray[np.float64],
) -> tuple[TaskInfo, ...]:
    """Counts of each task.

    Args:
        labels: [N, T].
        names: [T].
        baseline: what was measured of the baseline: which subsets define a task.
        mask: which labels there are, [N, T].
        kinds: [T].
        more: GAUC, its users, ECE and recalibrated NE of the baseline, [4, T].
    """
    both = (~np.isnan(baseline.subset_auc[0])).sum(axis=0)  # [T]
    made = []
    for t, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        known = labels[mask[:, t], t].astype(np.float64)
        positives = int((known > 0).sum())
        made.append(
            TaskInfo(
                name=name,
                kind=kind,
                rows=len(known),
                positives=positives,
                base_rate=positives / max(len(known), 1),
                mean=float(known.mean()) if len(known) else None,
                subsets=int(both[t]),
                gauc_users=None if np.isnan(more[1, t]) else int(more[1, t]),
            )
        )
    return tuple(made)


def task_warnings(tasks: Sequence[TaskInfo], subsets: int) -> list[str]:
    """Sentences on tasks with one class, few positives, or subsets that lack one."""
    words = []
    for task in tasks:
        rows = task.rows or 0
        if rows == 0:
            words.append(
                f"Task {task.name} has no label in the evaluation rows: it is left out of every mean."
            )
            continue
        if is_continuous(task.kind):
            if task.subsets < subsets:
                words.append(
                    f"Task {task.name} has one amount only in {subsets - task.subsets} of {subsets} subsets: it is "
                    "left out of the paired test there, in all arms."
                )
            continue
        rarer = min(task.positives, rows - task.positives)
        kind = "positives" if task.positives <= rows - task.positives else "negatives"
        if rarer == 0:
            words.append(
                f"Task {task.name} has one class only in the evaluation rows: it has no AUC and no NE, "
                "and is left out of every mean."
            )
            continue
        if rarer < RARE:
            words.append(
                f"Task {task.name} has only {rarer} {kind} in the evaluation rows: its figures are rough."
            )
        if task.subsets < subsets:
            words.append(
                f"Task {task.name} has one class only in {subsets - task.subsets} of {subsets} subsets: it "
                "is left out of the paired test there, in all arms."
            )
    return words
