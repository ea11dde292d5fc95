"""Which items did captions help, and which did they hurt? The change of loss, item by item.

With l(b) and l(a) the loss of a row under baseline and arm, mean over seeds, and L the baseline's mean loss of a task
over all rows, an item's change is Σ over its rows and tasks of (l(a) − l(b)) ÷ L: tasks count alike, however rare, and
an item counts for what its rows weigh in the whole. The loss is the log loss, or the squared error of logarithms of a
continuous task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.evidence.by_kind import is_continuous, kinds_of, known_rows
from captionary.spec import TaskKind

__all__ = ["Change", "Extremes", "extremes", "row_losses"]

Floats = npt.NDArray[np.float64]


class Change(NamedTuple):
    """What an arm does to the predictions of one item."""

    item: int
    """As in the `item` that was given."""
    relative: float
    """Change of the item's loss, tasks weighted as above; −0.1 is a tenth lower."""
    rows: int
    """Evaluation rows of the item."""

    @property
    def words(self) -> str:
        """``loss 12 % lower over 41 evaluation rows``."""
        direction = "lower" if self.relative < 0 else "higher"
        rows = "1 evaluation row" if self.rows == 1 else f"{self.rows:,} evaluation rows"
        return f"loss {100 * abs(self.relative):.1f} % {direction} over {rows}"


class Extremes(NamedTuple):
    """The items whose losses changed most."""

    best: tuple[Change, ...]
    """Lowered, the most first."""
    worst: tuple[Change, ...]
    """Raised, the most first."""


def extremes(
    labels: npt.NDArray[np.float32],
    baseline: npt.NDArray[np.floating],
    arm: npt.NDArray[np.floating],
    item: npt.NDArray[np.int64],
    *,
    count: int,
    kinds: Sequence[TaskKind] = (),
    among: npt.NDArray[np.bool_] | None = None,
) -> Extremes:
    """The `count` items that an arm helped most and those that it hurt most.

    Args:
        labels: [N, T], NaN where there is none.
        baseline, arm: predictions of S trainings, [S, N, T].
        item: index of each row's item, [N].
        count: most items of each, >= 0.
        kinds: of the tasks; (): all binary.
        among: items that may be shown, [I]; None: all.

    Raises:
        CaptionaryError: shapes that do not fit.
    """
    if baseline.shape != arm.shape or baseline.shape[1:] != labels.shape or item.shape != labels.shape[:1]:
        shapes = f"{baseline.shape}, {arm.shape}, {item.shape}"
        raise bad_value("shapes of two arms and of items", shapes, f"[S, {labels.shape}] twice and [N]")
    there = known_rows(labels)
    before, after = (row_losses(labels, each, kinds) for each in (baseline, arm))
    usual = np.nansum(before, axis=0) / np.maximum(there.sum(axis=0), 1)  # [T]
    scale = np.divide(1.0, usual, out=np.zeros_like(usual), where=usual > 0)
    size = int(item.max(initial=-1)) + 1
    whole = np.bincount(item, weights=np.nansum(before * scale, axis=1), minlength=size)
    change = np.bincount(item, weights=np.nansum((after - before) * scale, axis=1), minlength=size)
    rows = np.bincount(item, minlength=size)
    shown = (rows > 0) & (whole > 0)
    if among is not None:
        shown &= among[:size]
    order = np.flatnonzero(shown)
    order = order[np.argsort(change[order], kind="stable")]

    def listed(places: npt.NDArray[np.int64]) -> tuple[Change, ...]:
        return tuple(Change(int(i), float(change[i] / whole[i]), int(rows[i])) for i in places)

    lowered, raised = order[change[order] < 0], order[change[order] > 0]
    return Extremes(listed(lowered[:count]), listed(raised[::-1][:count]))


def row_losses(
    labels: npt.NDArray[np.float32], predictions: npt.NDArray[np.floating], kinds: Sequence[TaskKind] = ()
) -> Floats:
    """Loss of each row and task [N, T], mean over the S trainings of predictions [S, N, T]; NaN without a label."""
    made = np.full(labels.shape, np.nan)
    epsilon = float(np.finfo(predictions.dtype).eps)
    for task, kind in enumerate(kinds_of(kinds, labels.shape[1])):
        label, guess = labels[:, task].astype(np.float64), predictions[:, :, task].astype(np.float64)
        if is_continuous(kind):
            made[:, task] = ((np.log1p(guess) - np.log1p(label)) ** 2).mean(axis=0)
        else:
            right = np.clip(np.where(label > 0.5, guess, 1 - guess), epsilon, 1 - epsilon)
            made[:, task] = np.where(np.isnan(label), np.nan, -np.log(right).mean(axis=0))
    return made
