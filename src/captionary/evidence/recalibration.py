"""How far probabilities are from what happens, and what is left once they are put right.

`expected_calibration_error` measures the distance in bins of equal mass; `recalibrated_ne` is the NE after a
correction that was fitted on other rows: what two arms differ in by *order*, once one of them being too high or too
low is no longer held against it. `describe_task` gives all metrics of one task, or says in words why there is none.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from captionary.errors import bad_value
from captionary.evidence.counting import losses, pairs, sorted_rows
from captionary.evidence.hashing import hash_ids
from captionary.evidence.metrics import Gauc, Labels, checked, gauc

__all__ = ["TaskMetrics", "describe_task", "expected_calibration_error", "recalibrate", "recalibrated_ne"]

Floats = npt.NDArray[np.float64]
Probabilities = npt.NDArray[np.floating]
Method = Literal["platt", "isotonic"]


class TaskMetrics(NamedTuple):
    """All metrics of one task and one set of predictions; None where the rows do not define one."""

    rows: int
    """Rows with a label and a weight above 0."""
    positives: int
    """Of these, with label 1."""
    auc: float | None
    gauc: Gauc | None
    """None where no users were given."""
    log_loss: float | None
    ne: float | None
    recalibrated_ne: float | None
    """After Platt scaling fitted on the other half of the users (or rows)."""
    calibration: float | None
    """Predicted ÷ observed positives."""
    ece: float | None
    """Expected calibration error in bins of equal mass."""
    undefined: str
    """Why figures are missing, in words; empty where none is."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "gauc": self.gauc.to_dict() if self.gauc else None}


def describe_task(
    labels: Labels,
    probabilities: Probabilities,
    users: npt.NDArray[Any] | None = None,
    weights: Probabilities | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
    *,
    bins: int = 15,
    seed: int = 0,
) -> TaskMetrics:
    """Every metric of one task, or None and a sentence.

    Args:
        labels: 0 or 1, [N].
        probabilities: [N].
        users: integers or strings, [N]: for GAUC, and so that no user is in both halves of the recalibration.
        weights: >= 0, [N].
        mask: which rows have a label, [N].
        bins: of the ECE.
        seed: of the halves.

    Raises:
        CaptionaryError: as `captionary.evidence.metrics.log_loss`.
    """
    rows = checked(labels, probabilities, weights, mask, probabilities=True)
    present = np.ones(len(rows.positive), bool) if rows.weights is None else rows.weights > 0
    count, positives = int(present.sum()), int((rows.positive & present).sum())
    summed = losses(rows.positive, rows.scores, weights=rows.weights)
    why = ""
    if count == 0:
        why = "No rows: no metric."
    elif positives in (0, count):
        kind = "negative" if positives == 0 else "positive"
        why = f"One class only ({count:,} rows, all {kind}): no AUC, no NE, no GAUC."
    made = {
        "auc": pairs(rows.positive, rows.scores, weights=rows.weights).auc[-1],
        "log_loss": summed.log_loss[-1],
        "ne": summed.normalized_entropy[-1],
        "recalibrated_ne": recalibrated_ne(labels, probabilities, users, weights, mask, seed=seed),
        "calibration": summed.calibration[-1],
        "ece": expected_calibration_error(labels, probabilities, weights, mask, bins=bins),
    }
    known = {name: float(value) if math.isfinite(value) else None for name, value in made.items()}
    by_user = None if why or users is None else gauc(labels, probabilities, users, weights, mask)
    return TaskMetrics(rows=count, positives=positives, gauc=by_user, undefined=why, **known)


def expected_calibration_error(
    labels: Labels,
    probabilities: Probabilities,
    weights: Probabilities | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
    *,
    bins: int = 15,
) -> float:
    """Mean over bins of |mean probability − share of positives|, weighted by what a bin holds; ``nan`` without rows.

    Bins hold equal mass (Nguyen and O'Connor 2015) and not equal widths: rare events have nearly all of their rows
    in the first of fifteen equal widths. Equal probabilities are never parted, as their order would decide the
    figure; so there may be fewer bins than asked for. A group of equals goes where its middle falls.

    Raises:
        CaptionaryError: as `captionary.evidence.metrics.log_loss`, and where bins < 1.
    """
    if bins < 1:
        raise bad_value("bins", bins, ">= 1")
    rows = checked(labels, probabilities, weights, mask, probabilities=True)
    merged = _merged(rows.positive, rows.scores, rows.weights)
    if merged is None:
        return math.nan
    scores, observed, mass = merged
    middle = np.cumsum(mass) - mass / 2
    bin_of = np.minimum((middle / mass.sum() * bins).astype(np.int64), bins - 1)
    gap = np.bincount(bin_of, weights=(scores - observed) * mass, minlength=bins)
    return float(np.abs(gap).sum() / mass.sum())


def recalibrated_ne(
    labels: Labels,
    probabilities: Probabilities,
    users: npt.NDArray[Any] | None = None,
    weights: Probabilities | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
    *,
    method: Method = "platt",
    seed: int = 0,
) -> float:
    """NE after recalibration fitted on held-out rows; ``nan`` where either half has one class only.

    The rows are dealt into two halves by a seeded hash (of the user where users are given, so that no user is in
    both; else of the row number). Each half is corrected by what was fitted on the other, and NE is taken of all.

    Args:
        method: "platt" (Platt 1999: logit → a·logit + b, by Newton's method on the log loss) or "isotonic"
            (Zadrozny and Elkan 2002).
        seed: deals the halves.

    Raises:
        CaptionaryError: as `captionary.evidence.metrics.log_loss`; an unknown method.
    """
    rows = checked(labels, probabilities, weights, mask, probabilities=True)
    keys = np.arange(len(rows.positive))
    names, member = keys, keys
    if users is not None:
        names, member = np.unique(users if mask is None else np.asarray(users)[mask], return_inverse=True)
    second = ((hash_ids(names, seed) >> np.uint64(40)) & np.uint64(1)).astype(bool)[member]
    corrected = np.empty(len(keys))
    for half in (second, ~second):
        there = None if rows.weights is None else rows.weights[~half]
        made = recalibrate(rows.positive[~half], rows.scores[~half], rows.scores[half], there, method=method)
        if made is None:
            return math.nan
        corrected[half] = made
    return float(losses(rows.positive, corrected, weights=rows.weights).normalized_entropy[-1])


def recalibrate(
    positive: npt.NDArray[np.bool_],
    probabilities: Probabilities,
    of: Probabilities,
    weights: Floats | None = None,
    *,
    method: Method = "platt",
) -> Floats | None:
    """Probabilities `of` [M] corrected by what was fitted on (positive, probabilities) [N]; None with one class.

    Platt's targets are smoothed as he proposes, so that rows that a score tells apart perfectly do not send the slope
    to infinity. An isotonic step is drawn to the base rate by one row's weight: a step of three positives is no
    certainty, and one wrong row after it would cost an infinite loss.

    Raises:
        CaptionaryError: an unknown method.
    """
    if method not in ("platt", "isotonic"):
        raise bad_value("method", method, "platt or isotonic")
    merged = _merged(positive, probabilities, weights)
    if merged is None:
        return None
    scores, observed, mass = merged
    total = float(mass.sum())
    base = float(np.sum(observed * mass)) / total
    if not 0 < base < 1:
        return None
    if method == "platt":
        slope, shift = _platt(_logit(scores, probabilities.dtype), observed, mass)
        return np.asarray(special.expit(slope * _logit(of, of.dtype) + shift), dtype=np.float64)
    fitted = optimize.isotonic_regression(observed, weights=mass)
    row = total / len(positive)
    first = fitted.blocks[:-1]
    sizes = np.add.reduceat(mass, first)
    steps = np.repeat((fitted.x[first] * sizes + base * row) / (sizes + row), np.diff(fitted.blocks))
    return np.asarray(np.interp(of.astype(np.float64), scores, steps), dtype=np.float64)


def _platt(logits: Floats, observed: Floats, mass: Floats) -> tuple[float, float]:
    """(slope, shift) that make the log loss of smoothed targets least: Newton's method with halved steps."""
    positives = float(np.sum(observed * mass))
    negatives = float(np.sum(mass)) - positives
    target = observed * (positives + 1) / (positives + 2) + (1 - observed) / (negatives + 2)
    design = np.column_stack([logits, np.ones_like(logits)])

    def loss(at: Floats) -> float:
        scaled = design @ at
        return float(np.sum(mass * (np.logaddexp(0, scaled) - target * scaled)))

    at = np.array([1.0, 0.0])
    now = loss(at)
    for _ in range(100):
        fitted = special.expit(design @ at)
        curve = (design * (mass * fitted * (1 - fitted))[:, None]).T @ design
        curve[np.diag_indices(2)] += 1e-9 * np.trace(curve) + 1e-12  # equal scores leave the slope undecided
        step = np.linalg.solve(curve, design.T @ (mass * (fitted - target)))
        size = 1.0
        while size > 1e-8 and loss(at - size * step) > now:
            size /= 2
        at = at - size * step
        before, now = now, loss(at)
        if before - now <= 1e-12 * abs(before):
            break
    return float(at[0]), float(at[1])


def _merged(
    positive: npt.NDArray[np.bool_], scores: Probabilities, weights: Floats | None
) -> tuple[Floats, Floats, Floats] | None:
    """(distinct scores ascending, share of positives, mass) [D], rows of weight 0 left out; None without rows."""
    order = sorted_rows(scores)
    if weights is not None:
        order = order[weights[order] > 0]
    if not len(order):
        return None
    ordered = scores[order].astype(np.float64)
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    mass = np.ones(len(order)) if weights is None else weights[order]
    summed = np.add.reduceat(mass, starts)
    return ordered[starts], np.add.reduceat(mass * positive[order], starts) / summed, summed


def _logit(probabilities: Probabilities, kind: npt.DTypeLike) -> Floats:
    """The logit, probabilities kept from 0 and 1 by the machine epsilon of their type."""
    epsilon = float(np.finfo(kind).eps)
    kept = np.clip(probabilities.astype(np.float64), epsilon, 1 - epsilon)
    return np.asarray(special.logit(kept), dtype=np.float64)
