"""Tables of what stands behind the gains: ablation, rivals, power, order within users and calibration."""

from __future__ import annotations

from captionary.evidence.formats import UNKNOWN, count, decimal, interval, p_text, percent, share
from captionary.evidence.result import ArmResult, Evidence

__all__ = ["ABLATION", "CALIBRATION", "POWER", "RIVALS", "Cells", "sheets"]

ABLATION, RIVALS = "Ablation both ways", "Beside rivals"
POWER, CALIBRATION = "What this size can tell", "Order within users, and calibration"

Cells = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""The head and the rows of a table."""


def sheets(evidence: Evidence) -> dict[str, Cells]:
    """Title → table of what stands behind the gains: ablation, rivals, power, calibration; those that have rows."""
    found: dict[str, Cells] = {
        ABLATION: (
            (
                *("Feature", "Added alone", "95 % interval", "p"),
                *("Missing where removed", "95 % interval", "p"),
            ),
            [
                (
                    row.feature,
                    *(percent(row.added_gain), interval(row.added_interval), p_text(row.added_p_value)),
                    *(percent(row.removed_gain), interval(row.removed_interval), p_text(row.removed_p_value)),
                )
                for row in evidence.ablation
            ],
        ),
        RIVALS: (
            ("Rival", "Headline arm against it", "95 % interval", "p", "p, corrected", "Verdict"),
            [
                (
                    *(row.rival, percent(row.auc_gain), interval(row.interval)),
                    *(p_text(row.p_value), p_text(row.p_adjusted), row.verdict),
                )
                for row in evidence.against_rivals
            ],
        ),
        POWER: (
            ("Arm", "Gain seen", "Found 80 % of the time", "Target", "Rows", "Seeds", "Of the variance"),
            [_power_row(arm, evidence) for arm in evidence.arms if arm.detectable is not None],
        ),
        CALIBRATION: (
            ("Task", "Arm", "GAUC", "Predicted ÷ observed", "ECE", "NE", "NE, recalibrated"),
            _calibration_rows(evidence),
        ),
    }
    return {title: cells for title, cells in found.items() if cells[1]}


def _power_row(arm: ArmResult, evidence: Evidence) -> tuple[str, ...]:
    enough = arm.needs_rows is not None and arm.needs_rows <= evidence.run.eval_rows
    whole = sum(value or 0.0 for value in arm.variance.values())
    names = {"training": "training", "users": f"{evidence.run.subsets_of}s", "rest": "rest"}
    parts = [
        f"{names[source]} {share(value, whole)}"
        for source, value in arm.variance.items()
        if value and whole > 0
    ]
    return (
        *(arm.name, percent(arm.auc_gain), percent(arm.detectable, sign=False)),
        percent(arm.target, sign=False),
        "enough" if enough else count(arm.needs_rows),
        count(arm.needs_seeds),
        ", ".join(parts) or UNKNOWN,
    )


def _calibration_rows(evidence: Evidence) -> list[tuple[str, ...]]:
    """Baseline and headline arm, task by task."""
    shown = [evidence.arm(evidence.baseline), *([evidence.headline_arm] if evidence.headline_arm else [])]
    return [
        (
            *(task.name, arm.name, decimal(arm.gauc.get(task.name)), decimal(arm.calibration[task.name], 3)),
            *(decimal(arm.ece.get(task.name)), decimal(arm.ne[task.name])),
            decimal(arm.recalibrated_ne.get(task.name)),
        )
        for task in evidence.tasks
        for arm in shown
    ]
