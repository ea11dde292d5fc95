"""Each process's portion of every batch, read from its own part of the shards.

    own   |   process 0   |   process 1   |   process 0   |   process 1   |      time ──▶
          └──────── stretch 0 ────────────┴──────── stretch 1 ────────────┘
    all   every process reads everything, and takes its rows of each batch: those of one process's training

A stretch has a block (whole shuffle windows) for each process. With `own`, a process reads the row groups of its block
of each stretch and no others, so reading gets faster with processes; impressions stay in the order of time to within a
stretch. A batch is as large as one process's: each of W processes brings 1 / W of it.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch

from captionary.rank.model import Batch
from captionary.rank.stream import Block, Encoder, Order, Stream

__all__ = ["Portion", "portions", "steps_of"]

Reading = Literal["own", "all"]


class Portion(NamedTuple):
    """Which process this is, and how it reads."""

    rank: int
    world: int
    reading: Reading = "own"

    @property
    def readers(self) -> int:
        """Processes that read different impressions."""
        return self.world if self.reading == "own" else 1

    def of(self, count: int, rank: int | None = None) -> slice:
        """This process's (or `rank`'s) share of `count` things in a row."""
        which = self.rank if rank is None else rank
        return slice(count * which // self.world, count * (which + 1) // self.world)

    def size(self, batch_size: int) -> int:
        """Rows of a batch that this process brings, at least 1 where it reads its own impressions."""
        if self.reading == "all":
            return batch_size
        share: int = self.of(batch_size).stop - self.of(batch_size).start
        return max(1, share)

    def ranges(self, order: Order, total: int, rank: int | None = None) -> list[tuple[int, int]]:
        """What a process reads of `total` impressions, a stretch after the other."""
        if self.reading == "all":
            stretch = order.block
            return [(start, min(start + stretch, total)) for start in range(0, total, stretch)]
        stretch = order.block * self.world
        found = []
        for start in range(0, total, stretch):
            part = self.of(min(stretch, total - start), rank)
            found.append((start + part.start, start + part.stop))
        return found


def steps_of(portion: Portion, order: Order, total: int) -> int:
    """Steps of an epoch, the same for all processes: some may have nothing left for the last ones."""
    if portion.reading == "all":
        return math.ceil(total / order.batch_size)
    found = 0
    for rank in range(portion.world):
        rows = sum(stop - start for start, stop in portion.ranges(order, total, rank))
        found = max(found, math.ceil(rows / portion._replace(rank=rank).size(order.batch_size)))
    return found


def portions(
    encoder: Encoder, order: Order, portion: Portion, epoch: int, total: int, *, first: int = 0
) -> Stream:
    """This process's rows of the batches of an epoch over the first `total` training impressions.

    Every epoch has `steps_of` batches; where this process has no rows left, a batch is one row without any label.

    Args:
        encoder: of the shards.
        order: how impressions are shuffled, and the size of a whole batch.
        portion: which of them are this process's.
        epoch: which pass, from 0.
        total: training impressions.
        first: batches that are done already.
    """
    shards, size, done = encoder.shards, portion.size(order.batch_size), first
    name = shards.fingerprint + (f" process {portion.rank}" if portion.readers > 1 and portion.rank else "")
    waiting: list[_Rows] = []
    skip, made = first * size, first
    for number, (start, stop) in enumerate(portion.ranges(order, total)):
        if stop - start <= skip:  # of batches that are done: not read again
            skip -= stop - start
            continue
        block = Block.join([encoder.block(group) for group in shards.groups("train", start, stop)])
        rows = _Rows(block, *order.draw(name, epoch, number, block.user)).cut(skip, None)
        skip = 0
        rows = _Rows.join([*waiting, rows])
        whole = len(rows.rows) - len(rows.rows) % size
        for at in range(0, whole, size):
            yield _mine(encoder, rows.cut(at, at + size), portion)
            made += 1
        waiting = [rows.cut(whole, None).kept()] if whole < len(rows.rows) else []
    if waiting:
        yield _mine(encoder, waiting[0], portion)
        made += 1
    for _ in range(max(made, done), steps_of(portion, order, total)):
        yield _nothing(encoder)


class _Rows(NamedTuple):
    """Rows of a block in the order that they are learnt in."""

    block: Block
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    unseen_user: np.ndarray[tuple[int], np.dtype[np.bool_]]
    unseen_item: np.ndarray[tuple[int], np.dtype[np.bool_]]

    def cut(self, start: int, stop: int | None) -> _Rows:
        part = slice(start, stop)
        return _Rows(self.block, self.rows[part], self.unseen_user[part], self.unseen_item[part])

    def kept(self) -> _Rows:
        """The same without the rest of the block."""
        return self._replace(block=self.block.take(self.rows), rows=np.arange(len(self.rows)))

    @classmethod
    def join(cls, parts: list[_Rows]) -> _Rows:
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part.block.user) for part in parts)])
        return cls(
            Block.join([part.block for part in parts]),
            np.concatenate([part.rows + start for part, start in zip(parts, starts, strict=False)]),
            np.concatenate([part.unseen_user for part in parts]),
            np.concatenate([part.unseen_item for part in parts]),
        )


def _mine(encoder: Encoder, rows: _Rows, portion: Portion) -> tuple[Batch, torch.Tensor]:
    if portion.reading == "all":
        part = portion.of(len(rows.rows))
        if part.start == part.stop:
            return _nothing(encoder)
        rows = rows.cut(part.start, part.stop)
    return encoder.batch(rows.block, rows.rows, rows.unseen_user, rows.unseen_item)


def _nothing(encoder: Encoder) -> tuple[Batch, torch.Tensor]:
    """One row that nothing is learnt from: all processes have to take part in every step."""
    block = encoder.block(next(encoder.shards.groups("train", 0, 1)))
    batch, labels = encoder.batch(block, np.zeros(1, np.int64))
    return batch, torch.full_like(labels, torch.nan)
