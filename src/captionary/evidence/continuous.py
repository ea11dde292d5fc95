"""Metrics of tasks whose label is a quantity, such as seconds watched: concordance and normalised squared error.

They stand in AUC's and NE's place in every table, with the same signs: concordance is 1 at best and ½ for a guess, and
equals AUC where the label is 0 or 1; the normalised squared error is 0 at best and 1 for always predicting the mean.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.compiling import compiled
from captionary.errors import bad_value
from captionary.evidence.counting import sorted_rows

__all__ = ["Quantities", "concordance", "errors", "normalized_squared_error", "quantities", "shares_in_order"]

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.floating]


class Quantities(NamedTuple):
    """Rows that a metric may be taken of."""

    labels: Values
    predictions: Values
    weights: Floats | None


def quantities(
    labels: Values,
    predictions: Values,
    weights: Values | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
) -> Quantities:
    """The rows in the mask whose label is not NaN, all [N].

    Raises:
        CaptionaryError: lengths that differ, a label or a prediction that is negative or not finite, a bad weight.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.ndim != 1 or labels.shape != predictions.shape:
        raise bad_value(
            "shapes of labels and predictions", f"{labels.shape} and {predictions.shape}", "both [N]"
        )
    importance = None if weights is None else np.asarray(weights, dtype=np.float64)
    if importance is not None and importance.shape != labels.shape:
        raise bad_value("shape of weights", str(importance.shape), f"that of the labels, {labels.shape}")
    there = ~np.isnan(labels)
    if mask is not None:
        there &= mask
    if not there.all():
        labels, predictions = labels[there], predictions[there]
        importance = None if importance is None else importance[there]
    for name, values in (("label", labels), ("prediction", predictions), ("weight", importance)):
        if values is not None and not np.all((values >= 0) & np.isfinite(values)):
            odd = values[~((values >= 0) & np.isfinite(values))][0]
            raise bad_value(f"{name} of a continuous task", float(odd), ">= 0 and finite")
    return Quantities(np.ascontiguousarray(labels), np.ascontiguousarray(predictions), importance)


def concordance(
    labels: Values,
    predictions: Values,
    weights: Values | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
) -> float:
    """The chance that of two rows with different labels the one with the larger label has the larger prediction.

    Harrell's C (Harrell et al. 1982) without censoring: C = Σ wᵢ·wⱼ·(1[pᵢ > pⱼ] + ½·1[pᵢ = pⱼ]) ÷ Σ wᵢ·wⱼ over the
    pairs with yᵢ > yⱼ. Exact, in n log n by merging (Knight 1966); ``nan`` where all labels are alike.

    Raises:
        CaptionaryError: as `quantities`.
    """
    rows = quantities(labels, predictions, weights, mask)
    return float(shares_in_order(rows)[-1])


def normalized_squared_error(
    labels: Values,
    predictions: Values,
    weights: Values | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
) -> float:
    """Σ w·(l(p) − l(y))² ÷ Σ w·(l(y) − mean l(y))² with l(x) = log(1 + x): 1 − R² of logarithms.

    Logarithms, as a few long views would otherwise be all that counts. ``nan`` where all labels are alike.

    Raises:
        CaptionaryError: as `quantities`.
    """
    return float(errors(quantities(labels, predictions, weights, mask))[0][-1])


def shares_in_order(
    rows: Quantities, groups: npt.NDArray[np.integer] | None = None, count: int = 0
) -> Floats:
    """Concordance within each of `count` groups and, last, of all rows: [G + 1]; ``nan`` where labels are all alike.

    Args:
        rows: N of them.
        groups: 0 … count − 1, [N]; None: all rows alone, so that [G + 1] is [1].
        count: number of groups G.
    """
    labels, scores = rows.labels, rows.predictions
    order: npt.NDArray[np.integer]
    # By prediction, and among equals by falling label: a pair whose label rises is then won, never tied.
    if labels.dtype == scores.dtype == np.float32:
        first = sorted_rows(-labels)
        order = first[sorted_rows(scores[first])]
    else:
        order = np.lexsort((-labels, scores))
    weights = np.ones(len(labels)) if rows.weights is None else rows.weights[order]
    sorted_labels, sorted_scores = labels[order].astype(np.float64), scores[order].astype(np.float64)
    whole: Floats = _concordance(sorted_labels, sorted_scores, weights, np.array([0, len(labels)]))
    if groups is None:
        return whole
    member = groups[order]
    # Within a group the order stays what it was; narrow integers are sorted by radix.
    parted = np.argsort(member.astype(np.uint16) if count < 2**16 else member, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(member, minlength=count))])
    return np.concatenate(
        [_concordance(sorted_labels[parted], sorted_scores[parted], weights[parted], bounds), whole]
    )


def errors(
    rows: Quantities, groups: npt.NDArray[np.integer] | None = None, count: int = 0
) -> tuple[Floats, Floats]:
    """(normalised squared error, predicted ÷ observed sum) of each group and, last, of all rows: [G + 1] each."""
    size = len(rows.labels)
    weights = np.ones(size) if rows.weights is None else rows.weights
    label, guess = np.log1p(rows.labels, dtype=np.float64), np.log1p(rows.predictions, dtype=np.float64)
    missed = weights * (guess - label) ** 2
    whole = _part(label, missed, weights, rows, np.zeros(size, np.int64), 1)
    if groups is None:
        return whole
    parts = _part(label, missed, weights, rows, groups.astype(np.int64), count)
    return np.concatenate([parts[0], whole[0]]), np.concatenate([parts[1], whole[1]])


def _part(
    label: Floats, missed: Floats, weights: Floats, rows: Quantities, groups: Any, count: int
) -> tuple[Floats, Floats]:
    def total(values: Any) -> Floats:
        summed: Floats = np.bincount(groups, weights=values, minlength=count).astype(np.float64)
        return summed

    mass = total(weights)
    mean = np.divide(total(weights * label), mass, out=np.zeros(count), where=mass > 0)
    spread = total(weights * (label - mean[groups]) ** 2)
    # Labels that are all alike differ from their computed mean by rounding alone.
    known = spread > 1e-12 * np.maximum(mass, 1e-300) * (1 + mean**2)
    observed = total(weights * rows.labels)
    return (
        np.divide(total(missed), spread, out=np.full(count, math.nan), where=known),
        np.divide(
            total(weights * rows.predictions), observed, out=np.full(count, math.nan), where=observed > 0
        ),
    )


@compiled
def _concordance(labels, scores, weights, bounds):  # pragma: no cover
    """C of each stretch of rows sorted by (score, falling label); sums of whole numbers below 2⁵³ are exact."""
    found = np.full(len(bounds) - 1, np.nan)
    here, spare = labels.copy(), np.empty_like(labels)
    mass, other = weights.copy(), np.empty_like(weights)
    for part in range(len(bounds) - 1):
        low, high = bounds[part], bounds[part + 1]
        tied = 0.0
        start = low
        while start < high:  # rows of one score: pairs of different labels among them are ties
            total, alike, run, end = 0.0, 0.0, 0.0, start
            while end < high and scores[end] == scores[start]:
                if end > start and labels[end] != labels[end - 1]:
                    alike += run * run
                    run = 0.0
                run += weights[end]
                total += weights[end]
                end += 1
            tied += (total * total - alike - run * run) / 2
            start = end
        won, width = 0.0, 1
        while width < high - low:
            for left in range(low, high, 2 * width):
                middle, right = min(left + width, high), min(left + 2 * width, high)
                i, j, k, below = left, middle, left, 0.0
                while j < right:
                    while i < middle and here[i] < here[j]:
                        below += mass[i]
                        spare[k], other[k] = here[i], mass[i]
                        i += 1
                        k += 1
                    won += below * mass[j]
                    spare[k], other[k] = here[j], mass[j]
                    j += 1
                    k += 1
                while i < middle:
                    spare[k], other[k] = here[i], mass[i]
                    i += 1
                    k += 1
            for k in range(low, high):
                here[k], mass[k] = spare[k], other[k]
            width *= 2
        total, alike, run = 0.0, 0.0, 0.0
        for k in range(low, high):
            if k > low and here[k] != here[k - 1]:
                alike += run * run
                run = 0.0
            run += mass[k]
            total += mass[k]
        possible = (total * total - alike - run * run) / 2
        if possible > 0:
            found[part] = (won + tied / 2) / possible
    return found
