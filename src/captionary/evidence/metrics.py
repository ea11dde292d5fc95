"""Metrics of binary tasks: exact AUC, normalized entropy, log loss, calibration, and the paper's two gains.

A metric that its rows do not define (a task with one class only has no AUC) is ``nan``, never a number that
looks like one: `evaluate` turns the ``nan`` into a warning in words, the report into a dash.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value

__all__ = ["auc", "auc_gain", "calibration", "log_loss", "ne_gain", "normalized_entropy"]

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.floating | np.bool_ | np.integer]
Number = TypeVar("Number", float, npt.NDArray[np.float64])


def auc(labels: Labels, scores: Floats, weights: Floats | None = None) -> float:
    """The chance that a positive row scores above a negative one, a tie counting one half.

    Exact: no binning. Equal scores form one group, and a group of p positives and n negatives with N
    negatives below it adds p·(N + n/2) won pairs (Mann and Whitney 1947), counted in integers where no
    weights are given.

    Args:
        labels: 0 or 1, [N].
        scores: any finite order, [N]; probabilities or logits alike.
        weights: importance of each row, >= 0, [N]; a row of weight 0 is absent. None: each row counts 1.

    Returns:
        AUC in 0…1, or ``nan`` where the rows hold one class only.

    Raises:
        CaptionaryError: a label is neither 0 nor 1, a score is NaN, a weight is negative, the lengths differ.
    """
    positive, scores, weights = _checked(labels, scores, weights)
    order = np.argsort(scores)
    ordered = scores[order]
    last = np.ones(len(ordered), dtype=bool)  # the last row of each group of equal scores
    np.not_equal(ordered[1:], ordered[:-1], out=last[:-1])
    ends = np.flatnonzero(last)
    if weights is None:
        positives = np.cumsum(positive[order], dtype=np.int64)[ends]
        negatives = ends + 1 - positives
    else:
        ordered_weights = weights[order]
        positives = np.cumsum(np.where(positive[order], ordered_weights, 0.0))[ends]
        negatives = np.cumsum(np.where(positive[order], 0.0, ordered_weights))[ends]
    if not len(ends) or positives[-1] <= 0 or negatives[-1] <= 0:
        return math.nan
    below = np.concatenate([negatives[:1] * 0, negatives[:-1]])
    twice_won = np.sum(np.diff(positives, prepend=0) * (below + negatives))  # N + (N + n) = 2·(N + n/2)
    return float(twice_won / 2 / (float(positives[-1]) * float(negatives[-1])))


def log_loss(labels: Labels, probabilities: Floats, weights: Floats | None = None) -> float:
    """Mean of −log p over positive rows and −log(1 − p) over negative rows, in nats; ``nan`` without rows.

    Probabilities are kept away from 0 and 1 by the machine epsilon of their own type, as scikit-learn does: a
    float32 sigmoid that saturates at 1 is wrong by at most 1.2e-7, not by infinity.

    Raises:
        CaptionaryError: as `auc`, and where a probability lies outside 0…1.
    """
    positive, probabilities, weights = _checked(labels, probabilities, weights)
    if not len(positive):
        return math.nan
    if probabilities.min() < 0 or probabilities.max() > 1:
        outside = probabilities[(probabilities < 0) | (probabilities > 1)][0]
        raise bad_value("probability", float(outside), "in 0…1", todo="pass probabilities, not logits")
    epsilon = float(np.finfo(probabilities.dtype).eps)
    right = np.where(positive, probabilities, 1 - probabilities.astype(np.float64))
    losses = -np.log(np.clip(right, epsilon, 1 - epsilon))
    return _mean(losses, weights)


def normalized_entropy(labels: Labels, probabilities: Floats, weights: Floats | None = None) -> float:
    """Log loss over the entropy of the base rate (He et al. 2014, eq. 1); 1 is what the base rate achieves.

    NE = −1/N Σ (y·log p + (1−y)·log(1−p)) / −(b·log b + (1−b)·log(1−b)), b the share of positives.
    Lower is better. ``nan`` where the rows hold one class only: the entropy of a certainty is 0.

    Raises:
        CaptionaryError: as `log_loss`.
    """
    loss = log_loss(labels, probabilities, weights)
    base = _mean(np.asarray(labels, np.float64), None if weights is None else np.asarray(weights, np.float64))
    if not 0 < base < 1:
        return math.nan
    return loss / -(base * math.log(base) + (1 - base) * math.log(1 - base))


def calibration(labels: Labels, probabilities: Floats, weights: Floats | None = None) -> float:
    """Predicted positives ÷ observed positives: 1 is calibrated, above 1 too high; ``nan`` without positives.

    Raises:
        CaptionaryError: as `auc`.
    """
    positive, probabilities, weights = _checked(labels, probabilities, weights)
    observed = _mean(positive.astype(np.float64), weights)
    return _mean(probabilities.astype(np.float64), weights) / observed if observed > 0 else math.nan


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


def _mean(values: npt.NDArray[np.float64], weights: Floats | None) -> float:
    if weights is None:
        return float(np.mean(values)) if len(values) else math.nan
    total = float(np.sum(weights, dtype=np.float64))
    return float(np.sum(values * weights, dtype=np.float64)) / total if total > 0 else math.nan


def _checked(
    labels: Labels, scores: Floats, weights: Floats | None
) -> tuple[npt.NDArray[np.bool_], Floats, npt.NDArray[np.float64] | None]:
    """(positive [N] bool, scores [N] floating, weights [N] float64 or None), or the error that fits."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    if labels.ndim != 1 or scores.shape != labels.shape:
        raise bad_value("shapes of labels and scores", f"{labels.shape} and {scores.shape}", "both [N]")
    positive = labels.astype(bool)
    if labels.dtype != np.bool_ and not np.array_equal(positive, labels):
        odd = labels[positive != labels][0]
        raise bad_value("label", float(odd), "0 or 1", todo="give the task an `at` threshold in dataset.yaml")
    if np.isnan(scores).any():
        row = int(np.flatnonzero(np.isnan(scores))[0])
        raise bad_value("score", "nan", "a number", where=f"row {row}")
    if weights is None:
        return positive, scores, None
    importance = np.asarray(weights, dtype=np.float64)
    if importance.shape != labels.shape:
        raise bad_value("shape of weights", str(importance.shape), f"that of the labels, {labels.shape}")
    if not np.all(importance >= 0):
        raise bad_value("weight", float(importance[~(importance >= 0)][0]), ">= 0")
    return positive, scores, importance
