"""Metrics of binary tasks: exact AUC, GAUC, normalized entropy, log loss, calibration, and the paper's two gains.

A metric that its rows do not define (a task with one class only has no AUC) is ``nan``, never a number that
looks like one: `evaluate` turns the ``nan`` into a warning in words, the report into a dash, and
`captionary.evidence.recalibration.describe_task` says why. Formulas and sources: docs/metrics.md.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.evidence.counting import losses, pairs

__all__ = [
    "Gauc",
    "Rows",
    "auc",
    "auc_gain",
    "calibration",
    "checked",
    "gauc",
    "log_loss",
    "ne_gain",
    "normalized_entropy",
]

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.floating | np.bool_ | np.integer]
Number = TypeVar("Number", float, npt.NDArray[np.float64])


def auc(
    labels: Labels, scores: Floats, weights: Floats | None = None, mask: npt.NDArray[np.bool_] | None = None
) -> float:
    """The chance that a positive row scores above a negative one, a tie counting one half.

    Exact: no binning. Equal scores form one group, and a group of p positives and n negatives with N
    negatives below it adds p·(N + n/2) won pairs (Mann and Whitney 1947), counted in integers where no
    weights are given.

    Args:
        labels: 0 or 1, [N].
        scores: any finite order, [N]; probabilities or logits alike.
        weights: importance of each row, >= 0, [N]; a row of weight 0 is absent. None: each row counts 1.
        mask: which rows have a label, [N]; of the others nothing is looked at. None: all.

    Returns:
        AUC in 0…1, or ``nan`` where the rows hold one class only.

    Raises:
        CaptionaryError: a label is neither 0 nor 1, a score is NaN, a weight is negative or not finite, the
            lengths differ.
    """
    rows = checked(labels, scores, weights, mask)
    return float(pairs(rows.positive, rows.scores, weights=rows.weights).auc[-1])


def log_loss(
    labels: Labels,
    probabilities: Floats,
    weights: Floats | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
) -> float:
    """Mean of −log p over positive rows and −log(1 − p) over negative rows, in nats; ``nan`` without rows.

    Probabilities are kept away from 0 and 1 by the machine epsilon of their own type, as scikit-learn does: a
    float32 sigmoid that saturates at 1 is wrong by at most 1.2e-7, not by infinity.

    Raises:
        CaptionaryError: as `auc`, and where a probability lies outside 0…1.
    """
    rows = checked(labels, probabilities, weights, mask, probabilities=True)
    return float(losses(rows.positive, rows.scores, weights=rows.weights).log_loss[-1])


def normalized_entropy(
    labels: Labels,
    probabilities: Floats,
    weights: Floats | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
) -> float:
    """Log loss over the entropy of the base rate (He et al. 2014, eq. 1); 1 is what the base rate achieves.

    NE = −1/N Σ (y·log p + (1−y)·log(1−p)) / −(b·log b + (1−b)·log(1−b)), b the share of positives.
    Lower is better. ``nan`` where the rows hold one class only: the entropy of a certainty is 0.

    Raises:
        CaptionaryError: as `log_loss`.
    """
    rows = checked(labels, probabilities, weights, mask, probabilities=True)
    return float(losses(rows.positive, rows.scores, weights=rows.weights).normalized_entropy[-1])


def calibration(
    labels: Labels,
    probabilities: Floats,
    weights: Floats | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
) -> float:
    """Predicted positives ÷ observed positives: 1 is calibrated, above 1 too high; ``nan`` without positives.

    Raises:
        CaptionaryError: as `log_loss`.
    """
    rows = checked(labels, probabilities, weights, mask, probabilities=True)
    return float(losses(rows.positive, rows.scores, weights=rows.weights).calibration[-1])


class Gauc(NamedTuple):
    """AUC within users, and what it could not be taken of."""

    value: float
    """Mean AUC of the users that have both classes, weighted by their impressions; ``nan`` without any."""
    users: int
    """Users in the mean."""
    left_out: int
    """Users whose rows hold one class only: they have no AUC."""
    rows_left_out: int
    """Rows of those."""

    def to_dict(self) -> dict[str, float | int | None]:
        """For JSON: what is not known is None."""
        return {**self._asdict(), "value": None if math.isnan(self.value) else self.value}


def gauc(
    labels: Labels,
    scores: Floats,
    users: npt.NDArray[Any],
    weights: Floats | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
) -> Gauc:
    """AUC within each user's rows, averaged by impressions: Σ nᵤ·AUCᵤ ÷ Σ nᵤ (Zhu et al. 2018, DIN, eq. 6).

    How good the order of one user's items is, without what tells one user from another. A user with one class has no
    AUC and is left out and counted. (torchrec's GAUC averages sessions alike and breaks ties by position.)

    Args:
        users: integers or strings, [N].
        weights: [N]; nᵤ is then the weight of the user's rows.

    Raises:
        CaptionaryError: as `auc`.
    """
    rows = checked(labels, scores, weights, mask)
    users = np.asarray(users)
    if users.shape != np.shape(labels):
        raise bad_value("shape of users", str(users.shape), f"that of the labels, {np.shape(labels)}")
    if mask is not None:
        users = users[mask]
    names, member = np.unique(users, return_inverse=True)
    counted = pairs(rows.positive, rows.scores, member, len(names), rows.weights)
    each, size = counted.auc[:-1], (counted.positives + counted.negatives)[:-1].astype(np.float64)
    present = size > 0
    known = ~np.isnan(each)
    value = float(np.sum(each[known] * size[known]) / np.sum(size[known])) if known.any() else math.nan
    absent = present & ~known
    return Gauc(
        value, int(known.sum()), int(absent.sum()), int(np.isin(member, np.flatnonzero(absent)).sum())
    )


def auc_gain(treatment: Number, baseline: Number) -> Number:
    """Relative decrease of 1 − AUC (paper, Table 1): .75 → .80 is .05/.25 = 20 %; ``nan`` where that is 0."""
    return _relative(treatment - baseline, 1 - baseline)


def ne_gain(treatment: Number, baseline: Number) -> Number:
    """Relative decrease of NE (paper, Table 1): NE .80 → .76 is .04/.80 = 5 %; Table 2 shows its negative."""
    return _relative(baseline - treatment, baseline)


def _relative(decrease: Number, whole: Number) -> Number:
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.where(np.asarray(whole) == 0, np.nan, np.divide(decrease, whole))
    return quotient if isinstance(decrease, np.ndarray) else float(quotient)


class Rows(NamedTuple):
    """Rows that a metric may be taken of."""

    positive: npt.NDArray[np.bool_]
    scores: Floats
    weights: npt.NDArray[np.float64] | None


def checked(
    labels: Labels,
    scores: Floats,
    weights: Floats | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
    *,
    probabilities: bool = False,
) -> Rows:
    """The rows in the mask as (positive [N] bool, scores [N] floating, weights [N] float64 or None).

    Raises:
        CaptionaryError: as `auc`; with `probabilities`, also where a score lies outside 0…1.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float32 if scores.dtype == np.float16 else np.float64)
    if labels.ndim != 1 or scores.shape != labels.shape:
        raise bad_value("shapes of labels and scores", f"{labels.shape} and {scores.shape}", "both [N]")
    importance = None if weights is None else np.asarray(weights, dtype=np.float64)
    if importance is not None and importance.shape != labels.shape:
        raise bad_value("shape of weights", str(importance.shape), f"that of the labels, {labels.shape}")
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != labels.shape or mask.dtype != np.bool_:
            raise bad_value("mask", f"{mask.dtype} {mask.shape}", f"bool {labels.shape}")
        labels, scores = labels[mask], scores[mask]
        importance = None if importance is None else importance[mask]
    positive = labels.astype(bool)
    if labels.dtype != np.bool_ and not np.array_equal(positive, labels):
        odd = labels[positive != labels][0]
        raise bad_value("label", float(odd), "0 or 1", todo="give the task an `at` threshold in dataset.yaml")
    if np.isnan(scores).any():
        row = int(np.flatnonzero(np.isnan(scores))[0])
        raise bad_value("score", "nan", "a number", where=f"row {row}")
    if probabilities and len(scores) and (scores.min() < 0 or scores.max() > 1):
        outside = scores[(scores < 0) | (scores > 1)][0]
        raise bad_value("probability", float(outside), "in 0…1", todo="pass probabilities, not logits")
    if importance is not None and not np.all((importance >= 0) & np.isfinite(importance)):
        odd = importance[~((importance >= 0) & np.isfinite(importance))][0]
        raise bad_value("weight", float(odd), ">= 0 and finite")
    return Rows(positive, np.ascontiguousarray(scores), importance)
