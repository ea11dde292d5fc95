"""The compiled heart of the metrics: won pairs and summed losses of all rows and of each group, in one pass.

A group is a subset of the paired test or a user of GAUC: both need the metric of the whole and of every part, and
rows sorted once by score are sorted within every part too. So one sort per task serves all of them, 10 million rows
take about a second, and what is counted without weights is counted in integers.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.compiling import compiled

__all__ = ["Losses", "Pairs", "losses", "pairs", "sorted_rows"]

Floats = npt.NDArray[np.float64]


class Pairs(NamedTuple):
    """What AUC is made of, for G groups and, last, for all rows together: [G + 1] each."""

    twice_won: npt.NDArray[Any]
    """Twice the weight of the (positive, negative) pairs in order, a tie counting half; int64 without weights."""
    positives: npt.NDArray[Any]
    """Weight of positive rows."""
    negatives: npt.NDArray[Any]
    """Weight of negative rows."""

    @property
    def auc(self) -> Floats:
        """AUC of each group and of all rows, [G + 1]; ``nan`` where one class is missing."""
        possible = self.positives.astype(np.float64) * self.negatives
        known = (self.positives > 0) & (self.negatives > 0)
        shares: Floats = np.divide(
            self.twice_won / 2, possible, out=np.full(len(possible), np.nan), where=known
        )
        return shares


class Losses(NamedTuple):
    """Weighted sums for G groups and, last, for all rows together: [G + 1] each."""

    loss: Floats
    """Of −log p over positives and −log(1 − p) over negatives, in nats."""
    observed: Floats
    """Of the labels."""
    predicted: Floats
    """Of the probabilities."""
    weight: Floats
    """Of the rows."""

    @property
    def log_loss(self) -> Floats:
        """Mean loss, [G + 1]; ``nan`` without rows."""
        return _ratio(self.loss, self.weight)

    @property
    def normalized_entropy(self) -> Floats:
        """Log loss ÷ entropy of the base rate, [G + 1]; ``nan`` with one class."""
        base = _ratio(self.observed, self.weight)
        known = (base > 0) & (base < 1)
        safe = np.where(known, base, 0.5)
        entropy = -(safe * np.log(safe) + (1 - safe) * np.log1p(-safe))
        return np.where(known, self.log_loss / entropy, np.nan)

    @property
    def calibration(self) -> Floats:
        """Predicted ÷ observed positives, [G + 1]; ``nan`` without positives."""
        return _ratio(self.predicted, self.observed)


def sorted_rows(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.integer]:
    """Rows in ascending order of score, [N]; equal scores side by side, −0 and 0 equal. No NaN.

    32-bit scores are sorted as integers with their row number in the low half, which is several times faster than an
    indirect sort: the bits of a float are ordered like the float once negative ones are turned round.
    """
    if scores.dtype != np.float32 or len(scores) >= 2**32:
        return np.argsort(scores)
    bits = (scores + np.float32(0)).view(np.uint32)
    negative = bits >> np.uint32(31)
    keys = (bits ^ (np.where(negative, np.uint32(0xFFFFFFFF), np.uint32(0x80000000)))).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(len(scores), dtype=np.uint64)
    keys.sort()
    return keys.astype(np.uint32)  # the low half


def pairs(
    positive: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.floating],
    groups: npt.NDArray[np.integer] | None = None,
    count: int = 0,
    weights: Floats | None = None,
) -> Pairs:
    """Count won pairs within each group and over all rows.

    Args:
        positive: [N].
        scores: no NaN, [N].
        groups: 0 … count − 1, [N]; None: all rows alone, so that [G + 1] is [1].
        count: number of groups G.
        weights: >= 0, [N]; None: each row counts 1.
    """
    codes: npt.NDArray[Any] = positive.astype(np.int64 if count >= 2**30 else np.int32)
    if groups is not None:
        codes = codes + 2 * groups.astype(codes.dtype)
    size, kind = max(count, 1), np.int64 if weights is None else np.float64
    table = np.zeros((5, size + 1), dtype=kind)
    given = np.ones(1, dtype=kind) if weights is None else weights
    _count_pairs(
        sorted_rows(scores), scores, codes, given, int(weights is not None), table, np.empty(size, np.int64)
    )
    kept = slice(None) if groups is not None else slice(size, None)
    return Pairs(*(table[row, kept] for row in range(3)))


def losses(
    positive: npt.NDArray[np.bool_],
    probabilities: npt.NDArray[np.floating],
    groups: npt.NDArray[np.integer] | None = None,
    count: int = 0,
    weights: Floats | None = None,
) -> Losses:
    """Sum losses within each group and over all rows; arguments as `pairs`, probabilities in 0…1.

    Probabilities are kept from 0 and 1 by the machine epsilon of their type.
    """
    sums = np.zeros((4, max(count, 1)))
    one = np.zeros(1, dtype=np.int64)
    _sum_losses(
        positive,
        probabilities,
        one if groups is None else groups,
        int(groups is not None),
        np.ones(1) if weights is None else weights,
        int(weights is not None),
        float(np.finfo(probabilities.dtype).eps),
        sums,
    )
    total = sums.sum(axis=1)[:, None]
    return Losses(*(total if groups is None else np.hstack([sums, total])))


def _ratio(above: Floats, below: Floats) -> Floats:
    quotient: Floats = np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
    return quotient


@compiled
def _count_pairs(order, scores, codes, weights, step, table, touched):
    """Fill table = (twice won, positives, negatives, tied positives, tied negatives) [5, G + 1].

    Equal scores of p positives and n negatives with N negatives below win p·(2N + n), twice counted. `touched` lists
    the groups that the tie at hand has rows of, so that a tie costs what it holds and not G.
    """
    won, pos, neg, tied_pos, tied_neg = table[0], table[1], table[2], table[3], table[4]
    whole = table.shape[1] - 1
    rows = len(order)
    start = 0
    while start < rows:
        score = scores[order[start]]
        end = start
        met = 0
        while end < rows and scores[order[end]] == score:
            row = order[end]
            end += 1
            weight = weights[row * step]
            if weight == 0:
                continue
            group = codes[row] >> 1
            if tied_pos[group] == 0 and tied_neg[group] == 0:
                touched[met] = group
                met += 1
            if codes[row] & 1:
                tied_pos[group] += weight
                tied_pos[whole] += weight
            else:
                tied_neg[group] += weight
                tied_neg[whole] += weight
        for index in range(met + 1):
            group = touched[index] if index < met else whole
            won[group] += tied_pos[group] * (2 * neg[group] + tied_neg[group])
            pos[group] += tied_pos[group]
            neg[group] += tied_neg[group]
            tied_pos[group] = 0
            tied_neg[group] = 0
        start = end


@compiled
def _sum_losses(positive, probabilities, groups, group_step, weights, step, epsilon, sums):
    """Add loss, label, probability and weight of each row to sums [4, G]."""
    for row in range(len(positive)):
        weight = weights[row * step]
        group = groups[row * group_step]
        probability = np.float64(probabilities[row])
        right = probability if positive[row] else 1.0 - probability
        right = min(max(right, epsilon), 1.0 - epsilon)
        sums[0, group] -= weight * np.log(right)
        sums[1, group] += weight * positive[row]
        sums[2, group] += weight * probability
        sums[3, group] += weight
