"""Do captions of items that a ranker has never met say anything? Deal them anew, and look.

The ranker stays as it is; only the token lists of the evaluated items are permuted among them, many times (the paper's
shuffle-all, §4.2, as an exact test). Where the evaluated items are new, their captions are exchangeable unless they
say something of their items: the share of deals that score as high as the true one is a p-value over *items*. It has
far more power than subsets of few items each, since every deal is measured on all rows together.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from captionary.evidence.by_kind import order_of
from captionary.rank.data import RankingData
from captionary.rank.features import FeatureSet
from captionary.rank.model import Ranker
from captionary.rank.train import predict

__all__ = ["MOST_ROWS", "deal_captions", "dealt_test"]

MOST_ROWS = 10_000
"""Evaluation rows that each deal is scored on, at most: drawn once, the same for all deals."""

Floats = npt.NDArray[np.float64]


def deal_captions(model: Ranker, data: RankingData, features: FeatureSet, *, deals: int, seed: int) -> Floats:
    """AUC (concordance) by task under the true captions and `deals` random ones: [1 + deals, T], the true ones first.

    Args:
        model: a trained ranker whose features have item tokens.
        data: what it was trained on, with those tokens.
        features: its features.
        deals: random deals, >= 1.
        seed: of the rows and of the deals; the same seed gives the same deals to every ranker.
    """
    assert features.tokens is not None
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(data.eval)[:MOST_ROWS])
    lists = data.item_tokens[features.tokens]
    new = np.unique(data.item[rows])
    new = new[lists.lengths[new] > 0]
    scores = np.empty((1 + deals, len(data.tasks)))
    for deal in range(1 + deals):
        order = np.arange(lists.rows, dtype=np.int64)
        if deal:
            order[new] = rng.permutation(new)
        dealt = replace(data, item_tokens={features.tokens: lists.take(order)})
        predicted = predict(model, dealt, features, rows)
        scores[deal] = [
            order_of(kind, data.labels[rows, task], predicted[:, task])
            for task, kind in enumerate(data.task_kinds)
        ]
    return scores


def dealt_test(scores: Floats) -> tuple[float, float] | None:
    """(AUC gain of the true captions over the mean deal, p-value) from the scores of S seeds [S, 1 + deals, T].

    The statistic is the mean AUC over seeds and tasks; p = (1 + deals at least as high) ÷ (1 + deals), one-sided, after
    Phipson & Smyth (2010). None where no task has an AUC.
    """
    known = ~np.isnan(scores).any(axis=(0, 1))
    if not known.any():
        return None
    means = scores[:, :, known].mean(axis=(0, 2))  # [1 + deals]
    true, deals = means[0], means[1:]
    gain = float((true - deals.mean()) / (1 - deals.mean()))
    return gain, float((1 + (deals >= true).sum()) / len(means))
