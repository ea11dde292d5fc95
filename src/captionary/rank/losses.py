"""What each kind of task is trained by and what it predicts: one loss over the labels that are there.

    kind               label y        loss of a logit z                    prediction
    binary             0 to 1         softplus(z) - y z                    sigmoid(z), a probability
    weighted_logistic  >= 0           (1 + y) softplus(z) - y z            exp(z), the expected y
    huber_log          >= 0           huber(z - log(1 + y))                exp(z) - 1, a typical y

Weighted logistic regression is that of Covington, Adams and Sargin 2016 ("Deep Neural Networks for YouTube
Recommendations", §4.2): a positive weighs as many times as its seconds, a negative once, and the odds exp(z) come
near the expected seconds as long as few impressions are positive. Here each positive is also a negative of weight one,
so that the odds *are* the expected seconds however many are: at the optimum E[y] (1 - p) = p, odds p / (1 - p) = E[y].

Huber's loss (Huber 1964, squared within one unit, linear beyond) on the logarithm follows what is typical, not the
mean: a few very long stays do not move it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from captionary.spec import TaskKind

if TYPE_CHECKING:
    from captionary.rank.features import Schema

__all__ = ["LabelSums", "base_logits", "label_sums", "labels_given", "task_loss", "to_prediction"]

_MOST = 30.0  # logits of amounts are cut here: e^30 seconds are long enough, e^89 are infinite in float32


def task_loss(logits: Tensor, labels: Tensor, schema: Schema) -> Tensor:
    """The mean over the labels that are given of their loss times their task's weight: a scalar.

    Where all tasks are binary, of weight 1, and no label is missing, this is `binary_cross_entropy_with_logits`.

    Args:
        logits: [B, T].
        labels: [B, T], NaN where missing: no gradient flows from there.
        schema: of the ranker: `task_kinds` and `task_weights`.
    """
    given = ~torch.isnan(labels)
    labels = torch.where(given, labels, 0.0)
    weights = given.to(logits.dtype)
    if any(weight != 1 for weight in schema.task_weights):
        weights = weights * weights.new_tensor(schema.task_weights)
    if all(kind == "binary" for kind in schema.task_kinds):
        mean = F.binary_cross_entropy_with_logits(logits, labels, weights)
    else:
        columns = zip(schema.task_kinds, logits.unbind(1), labels.unbind(1), strict=True)
        mean = (torch.stack([_LOSSES[kind](z, y) for kind, z, y in columns], dim=1) * weights).mean()
    # last, and exactly 1 without gaps, so that torch's own loss and gradients come through bit by bit
    return mean * (labels.numel() / given.sum().clamp(min=1))


def labels_given(labels: Tensor) -> Tensor:
    """How many of `labels` are not missing, at least 1: what `task_loss` divides by."""
    return (~torch.isnan(labels)).sum().clamp(min=1)


def to_prediction(logits: Tensor, kinds: Sequence[TaskKind]) -> Tensor:
    """Probabilities of binary tasks, amounts >= 0 in the unit of the label of the others: [B, T] → [B, T]."""
    if all(kind == "binary" for kind in kinds):
        return torch.sigmoid(logits)
    columns = zip(kinds, logits.unbind(1), strict=True)
    return torch.stack([_PREDICTIONS[kind](z) for kind, z in columns], dim=1)


class LabelSums(NamedTuple):
    """Of the labels of some rows; those of more rows are added up field by field."""

    total: npt.NDArray[np.float64]
    """[T] sum of the labels; of huber_log: of log(1 + label)."""
    given: npt.NDArray[np.int64]
    """[T] how many are not missing."""

    def plus(self, other: LabelSums) -> LabelSums:
        """Those of both."""
        return LabelSums(self.total + other.total, self.given + other.given)


def label_sums(labels: npt.NDArray[np.floating[Any]], kinds: Sequence[TaskKind]) -> LabelSums:
    """What `base_logits` is made of, from `labels` [N, T], NaN where missing."""
    given = ~np.isnan(labels)
    values = np.where(given, labels, np.zeros((), labels.dtype))
    for task, kind in enumerate(kinds):
        if kind == "huber_log":
            values[:, task] = np.log1p(values[:, task])
    return LabelSums(values.sum(axis=0, dtype=np.float64), given.sum(axis=0))


def base_logits(sums: LabelSums, kinds: Sequence[TaskKind]) -> npt.NDArray[np.float64]:
    """The logits [T] that predict the mean label everywhere: what the towers' biases start from.

    Half a label of 1 and half a label of 0 are added, so that a task of one class or without labels stays finite.
    """
    means = (sums.total + 0.5) / (sums.given + 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # the odds of an amount are thrown away
        odds = np.log(means / (1 - means))
    plain = {"binary": odds, "weighted_logistic": np.log(means)}
    plain["huber_log"] = sums.total / np.maximum(1, sums.given)
    return np.array([plain[kind][task] for task, kind in enumerate(kinds)])


def _binary(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def _weighted_logistic(logits: Tensor, labels: Tensor) -> Tensor:
    return (1 + labels) * F.softplus(logits) - labels * logits


def _huber_log(logits: Tensor, labels: Tensor) -> Tensor:
    return F.huber_loss(logits, torch.log1p(labels), reduction="none")


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binary": _binary,
    "weighted_logistic": _weighted_logistic,
    "huber_log": _huber_log,
}
_PREDICTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "binary": torch.sigmoid,
    "weighted_logistic": lambda logits: torch.exp(logits.clamp(max=_MOST)),
    "huber_log": lambda logits: torch.expm1(logits.clamp(0.0, _MOST)),
}
