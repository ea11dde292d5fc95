"""How well captions name what a catalogue says of its items: average precision of words, beside a linear probe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["AveragePrecision", "average_precision", "drawn_scores", "ridge_probe", "said_scores"]

_PENALTIES = 10.0 ** np.arange(0, 7)


class AveragePrecision(NamedTuple):
    """Area under the precision-recall steps, 0 to 1, of each word and of all (item, word) pairs together."""

    words: list[str]
    counts: list[int]
    """Held-out items that have the word."""
    values: list[float]
    """Per word; not a number where no item has it."""
    micro: float


def average_precision(
    truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64], words: Sequence[str]
) -> AveragePrecision:
    """Sum over thresholds of (recall gained) × precision; equal scores pass a threshold together.

    Args:
        truth: whether item i has word w, [I, W].
        scores: higher means more likely, [I, W].
        words: W names.
    """
    each = [_average_precision(truth[:, w], scores[:, w]) for w in range(len(words))]
    micro = _average_precision(truth.ravel(), scores.ravel())
    return AveragePrecision(list(words), [int(n) for n in truth.sum(0)], each, micro)


def said_scores(captions: Sequence[str], words: Sequence[str]) -> npt.NDArray[np.float64]:
    """1 for the first of `words` that a caption says, 1/2 for the second, …, 0 for those unsaid: [I, W]."""
    scores = np.zeros((len(captions), len(words)))
    for row, caption in enumerate(captions):
        line = f" {caption} "
        at = [line.find(f" {word} ") for word in words]
        order = sorted((place, w) for w, place in enumerate(at) if place >= 0)
        for rank, (_, w) in enumerate(order, 1):
            scores[row, w] = 1.0 / rank
    return scores


def drawn_scores(drawn: Sequence[Sequence[str]], words: Sequence[str]) -> npt.NDArray[np.float64]:
    """The share of an item's drawn captions that say each word: [I, W]."""
    flat = said_scores([caption for captions in drawn for caption in captions], words) > 0
    samples = len(drawn[0]) if drawn else 1
    return np.asarray(flat.reshape(len(drawn), samples, len(words)).mean(1))


def ridge_probe(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.float64], unseen: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Ridge regression of `labels` on standardised `features`, its penalty chosen by leave-one-out error.

    Args:
        features: [N, D] of training items.
        labels: [N, W].
        unseen: [M, D].

    Returns:
        Scores of the unseen items, [M, W].
    """
    mean, spread = features.mean(0), features.std(0) + 1e-6
    x = ((features - mean) / spread).astype(np.float64)
    centre = labels.mean(0)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    seen = u.T @ (labels - centre)
    errors = []
    for penalty in _PENALTIES:
        shrink = s**2 / (s**2 + penalty)
        fitted = u @ (shrink[:, None] * seen)
        leverage = (u**2 * shrink).sum(1)[:, None]
        errors.append(float((((labels - centre) - fitted) / (1 - leverage).clip(1e-6)).var()))
    best = _PENALTIES[int(np.argmin(errors))]
    weights = vt.T @ ((s / (s**2 + best))[:, None] * seen)
    return np.asarray(((unseen - mean) / spread) @ weights + centre)


def _average_precision(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> float:
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of each run of equal scores
    hits = np.cumsum(truth[order])[last]
    precision = hits / (np.flatnonzero(last) + 1)
    recall = hits / truth.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))
