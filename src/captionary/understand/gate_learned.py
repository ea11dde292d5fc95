"""A small model of what a caption is worth to an impression, fitted to where captions lowered the ranker's loss.

    target    per item: mean loss of the baseline − mean loss of the arm with tokens, on held-out impressions
    features  what is known of an item before it is captioned: exposure, age, text, look-alikes
    model     ridge regression, items weighted by impressions, penalty by cross-validation over items

Both the impressions and the features belong to a time before the decision (see `captionary.evidence.budget`). Where
nothing can be foretold, cross-validation finds the strongest penalty, and the model says the mean for every item.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.publish import atomic_file
from captionary.understand.gate import GateContext

__all__ = ["FEATURES", "GateModel", "fit_gate", "gate_features"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FEATURES: tuple[str, ...] = (
    "log impressions",
    "log recent impressions",
    "log expected impressions",
    "never shown",
    "said by text",
    "log age in days",
    "age not known",
    "nearest look-alike",
    "mean of 8 look-alikes",
)
"""Columns of `gate_features`."""

_PENALTIES = (1e-2, 1e-1, 1.0, 10.0, 100.0, 1e4)
"""In shares of the weight of all impressions."""
_FOLDS = 5
_FORMAT = "captionary-gate"


class GateModel(NamedTuple):
    """Loss reduction of an impression = bias + weights · (features − mean) / scale, in nats."""

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    penalty: float
    """Chosen by cross-validation."""
    explained: float
    """Share of the variance between items that is foretold out of fold; 0 or less: nothing is."""
    items: int
    """Fitted to."""
    impressions: int
    """Fitted to."""
    cutoff: int
    """Nothing at this moment or later was looked at, microseconds since 1970."""

    def predict(self, context: GateContext) -> Floats:
        """Expected loss reduction of an impression of each item, [I]."""
        standard = (gate_features(context) - np.array(self.mean)) / np.array(self.scale)
        return np.asarray(self.bias + standard @ np.array(self.weights), np.float64)

    def save(self, path: Path) -> Path:
        """Write the model as JSON."""
        with atomic_file(path) as file:
            file.write(json.dumps({"format": _FORMAT, **self._asdict()}, indent=1).encode())
        return path

    @classmethod
    def load(cls, path: Path) -> GateModel:
        """Read what `save` wrote.

        Raises:
            CaptionaryError: no such file, or a file of another kind.
        """
        todo = "run `captionary gate fit CONFIG`"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.pop("format") != _FORMAT or tuple(found["features"]) != FEATURES:
                raise ValueError
            lists = {name: tuple(found[name]) for name in ("features", "mean", "scale", "weights")}
            return cls(**(found | lists))
        except OSError as error:
            raise bad_value("gate model", str(path), "readable", where=error.strerror, todo=todo) from None
        except (ValueError, KeyError, TypeError):
            raise bad_value("gate model", str(path), "one of this version", todo=todo) from None


def gate_features(context: GateContext) -> Floats:
    """What is known of each item before it is captioned, [I, len(FEATURES)]."""
    exposure, likeness = context.exposure, context.likeness
    size = len(context.media)
    nearest = np.zeros(size)
    rows = np.repeat(np.arange(size), np.diff(likeness.offsets))
    place = np.arange(len(rows)) - likeness.offsets[:-1][rows]
    first = place == 0
    nearest[rows[first]] = likeness.similarity[first]
    near = place < 8
    count = np.maximum(np.bincount(rows[near], minlength=size), 1)
    mean = np.bincount(rows[near], likeness.similarity[near], minlength=size) / count
    unknown = np.isnan(context.age)
    return np.column_stack(
        [
            np.log1p(exposure.past),
            np.log1p(exposure.recent),
            np.log1p(exposure.future),
            exposure.cold,
            context.said,
            np.log1p(np.clip(np.where(unknown, 0, context.age), 0, None)),
            unknown,
            nearest,
            mean,
        ]
    ).astype(np.float64)


def fit_gate(context: GateContext, item: Ints, reduction: Floats, *, until: int) -> GateModel:
    """Fit the model.

    Args:
        context: what was known of the items before the impressions were shown.
        item: row of the item of each held-out impression, [M].
        reduction: loss of the baseline − loss of the arm with tokens on each, mean over tasks and seeds, nats, [M].
        until: the moment before which all these impressions were shown, microseconds.

    Raises:
        CaptionaryError: no impressions, lengths that differ, a reduction that is not finite, or a context of a
            later time than `until`.
    """
    if not len(item) or len(item) != len(reduction):
        raise bad_value(
            "held-out impressions", f"{len(item)} items, {len(reduction)} reductions", "as many, >= 1"
        )
    if not np.isfinite(reduction).all():
        raise bad_value("loss reduction", "NaN or infinite", "finite")
    if context.cutoff > until:
        raise bad_value(
            "cutoff of the context", context.cutoff, f"<= {until}, or the future leaks into the model"
        )
    size = len(context.media)
    count = np.bincount(item, minlength=size).astype(np.float64)
    known = np.flatnonzero(count)
    target = np.bincount(item, reduction, minlength=size)[known] / count[known]
    weight = count[known] / count.sum()
    raw = gate_features(context)[known]
    mean = weight @ raw
    scale = np.sqrt(weight @ (raw - mean) ** 2)
    scale = np.where(scale > 1e-9, scale, 1.0)
    standard = (raw - mean) / scale
    fold = np.arange(len(known)) % _FOLDS
    errors = [_held_out_error(standard, target, weight, fold, penalty) for penalty in _PENALTIES]
    penalty = _PENALTIES[len(errors) - 1 - int(np.argmin(errors[::-1]))]  # of equals the strongest
    bias, weights = _ridge(standard, target, weight, penalty)
    spread = float(weight @ (target - weight @ target) ** 2)
    return GateModel(
        features=FEATURES,
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(weights.tolist()),
        bias=float(bias),
        penalty=penalty,
        explained=1 - min(errors) / spread if spread > 0 else 0.0,
        items=len(known),
        impressions=len(item),
        cutoff=until,
    )


def _ridge(features: Floats, target: Floats, weight: Floats, penalty: float) -> tuple[float, Floats]:
    weight = weight / weight.sum()
    centre, bias = weight @ features, float(weight @ target)
    weighted = (features - centre) * weight[:, None]
    gram = weighted.T @ (features - centre) + penalty * np.eye(features.shape[1])
    weights = np.asarray(np.linalg.solve(gram, weighted.T @ (target - bias)), np.float64)
    return bias - float(centre @ weights), weights


def _held_out_error(features: Floats, target: Floats, weight: Floats, fold: Ints, penalty: float) -> float:
    """Weighted mean square error over items that the fit had not seen."""
    error = 0.0
    for k in range(_FOLDS):
        out = fold == k
        if out.any() and (~out).any():
            bias, weights = _ridge(features[~out], target[~out], weight[~out], penalty)
            error += float(weight[out] @ (target[out] - bias - features[out] @ weights) ** 2)
    return error
