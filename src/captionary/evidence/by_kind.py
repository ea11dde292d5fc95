"""The metrics of a task of any kind: what stands in the AUC and NE columns, and how far predictions add up.

    kind of task   in AUC's place       in NE's place                       calibration
    binary         AUC                  normalized entropy                  Σ p ÷ Σ y
    continuous     Harrell's C          normalised squared error of logs    Σ p ÷ Σ y

Labels may be missing: NaN, or outside a mask. Of such a row nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.evidence.continuous import errors, quantities, shares_in_order
from captionary.evidence.counting import losses, pairs
from captionary.evidence.metrics import Gauc, checked, gauc
from captionary.evidence.recalibration import expected_calibration_error, recalibrated_ne
from captionary.spec import TaskKind

__all__ = [
    "Figures",
    "TaskExtras",
    "extras",
    "figures",
    "is_continuous",
    "kinds_of",
    "known_rows",
    "order_of",
]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.floating]


class Figures(NamedTuple):
    """Of G groups and, last, of all rows: [G + 1] each; ``nan`` where they are not defined."""

    auc: Floats
    """AUC or concordance."""
    ne: Floats
    """Normalized entropy or normalised squared error."""
    calibration: Floats
    """Predicted ÷ observed sum."""


class TaskExtras(NamedTuple):
    """What a report says of a task beside AUC and NE; ``nan`` where it is not defined."""

    gauc: float
    """AUC (concordance) within users, weighted by their rows."""
    users: int
    """Users in that mean."""
    ece: float
    """Expected calibration error; ``nan`` of a continuous task."""
    recalibrated_ne: float
    """NE after recalibration on the other half of the users; ``nan`` of a continuous task."""


def is_continuous(kind: TaskKind) -> bool:
    """Whether labels are amounts, such as seconds, and not 0 or 1."""
    return kind != "binary"


def kinds_of(kinds: Sequence[TaskKind], tasks: int) -> tuple[TaskKind, ...]:
    """One kind a task; () says that all are binary.

    Raises:
        CaptionaryError: another number of kinds than tasks.
    """
    if not kinds:
        binary: TaskKind = "binary"
        return (binary,) * tasks
    if len(kinds) != tasks:
        raise bad_value("kinds of tasks", len(kinds), f"one for each of {tasks} tasks")
    return tuple(kinds)


def known_rows(labels: Labels, mask: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.bool_]:
    """Which labels there are: not NaN and, where a mask is given, in it; of the shape of the labels."""
    there: npt.NDArray[np.bool_] = ~np.isnan(labels)
    return there if mask is None else there & mask


def figures(
    kind: TaskKind,
    labels: Labels,
    predictions: npt.NDArray[np.floating],
    groups: npt.NDArray[np.integer] | None = None,
    count: int = 0,
    weights: Floats | None = None,
) -> Figures:
    """Metrics of one task within groups and on all rows; no label may be NaN.

    Args:
        kind: of the task.
        labels: [N].
        predictions: probabilities, or amounts of a continuous task, [N].
        groups: 0 … count − 1, [N]; None: all rows alone.
        count: number of groups.
        weights: >= 0, [N].

    Raises:
        CaptionaryError: a label, prediction or weight that the task may not have.
    """
    if is_continuous(kind):
        amounts = quantities(labels, predictions, weights)
        return Figures(shares_in_order(amounts, groups, count), *errors(amounts, groups, count))
    rows = checked(labels, predictions, weights, probabilities=True)
    loss = losses(rows.positive, rows.scores, groups, count, rows.weights)
    auc = pairs(rows.positive, rows.scores, groups, count, rows.weights).auc
    return Figures(auc, loss.normalized_entropy, loss.calibration)


def order_of(kind: TaskKind, labels: Labels, predictions: npt.NDArray[np.floating]) -> float:
    """AUC or concordance of the rows [N] whose label is not NaN."""
    there = known_rows(labels)
    labels, predictions = labels[there], predictions[there]
    if is_continuous(kind):
        return float(shares_in_order(quantities(labels, predictions))[-1])
    rows = checked(labels, predictions)
    return float(pairs(rows.positive, rows.scores).auc[-1])


def extras(
    kind: TaskKind,
    labels: Labels,
    predictions: npt.NDArray[np.floating],
    users: npt.NDArray[Any],
    weights: Floats | None = None,
) -> TaskExtras:
    """GAUC, ECE and recalibrated NE of one task; no label may be NaN.

    Raises:
        CaptionaryError: as `figures`.
    """
    if is_continuous(kind):
        found = _within_users(labels, predictions, users, weights)
        return TaskExtras(found.value, found.users, np.nan, np.nan)
    found = gauc(labels, predictions, users, weights)
    return TaskExtras(
        found.value,
        found.users,
        expected_calibration_error(labels, predictions, weights),
        recalibrated_ne(labels, predictions, users, weights),
    )


def _within_users(
    labels: Labels, predictions: npt.NDArray[np.floating], users: npt.NDArray[Any], weights: Floats | None
) -> Gauc:
    """`gauc` with concordance in AUC's place."""
    rows = quantities(labels, predictions, weights)
    names, member = np.unique(users, return_inverse=True)
    each = shares_in_order(rows, member, len(names))[:-1]
    size = np.bincount(member, weights=rows.weights, minlength=len(names))
    known = ~np.isnan(each)
    value = float(np.sum(each[known] * size[known]) / np.sum(size[known])) if known.any() else np.nan
    absent = ~known & (size > 0)
    return Gauc(value, int(known.sum()), int(absent.sum()), int(absent[member].sum()))
