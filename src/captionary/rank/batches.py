"""Rows of `RankingData` as batches of tensors: in what order, and gathered fast on one thread."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from captionary.rank.bags import Lists
from captionary.rank.data import Ints, RankingData
from captionary.rank.features import FeatureSet
from captionary.rank.initial import seed_of
from captionary.rank.model import Batch
from captionary.represent.jagged import Jagged

__all__ = ["Epoch", "Source", "draw_epoch"]

_FAR = 10.0  # standard deviations at which numeric features are cut


class Epoch(NamedTuple):
    """One pass over the training rows; depends on the seed and the pass, not on the arm."""

    order: Ints
    """[Ntr] training rows, shuffled within windows."""
    unseen_user: npt.NDArray[np.bool_]
    """[Ntr] whether the row shows its user as unseen."""
    unseen_item: npt.NDArray[np.bool_]
    """[Ntr] whether the row shows its item's id as unseen."""


def draw_epoch(
    train: Ints, seed: int, epoch: int, window: int, unseen_users: float, unseen_items: float
) -> Epoch:
    """Shuffle within windows of `window` rows, and choose the ids to show as unseen."""
    rng = np.random.default_rng(seed_of(seed, f"epoch {epoch}"))
    parts = [rng.permutation(train[start : start + window]) for start in range(0, len(train), window)]
    dropped = rng.random((2, len(train))) < np.array([[unseen_users], [unseen_items]])
    return Epoch(np.concatenate(parts), dropped[0], dropped[1])


class Source:
    """Gathers batches of one arm's features.

    Args:
        data: all features.
        features: those of this arm.
        mean: of the numeric features [numeric].
        scale: their standard deviation [numeric].
    """

    def __init__(
        self,
        data: RankingData,
        features: FeatureSet,
        mean: npt.NDArray[np.float64],
        scale: npt.NDArray[np.float64],
    ) -> None:
        self.data = data
        self.mean, self.scale = mean, scale
        self.visual = data.visual if features.visual else None
        self.tokens = data.item_tokens[features.tokens] if features.tokens is not None else None
        self.vectors = features.vectors
        profiles = data.profiles[features.profiles] if features.profiles is not None else {}
        self.events = len(profiles)
        self.profiles = _interleave(list(profiles.values())) if profiles else None

    def batch(
        self,
        rows: Ints,
        unseen_user: npt.NDArray[np.bool_] | None = None,
        unseen_item: npt.NDArray[np.bool_] | None = None,
    ) -> Batch:
        """The impressions `rows` [B]; ids marked unseen become index 0."""
        data = self.data
        items = data.item[rows]
        user, item_id = data.user[rows], data.item_id[items]
        if unseen_user is not None:
            user = np.where(unseen_user, 0, user)
        if unseen_item is not None:
            item_id = np.where(unseen_item, 0, item_id)
        ids = {"user": user, "item": item_id}
        ids |= {f"context.{name}": index[rows] for name, index in data.context_categorical.items()}
        ids |= {f"item.{name}": index[items] for name, index in data.item_categorical.items()}
        distinct, place = np.unique(items, return_inverse=True)
        dense = ((data.dense(rows) - self.mean) / self.scale).clip(-_FAR, _FAR)
        visual = None if self.visual is None else torch.from_numpy(self.visual[distinct].astype(np.float32))
        return Batch(
            dense=torch.from_numpy(dense.astype(np.float32)),
            ids={name: torch.from_numpy(np.asarray(index, np.int64)) for name, index in ids.items()},
            place=torch.from_numpy(place.reshape(-1)),
            visual=visual,
            tokens=None if self.tokens is None else _tensors(self.tokens.take(distinct)),
            profiles=self._profiles(rows),
            vectors={name: self._vectors(name, rows, items) for name in self.vectors},
        )

    def _vectors(self, name: str, rows: Ints, items: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        values, row = self.data.vectors[name]
        distinct, place = np.unique(items if row is None else row[rows], return_inverse=True)
        return torch.from_numpy(values[distinct].astype(np.float32)), torch.from_numpy(place.reshape(-1))

    def _profiles(self, rows: Ints) -> Lists | None:
        if self.profiles is None:
            return None
        lists = (rows[:, None] * self.events + np.arange(self.events)).reshape(-1)
        return _tensors(self.profiles.take(lists))


def _tensors(lists: Jagged) -> Lists:
    weights = lists.weights
    if weights is None:  # the mean of an unweighted list
        weights = np.repeat(1 / np.maximum(lists.lengths, 1), lists.lengths).astype(np.float32)
    values = torch.from_numpy(lists.values.astype(np.int64))
    return Lists(values, torch.from_numpy(lists.offsets), torch.from_numpy(weights))


def _interleave(parts: list[Jagged]) -> Jagged:
    """E tables of N lists as one of N x E, the lists of a row side by side: one gather instead of E."""
    count = len(parts)
    lengths = np.stack([part.lengths for part in parts], axis=1)  # [N, E]
    offsets = np.concatenate([[0], np.cumsum(lengths.reshape(-1))]).astype(np.int64)
    values = np.empty(offsets[-1], np.int32)
    weights = np.empty(offsets[-1], np.float32)
    starts = offsets[:-1].reshape(-1, count)
    for event, part in enumerate(parts):
        index = np.repeat(starts[:, event] - part.offsets[:-1], part.lengths) + np.arange(len(part.values))
        values[index] = part.values
        even = np.repeat(1 / np.maximum(part.lengths, 1), part.lengths)
        weights[index] = even if part.weights is None else part.weights
    return Jagged(values, offsets, weights)
