"""Rows of `RankingData` as batches of tensors: in what order, and gathered fast on one thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from captionary.rank import kernels
from captionary.rank.bags import Lists
from captionary.rank.data import Ints, RankingData
from captionary.rank.features import FeatureSet
from captionary.rank.initial import seed_of
from captionary.rank.model import Batch
from captionary.represent.jagged import Jagged

__all__ = ["Epoch", "SharedLists", "Source", "draw_epoch", "share_lists"]

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
    train: Ints,
    seed: int,
    epoch: int,
    window: int,
    unseen_users: float,
    unseen_items: float,
    *,
    users: Ints | None = None,
    together: int = 1,
) -> Epoch:
    """Shuffle within windows of `window` rows, and choose the ids to show as unseen.

    Args:
        train: rows in time order [Ntr].
        seed: of the training.
        epoch: number of the pass.
        window: rows that are shuffled among themselves.
        unseen_users: share of rows that show their user as unseen.
        unseen_items: share of rows that show their item as unseen.
        users: user of each row [N]; needed for `together` above 1.
        together: so many successive rows of a user in a window stay side by side, so that a batch has few users and
            each of their lists once (RecD, Zhao et al. 2023).
    """
    rng = np.random.default_rng(seed_of(seed, f"epoch {epoch}"))
    parts = []
    for start in range(0, len(train), window):
        rows = train[start : start + window]
        if users is None or together <= 1:
            parts.append(rng.permutation(rows))
            continue
        rows = rows[np.argsort(users[rows], kind="stable")]
        first = np.append(True, users[rows[1:]] != users[rows[:-1]])
        place = np.arange(len(rows))
        within = place - np.maximum.accumulate(np.where(first, place, 0))
        block = np.cumsum(within % together == 0) - 1
        turn = rng.permutation(block[-1] + 1)[block]
        parts.append(rows[np.argsort(turn, kind="stable")])
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
        if self.tokens is not None:
            self.tokens = self.tokens._replace(weights=_weights(self.tokens))
        self.vectors = features.vectors
        profiles = data.profiles[features.profiles] if features.profiles is not None else {}
        self.profiles = (
            share_lists(list(profiles.values()), np.argsort(data.user, kind="stable")) if profiles else None
        )
        self._distinct = _Distinct(self.profiles.lists.rows if self.profiles else 0)
        self._items = _Distinct(len(data.item_id))

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
        distinct, place = self._items.of(items)
        dense = ((data.dense(rows) - self.mean) / self.scale).clip(-_FAR, _FAR)
        profiles, profile_place = self._profiles(rows)
        visual = None if self.visual is None else torch.from_numpy(self.visual[distinct].astype(np.float32))
        return Batch(
            dense=torch.from_numpy(dense.astype(np.float32)),
            ids={name: torch.from_numpy(np.asarray(index, np.int64)) for name, index in ids.items()},
            place=torch.from_numpy(place),
            visual=visual,
            tokens=None if self.tokens is None else _tensors(self.tokens, distinct),
            profiles=profiles,
            profile_place=profile_place,
            vectors={name: self._vectors(name, rows, items) for name in self.vectors},
        )

    def _vectors(self, name: str, rows: Ints, items: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        values, row = self.data.vectors[name]
        distinct, place = np.unique(items if row is None else row[rows], return_inverse=True)
        return torch.from_numpy(values[distinct].astype(np.float32)), torch.from_numpy(place.reshape(-1))

    def _profiles(self, rows: Ints) -> tuple[Lists | None, torch.Tensor | None]:
        if self.profiles is None:
            return None, None
        wanted = self.profiles.list_of[rows]
        chosen, place = self._distinct.of(wanted.reshape(-1))
        return _tensors(self.profiles.lists, chosen), torch.from_numpy(place.reshape(wanted.shape))


class SharedLists(NamedTuple):
    """E lists each of N rows, of which many are the same: a user's, between two of their events."""

    lists: Jagged
    """L distinct lists, weighted."""
    list_of: Ints
    """[N, E] which of them each is."""


def share_lists(parts: Sequence[Jagged], order: Ints) -> SharedLists:
    """Find the lists that are, bit for bit, the same, and keep one of each.

    Args:
        parts: E tables of N lists.
        order: the N rows in an order in which neighbours are read together, as those of a user are: distinct lists are
            kept in the order of their first such row, so that a batch finds its own side by side in memory.
    """
    values = np.concatenate([part.values for part in parts])
    weights = np.concatenate([_weights(part) for part in parts])
    starts = np.cumsum([0, *(len(part.values) for part in parts)])
    shifted = [part.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
    offsets = np.concatenate([*shifted, starts[-1:]])
    bits = weights.view(np.uint32)
    digests = kernels.digest_lists(values, offsets, bits)
    _, first, which = np.unique(digests, return_index=True, return_inverse=True)
    if not kernels.same_lists(values, offsets, bits, first[which]):  # two lists of one digest: 1 run in 10^7
        first = which = np.arange(len(offsets) - 1)
    which = which.reshape(len(parts), -1).T  # [N, E]
    met, _ = kernels.distinct(which[order].reshape(-1), np.zeros(len(first), np.int64), 1)
    number = np.empty(len(first), np.int64)
    number[met] = np.arange(len(met))
    return SharedLists(Jagged(values, offsets, weights).take(first[met]), number[which])


class _Distinct:
    """The distinct ones of some numbers below `size`, again and again, each time in linear time."""

    def __init__(self, size: int) -> None:
        self._stamps, self._turn = np.zeros(size, np.int64), 1

    def of(self, numbers: Ints) -> tuple[Ints, Ints]:
        """(the distinct numbers, which of them each is)."""
        found, place = kernels.distinct(numbers, self._stamps, self._turn)
        self._turn += len(numbers)
        return found, place


def _tensors(lists: Jagged, rows: Ints) -> Lists:
    values, offsets, weights = kernels.take_lists(lists.values, lists.offsets, _weights(lists), rows)
    return Lists(torch.from_numpy(values), torch.from_numpy(offsets), torch.from_numpy(weights))


def _weights(lists: Jagged) -> npt.NDArray[np.float32]:
    """Those of a list without any make its sum a mean."""
    if lists.weights is not None:
        return lists.weights
    return np.repeat(1 / np.maximum(lists.lengths, 1), lists.lengths).astype(np.float32)
