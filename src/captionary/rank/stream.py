"""Shards as batches of tensors: in the order of time, shuffled within a window, made ahead in the background.

    row groups ──▶ Block of whole windows ──shuffle──▶ batches          memory: a block, a row group, some batches

Batch k of an epoch is a function of shards, seed, epoch and k alone. So a training continues anywhere by asking for
the batches from there on: no state of a reader or of a random number generator is kept, and row groups before are not
read.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from captionary.errors import bad_value
from captionary.rank import kernels
from captionary.rank.bags import Lists
from captionary.rank.batches import Epoch, draw_epoch
from captionary.rank.data import check_labels
from captionary.rank.features import Schema
from captionary.rank.initial import seed_of
from captionary.rank.model import Batch
from captionary.rank.shards import ItemTable, RowGroup, Shards, ShardSchema, numbers
from captionary.rank.vocabulary import Vocabulary
from captionary.represent.jagged import Jagged

__all__ = ["Block", "Encoder", "Order", "batches", "catalogue_rows", "dense_of", "labels_of", "prefetched"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Stream = Generator[tuple[Batch, torch.Tensor], None, None]

_FAR = 10.0  # standard deviations at which numeric features are cut
_BLOCK = 16_384  # rows at least that are encoded together: windows may be small


class Order(NamedTuple):
    """How an epoch runs through the training rows."""

    seed: int
    window: int
    """Rows in time order that are shuffled among themselves; 1 keeps the order of time."""
    batch_size: int
    unseen_users: float = 0.0
    """Share of users shown as unseen."""
    unseen_items: float = 0.0
    together: int = 1
    """Successive rows of a user in a window that stay side by side."""

    @property
    def block(self) -> int:
        """Rows of a block: whole windows."""
        return self.window * max(1, -(-_BLOCK // self.window))

    def draw(self, name: str, epoch: int, number: int, users: Ints) -> Epoch:
        """The order of block `number` of an epoch over the shards `name`, whose rows are of these `users`."""
        return draw_epoch(
            np.arange(len(users)),
            seed_of(self.seed, f"{name} {epoch}"),
            number,
            self.window,
            self.unseen_users,
            self.unseen_items,
            users=users,
            together=self.together,
        )


class Block(NamedTuple):
    """N impressions as arrays."""

    user: Ints
    """[N] row of the user table."""
    item: Ints
    """[N] row of the catalogue."""
    context: dict[str, Ints]
    """Categorical column → [N]."""
    dense: npt.NDArray[np.float32]
    """[N, numeric], standardised."""
    labels: npt.NDArray[np.float32]
    """[N, T], NaN where missing."""
    lists: Jagged | None
    """L profile lists."""
    list_of: Ints
    """[N, E] which of them; [N, 0] without profiles."""
    vectors: dict[str, tuple[Floats, Ints]]
    """Of impressions: name → (P vectors [P, D], [N] which of them)."""

    def take(self, rows: Ints) -> Block:
        """The impressions `rows`, with the lists and vectors that they use."""
        lists, list_of = self.lists, self.list_of[rows]
        if lists is not None:
            used, place = np.unique(list_of, return_inverse=True)
            lists, list_of = lists.take(used), place.reshape(list_of.shape)
        vectors = {}
        for name, (values, which) in self.vectors.items():
            used, place = np.unique(which[rows], return_inverse=True)
            vectors[name] = values[used], place.reshape(-1).astype(np.int64, copy=False)
        return Block(
            self.user[rows],
            self.item[rows],
            {name: index[rows] for name, index in self.context.items()},
            self.dense[rows],
            self.labels[rows],
            lists,
            list_of,
            vectors,
        )

    @classmethod
    def join(cls, parts: list[Block]) -> Block:
        """One after the other."""
        if len(parts) == 1:
            return parts[0]
        lists, starts = None, np.zeros(len(parts), np.int64)
        pools = [part.lists for part in parts if part.lists is not None]
        if pools:
            starts = np.cumsum([0, *(pool.rows for pool in pools)])
            lengths = np.concatenate([[0], *(pool.lengths for pool in pools)])
            weights = [pool.weights for pool in pools if pool.weights is not None]
            values = np.concatenate([pool.values for pool in pools])
            lists = Jagged(values, np.cumsum(lengths), np.concatenate(weights))
        return cls(
            np.concatenate([part.user for part in parts]),
            np.concatenate([part.item for part in parts]),
            {name: np.concatenate([part.context[name] for part in parts]) for name in parts[0].context},
            np.concatenate([part.dense for part in parts]),
            np.concatenate([part.labels for part in parts]),
            lists,
            np.concatenate([part.list_of + start for part, start in zip(parts, starts, strict=False)]),
            {name: _joined([part.vectors[name] for part in parts]) for name in parts[0].vectors},
        )


class Encoder:
    """Raw impressions as the rows that tables have for them; the catalogue's content, once.

    Args:
        shards: what is read.
        items: its catalogue.
        schema: of the ranker, which may leave features out that the shards have.
        vocabularies: `user`, `item`, `context.NAME` and `item.NAME` → vocabulary.
        mean: of the numeric features [numeric].
        scale: their standard deviation [numeric].
    """

    def __init__(
        self,
        shards: Shards,
        items: ItemTable,
        schema: Schema,
        vocabularies: Mapping[str, Vocabulary],
        mean: npt.NDArray[np.float64],
        scale: npt.NDArray[np.float64],
    ) -> None:
        self.shards, self.schema, self.vocabularies = shards, schema, vocabularies
        self.items, self.mean, self.scale = items, mean, scale
        self.catalogue = Vocabulary.fit(items.ids)
        self.item_id = vocabularies["item"].index(items.ids)
        self.categories = {
            name: vocabularies[f"item.{name}"].index(items.categorical[name])
            for name in schema.item_categories
        }
        self.visual = items.visual if schema.visual else None
        self.tokens = items.tokens if schema.tokens else None
        if self.tokens is not None and self.tokens.weights is None:  # the mean of such a list
            lengths = self.tokens.lengths
            even = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
            self.tokens = self.tokens._replace(weights=even)
        self.vectors = {name: items.vectors[name] for name in schema.vectors if name in items.vectors}
        self._stamps, self._turn = np.zeros(len(items.ids), np.int64), 1

    def block(self, group: RowGroup) -> Block:
        """A row group as arrays.

        Raises:
            CaptionaryError: an item that the catalogue lacks, a number that is infinite, a label out of its range, a
                column of numbers that holds something else.
        """
        table, schema = group.table, self.shards.schema
        item = catalogue_rows(self.catalogue, group)
        labels = labels_of(group, schema)
        dense = (
            dense_of(group, schema.context_numeric, schema.events, self.items, item) - self.mean
        ) / self.scale
        np.nan_to_num(dense, copy=False, nan=0.0)  # what is not known is the mean
        profiled = self.schema.events
        lists = [table[f"list.{event}"].to_numpy().astype(np.int64) for event in profiled]
        return Block(
            self.vocabularies["user"].index(table["user_id"]),
            item,
            {
                name: self.vocabularies[f"context.{name}"].index(table[f"context.{name}"])
                for name in self.schema.context
            },
            dense.clip(-_FAR, _FAR).astype(np.float32),
            labels,
            group.lists if profiled else None,
            np.column_stack(lists) if profiled else np.empty((len(item), 0), np.int64),
            {
                name: (group.vectors[name], table[f"vector.{name}"].to_numpy().astype(np.int64))
                for name in self.schema.vectors
                if name not in self.vectors
            },
        )

    def batch(
        self,
        block: Block,
        rows: Ints,
        unseen_user: npt.NDArray[np.bool_] | None = None,
        unseen_item: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[Batch, torch.Tensor]:
        """(the impressions `rows` [B] of a block, their labels [B, T]); distinct items, lists and vectors come once."""
        items, user = block.item[rows], block.user[rows]
        item_id = self.item_id[items]
        if unseen_user is not None:
            user = np.where(unseen_user, 0, user)
        if unseen_item is not None:
            item_id = np.where(unseen_item, 0, item_id)
        ids = {"user": user, "item": item_id}
        ids |= {f"context.{name}": index[rows] for name, index in block.context.items()}
        ids |= {f"item.{name}": index[items] for name, index in self.categories.items()}
        distinct, place = kernels.distinct(items, self._stamps, self._turn)
        self._turn += len(items)
        profiles, profile_place = None, None
        if block.lists is not None:
            wanted = block.list_of[rows]
            used, which = np.unique(wanted, return_inverse=True)
            profiles = _tensors(block.lists, used)
            profile_place = torch.from_numpy(which.reshape(wanted.shape).astype(np.int64, copy=False))
        batch = Batch(
            dense=torch.from_numpy(block.dense[rows]),
            ids={name: torch.from_numpy(index) for name, index in ids.items()},
            place=torch.from_numpy(place),
            visual=None if self.visual is None else torch.from_numpy(self.visual[distinct]),
            tokens=None if self.tokens is None else _tensors(self.tokens, distinct),
            profiles=profiles,
            vectors={name: self._vectors(name, block, rows, distinct, place) for name in self.schema.vectors},
            profile_place=profile_place,
        )
        return batch, torch.from_numpy(block.labels[rows])

    def _vectors(
        self, name: str, block: Block, rows: Ints, items: Ints, place: Ints
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(distinct vectors of the impressions `rows`, which of them each has), given their distinct `items`."""
        if name in self.vectors:
            return torch.from_numpy(self.vectors[name][items]), torch.from_numpy(place)
        values, which = block.vectors[name]
        used, at = np.unique(which[rows], return_inverse=True)
        at = at.reshape(-1).astype(np.int64, copy=False)
        return torch.from_numpy(values[used]), torch.from_numpy(at)


def catalogue_rows(catalogue: Vocabulary, group: RowGroup) -> Ints:
    """The row of each impression's item.

    Raises:
        CaptionaryError: an item that the catalogue lacks.
    """
    ids = group.table["item_id"]
    item = catalogue.index(ids) - 1
    if len(item) and item.min() < 0:
        row = int(item.argmin())
        raise bad_value("item_id", str(ids[row]), "in items.parquet", where=f"row {row}, {group.where}")
    return item


def labels_of(group: RowGroup, schema: ShardSchema) -> Floats:
    """The labels of a row group, [N, T], NaN where missing.

    Raises:
        CaptionaryError: a label out of its range, or a column of something else than numbers or flags.
    """
    columns = [
        numbers(group.table[name], name, group.where, pa.float32())
        for name in (f"label.{task}" for task in schema.tasks)
    ]
    labels: Floats = np.column_stack(columns)
    check_labels(labels, schema.tasks, schema.task_kinds, where=group.where)
    return labels


def dense_of(
    group: RowGroup, context: tuple[str, ...], events: tuple[str, ...], items: ItemTable, item: Ints
) -> npt.NDArray[np.float64]:
    """The numeric features of a row group as they are, [N, numeric], NaN where missing; activity as log(1 + mass).

    Raises:
        CaptionaryError: a number is infinite, or a mass negative, or a column holds something else.
    """
    columns = []
    for name in (*(f"context.{each}" for each in context), *(f"mass.{event}" for event in events)):
        values = numbers(group.table[name], name, group.where)
        bad = np.isinf(values) | (name.startswith("mass.") & (values < 0))
        if bad.any():
            row = int(bad.argmax())
            rule = "finite and >= 0" if name.startswith("mass.") else "finite"
            raise bad_value(name, float(values[row]), f"{rule}, or null", where=f"row {row}, {group.where}")
        columns.append(np.log1p(values.astype(np.float32)) if name.startswith("mass.") else values)
    placed = [*columns[: len(context)], *(values[item] for values in items.numeric.values())]
    placed += columns[len(context) :]
    return np.stack(placed, axis=1).astype(np.float64) if placed else np.empty((len(item), 0))


def batches(
    encoder: Encoder,
    order: Order,
    epoch: int,
    start: int = 0,
    stop: int | None = None,
    *,
    first: int = 0,
    part: str = "train",
    shuffled: bool = True,
) -> Stream:
    """The batches of an epoch over the impressions `start` to `stop` of a part, from batch `first` on.

    Args:
        encoder: of the shards.
        order: how the rows are shuffled; every batch but the last has `batch_size` rows.
        epoch: which pass, from 0.
        start: impressions of the part to leave out.
        stop: default: the end of the part.
        first: batches that are done already.
        part: train or eval.
        shuffled: False: in the order of time, nothing shown as unseen, as to predict.
    """
    shards, size = encoder.shards, order.batch_size
    total = (shards.rows(part) if stop is None else stop) - start
    done = first * size
    left: Block | None = None
    waiting: list[npt.NDArray[np.bool_]] = []
    for number in range(done // order.block, -(-total // order.block)):
        begin, end = number * order.block, min((number + 1) * order.block, total)
        groups = shards.groups(part, start + begin, start + end)
        block = Block.join([encoder.block(group) for group in groups])
        rows = np.arange(end - begin)
        hidden: list[npt.NDArray[np.bool_]] = [np.zeros(len(rows), bool)] * 2
        if shuffled:
            rows, *hidden = order.draw(shards.fingerprint, epoch, number, block.user)
        if begin < done:  # batches of this block that are done
            skipped = done - begin
            rows, hidden = rows[skipped:], [each[skipped:] for each in hidden]
        if left is not None:
            kept = len(left.user)
            block, rows = Block.join([left, block]), np.concatenate([np.arange(kept), rows + kept])
            hidden = [np.concatenate([old, new]) for old, new in zip(waiting, hidden, strict=True)]
        whole = len(rows) if end == total else len(rows) - len(rows) % size
        for at in range(0, whole, size):
            chosen = slice(at, min(at + size, whole))
            yield encoder.batch(block, rows[chosen], *(each[chosen] for each in hidden))
        left = block.take(rows[whole:]) if whole < len(rows) else None
        waiting = [each[whole:] for each in hidden]


def prefetched(source: Stream, ahead: int) -> Stream:
    """The same batches, made `ahead` in a thread of their own: reading, decoding and gathering let go of the
    interpreter's lock. An error there is raised here; a consumer that stops ends the thread."""
    made: queue.Queue[tuple[Batch, torch.Tensor] | BaseException | None] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(each: tuple[Batch, torch.Tensor] | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                made.put(each, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for each in source:
                if not put(each):
                    return
            put(None)
        except BaseException as error:  # raised again where it is waited for
            put(error)
        finally:
            source.close()  # and with it the file that is being read

    thread = threading.Thread(target=work, name="captionary-batches", daemon=True)
    thread.start()
    try:
        while (each := made.get()) is not None:
            if isinstance(each, BaseException):
                raise each
            yield each
    finally:
        stopped.set()
        thread.join()


def _joined(parts: list[tuple[Floats, Ints]]) -> tuple[Floats, Ints]:
    """Vectors and which of them rows have, one part after the other."""
    starts = np.cumsum([0, *(len(values) for values, _ in parts)])
    which = [number + start for (_, number), start in zip(parts, starts, strict=False)]
    return np.concatenate([values for values, _ in parts]), np.concatenate(which)


def _tensors(lists: Jagged, rows: Ints) -> Lists:
    values, offsets, weights = kernels.take_lists(lists.values, lists.offsets, lists.weights, rows)
    return Lists(torch.from_numpy(values), torch.from_numpy(offsets), torch.from_numpy(weights))
