"""Predictions put right on rows that the ranker was not trained on, per task, and kept with the checkpoint.

    temperature   z / t            Guo et al. 2017: one number; confidence alone is corrected
    platt         a z + b, a > 0   Platt 1999: two numbers; no two rows change places, so AUC stays as it is but for
                                   what float32 makes ties of where a is small
    isotonic      a rising step    Zadrozny and Elkan 2002: pool adjacent violators, straight lines between the steps;
                                   any rising shape, needs thousands of rows, and makes ties

Temperature and Platt minimise the loss that the task was trained by (for binary tasks the log loss); isotonic
regression gives the mean label itself, in its own unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captionary.errors import bad_value
from captionary.rank.losses import to_prediction
from captionary.spec import TaskKind

__all__ = ["METHODS", "Calibration", "Method", "TaskCalibration", "fit_calibration"]

Method = Literal["platt", "temperature", "isotonic"]
METHODS = ("platt", "temperature", "isotonic")

_FLATTEST = 1e-2  # slope: logits that rank backwards are flattened, never turned round
_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class TaskCalibration:
    """What is done to one task's logits."""

    slope: float = 1.0
    """Factor on the logit, > 0."""
    intercept: float = 0.0
    """Added behind it."""
    logits: tuple[float, ...] = ()
    """isotonic: rising logits, between which predictions go in straight lines; () otherwise."""
    predictions: tuple[float, ...] = ()
    """isotonic: the prediction at each of `logits`."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is done to each task's logits."""

    method: Method
    tasks: Mapping[str, TaskCalibration]

    def apply(self, logits: Tensor, tasks: Sequence[str], kinds: Sequence[TaskKind]) -> Tensor:
        """Calibrated predictions, in the place of `to_prediction`: [B, T] → [B, T].

        Raises:
            CaptionaryError: a task that was not calibrated.
        """
        for name in tasks:
            if name not in self.tasks:
                raise bad_value("task", name, "one of " + ", ".join(self.tasks), where="the calibration")
        parts = [self.tasks[name] for name in tasks]
        slope, intercept = (
            logits.new_tensor([getattr(part, name) for part in parts]) for name in ("slope", "intercept")
        )
        found = to_prediction(logits * slope + intercept, kinds)
        for place, part in enumerate(parts):
            if part.logits:
                column = logits[:, place].double().cpu().numpy()
                values = np.interp(column, part.logits, part.predictions)
                found[:, place] = torch.from_numpy(values).to(found)
        return found


def fit_calibration(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.floating[Any]],
    tasks: Sequence[str],
    kinds: Sequence[TaskKind],
    method: Method = "platt",
) -> Calibration:
    """Fit each task on rows that the ranker was not trained on.

    Args:
        logits: [N, T] of the ranker.
        labels: [N, T], NaN where missing.
        tasks: names.
        kinds: of the tasks.
        method: one of `METHODS`, see the module.

    Raises:
        CaptionaryError: a task without labels, logits that are not finite, or an unknown method.
    """
    if method not in METHODS:
        raise bad_value("method", method, "one of " + ", ".join(METHODS))
    if logits.shape != labels.shape or logits.shape[1:] != (len(tasks),):
        raise bad_value("shape of logits", logits.shape, f"{labels.shape}, that of the labels")
    found = {}
    for place, (name, kind) in enumerate(zip(tasks, kinds, strict=True)):
        given = ~np.isnan(labels[:, place])
        scores, values = logits[given, place].astype(np.float64), labels[given, place].astype(np.float64)
        if not len(values):
            raise bad_value(f"labels of {name}", 0, ">= 1", where="rows to calibrate on")
        if not np.isfinite(scores).all():
            raise bad_value(f"logits of {name}", "NaN", "finite", where="rows to calibrate on")
        found[name] = (
            _isotonic(scores, values) if method == "isotonic" else _line(scores, values, kind, method)
        )
    return Calibration(method=method, tasks=found)


def _isotonic(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.float64]) -> TaskCalibration:
    from scipy.optimize import isotonic_regression

    # rows of one score are one point, of the weight of all
    points, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(which.reshape(-1), labels) / counts
    fitted = np.asarray(isotonic_regression(means, weights=counts).x)
    # the ends of each step are enough
    edge = np.diff(fitted) != 0
    kept = np.append(True, edge) | np.append(edge, True)
    return TaskCalibration(logits=tuple(points[kept].tolist()), predictions=tuple(fitted[kept].tolist()))


def _line(
    scores: npt.NDArray[np.float64], labels: npt.NDArray[np.float64], kind: TaskKind, method: Method
) -> TaskCalibration:
    """Slope and intercept of least loss by Newton's method, with step halving; the loss is convex in both.

    Of binary labels, one half of each class is added at either end (Platt's smoothed targets), so that rows of one
    class, or in perfect order, still have a finite optimum.
    """
    if kind == "binary":
        positive, negative = labels.sum(), (1 - labels).sum()
        high, low = (positive + 1) / (positive + 2), 1 / (negative + 2)
        labels = labels * high + (1 - labels) * low
    columns = [scores] if method == "temperature" else [scores, np.ones_like(scores)]
    design = np.stack(columns, axis=1)
    weights = _newton(design, labels, kind, np.eye(len(columns))[0], np.zeros(len(scores)))
    if not weights[0] >= _FLATTEST:
        rest = design[:, 1:]
        flat = _newton(rest, labels, kind, np.zeros(rest.shape[1]), scores * _FLATTEST)
        weights = np.append(_FLATTEST, flat)
    return TaskCalibration(slope=float(weights[0]), intercept=float(weights[1]) if len(weights) > 1 else 0.0)


def _newton(
    design: npt.NDArray[np.float64],
    labels: npt.NDArray[np.float64],
    kind: TaskKind,
    start: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """The weights w of least mean loss of the logits ``design @ w + offset``."""
    weights = start
    loss, slopes, curves = _derivatives(design @ weights + offset, labels, kind)
    for _ in range(_STEPS if design.shape[1] else 0):
        gradient = design.T @ slopes / len(labels)
        hessian = (design * curves[:, None]).T @ design / len(labels)
        step = np.linalg.solve(hessian + 1e-9 * np.eye(len(weights)), gradient)
        size = 1.0
        while size > 1e-6:
            tried = weights - size * step
            new, new_slopes, new_curves = _derivatives(design @ tried + offset, labels, kind)
            if new <= loss:
                break
            size /= 2
        else:
            break
        done = math.isclose(new, loss, rel_tol=1e-12, abs_tol=1e-15) and np.abs(size * step).max() < 1e-7
        weights, loss, slopes, curves = tried, new, new_slopes, new_curves
        if done:
            break
    return weights


def _derivatives(
    logits: npt.NDArray[np.float64], labels: npt.NDArray[np.float64], kind: TaskKind
) -> tuple[float, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(mean loss, its first and its second derivative by each logit [N]), see `captionary.rank.losses`."""
    if kind == "huber_log":
        error = logits - np.log1p(labels)
        far = np.abs(error)
        loss = np.where(far <= 1, error**2 / 2, far - 0.5)
        # a positive curve beyond the square, too, as in iteratively reweighted least squares
        return float(loss.mean()), error.clip(-1, 1), 1 / np.maximum(far, 1)
    chance = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    weight = np.ones_like(labels) if kind == "binary" else 1 + labels
    softplus = np.logaddexp(0, logits)
    slope = weight * chance - labels
    return float((weight * softplus - labels * logits).mean()), slope, weight * chance * (1 - chance)
