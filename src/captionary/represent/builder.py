"""The batch builder: a log in steps of time, users in shards, each shard and event type in a thread of its own.

Between two steps it keeps what users have left and nothing else: without caps the weights of each user's tokens,
with caps the events that still count. So a log of any length is read in memory that is bounded by users.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captionary.represent import decay, grouping
from captionary.represent.jagged import Jagged
from captionary.represent.profile_log import EventRows, IdCodes, Items
from captionary.represent.profiles import ProfileConfig, SharedProfiles

__all__ = ["ProfileBuilder"]

_SMALL = 20_000  # rows that are not worth a second thread


class _Rows(NamedTuple):
    """Events as numbers, those that count for nothing left out."""

    kinds: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def where(self, chosen: Any) -> _Rows:
        return _Rows(*(column[chosen] for column in self))


class _Store:
    """The weights that the users of one shard and event type have left."""

    def __init__(self) -> None:
        self.users = (*(np.zeros(0, np.int64) for _ in range(4)), np.zeros(0))
        self.stored = np.empty(0, np.int32), np.empty(0)
        self.used = 0

    def widen(self, users: int) -> None:
        """Room for more users."""
        if users > len(self.users[0]):
            size = max(users, 2 * len(self.users[0]))
            self.users = tuple(
                np.concatenate([old, np.zeros(size - len(old), old.dtype)]) for old in self.users
            )

    def grow(self, least: int) -> None:
        """Room for `least` more weights at least; what moved away from its old place is swept up."""
        where, rooms, counts, _, _ = self.users
        size = max(2 * int(counts.sum()) + least, 1 << 12)
        tokens, weights = np.empty(size, np.int32), np.empty(size)
        self.used = grouping.compact(*self.stored, where, counts, rooms, tokens, weights)
        self.stored = tokens, weights


class ProfileBuilder:
    """Profiles from a log that comes in steps of time: each step's events and reads are later than the last's."""

    def __init__(
        self, items: Items, types: tuple[str, ...], config: ProfileConfig, *, threads: int | None = None
    ) -> None:
        """Start without any event; `types` are those that profiles are made of."""
        self._items, self._types, self._config = items, types, config
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = max(1, threads or min(cpus, 16))
        self._users = IdCodes()
        self._stores: dict[tuple[int, int], _Store] = {}
        none = np.empty(0, np.int64)
        self._kept = _Rows(none, none, none, none, np.empty(0))

    def advance(
        self,
        events: EventRows,
        read_users: pa.Array,
        read_times: npt.NDArray[np.int64],
        *,
        last: bool = False,
    ) -> dict[str, SharedProfiles]:
        """Take a step: profiles at the N reads, of the events strictly before each, those of steps before included.

        Args:
            events: none earlier than an event or a read of a step before; at the same moment neither.
            read_users, read_times: [N], in any order.
            last: nothing follows; nothing need be kept.

        Returns:
            event type -> the profiles of the N reads.
        """
        readers = self._users.add(read_users, "user_id of impressions")
        place = self._users.codes if last else self._users.add
        users = place(events.users, "user_id of events")
        counts = (users >= 0) & (events.kinds >= 0) & (events.values > 0)
        rows = _Rows(events.kinds, users, events.items, events.times, events.values)
        if not counts.all():
            rows = rows.where(counts)
        if len(self._kept.users):
            rows = _Rows(*(np.concatenate(pair) for pair in zip(self._kept, rows, strict=True)))
        size, shards = len(self._users), self._threads
        with ThreadPoolExecutor(1 if len(rows.users) + len(readers) < _SMALL else shards) as pool:
            no_items, no_values = np.empty(0, np.int64), np.empty(0, np.float64)
            sorting = pool.submit(grouping.sort_rows, readers, read_times, no_items, no_values, size)
            # Equal moments are put in order too, since a sum of doubles depends on its order.
            keys = rows.kinds * size + rows.users
            order, starts = grouping.sort_rows(
                keys, rows.times, rows.items, rows.values, len(self._types) * size
            )
            rows = rows.where(order)
            read_rows, read_starts = sorting.result()
            reads = read_starts, read_times[read_rows], read_rows
            alive = np.zeros(len(order), np.bool_)
            kinds = range(len(self._types))
            read = [(np.empty(len(readers), np.int64), np.empty(len(readers), np.float32)) for _ in kinds]
            lists = {
                (kind, shard): pool.submit(
                    self._shard, kind, shard,
                    (starts[kind * size : (kind + 1) * size + 1], rows.times, rows.items, rows.values),
                    reads, read[kind], alive, not last,
                )
                for kind in kinds
                for shard in range(shards)
            }  # fmt: skip
            done = {
                event_type: _join(
                    [lists[kind, shard].result() for shard in range(shards)], readers, *read[kind]
                )
                for kind, event_type in enumerate(self._types)
            }
        if self._config.capped and not last:
            self._kept = rows.where(alive)
        return done

    def prune(self, before: int) -> None:
        """Let go of events that are too old to count for any read at `before` or later."""
        horizon = self._config.caps[1]
        if horizon and len(self._kept.users):
            self._kept = self._kept.where(self._kept.times >= before - horizon)

    def _shard(
        self,
        kind: int,
        shard: int,
        events: tuple[npt.NDArray[Any], ...],
        reads: tuple[npt.NDArray[np.int64], ...],
        read: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]],
        alive: npt.NDArray[np.bool_],
        keep: bool,
    ) -> Jagged:
        """One event type and shard of users: the lists that were written, the first of them empty."""
        config, shards, users = self._config, self._threads, len(reads[0]) - 1
        mine = np.diff(reads[0])[shard::shards]
        lists = int(mine.sum()) + 1
        if not config.caps[1]:  # a list changes with an event alone, but for the first of a step
            lists = min(lists, int(np.diff(events[0])[shard::shards].sum() + (mine > 0).sum()) + 1)
        ends, ids = np.zeros(lists, np.int64), np.empty(lists * config.top_k, np.int32)
        shares = np.empty(lists * config.top_k, np.float32)
        progress = np.array([0, 1, 0])
        common = self._items.arrays, config.weigh_by_idf, config.half_life(self._types[kind])
        trace = decay.new_trace(len(self._items.idf), config.top_k)
        out = (ends, ids, shares, *read)
        if config.capped:
            seen = np.zeros(len(self._items.ids), np.int64)
            decay.build_window(
                trace, *common, config.caps, keep, events, reads, seen, shard, shards, progress, out, alive
            )
        else:
            store = self._stores.setdefault((kind, shard), _Store())
            store.widen(users)
            progress[decay.STORED], user = store.used, shard
            while True:
                user = decay.build_running(
                    trace, *common, keep, events, reads, store.users, store.stored,
                    shards, user, progress, out,
                )  # fmt: skip
                store.used = int(progress[decay.STORED])
                if user >= users:
                    break
                store.grow(len(self._items.idf))
                progress[decay.STORED] = store.used
        written = int(progress[decay.WRITTEN])
        return Jagged(ids[:written], np.append(0, ends[: progress[decay.LISTS]]), shares[:written])


def _join(
    shards: list[Jagged],
    readers: npt.NDArray[np.int64],
    list_of: npt.NDArray[np.int64],
    masses: npt.NDArray[np.float32],
) -> SharedProfiles:
    """Number the lists of all shards through; the first of each shard, which is empty, is list 0 of all."""
    if len(shards) == 1:
        return SharedProfiles(shards[0], list_of, masses)
    counts = np.cumsum([0, *(lists.rows - 1 for lists in shards)])
    sizes = np.cumsum([0, *(len(lists.values) for lists in shards)])
    list_of += np.where(list_of > 0, counts[:-1][readers % len(shards)], 0)
    offsets = [lists.offsets[2:] + size for lists, size in zip(shards, sizes[:-1], strict=True)]
    weights = [lists.weights for lists in shards if lists.weights is not None]
    together = np.concatenate([lists.values for lists in shards])
    joined = Jagged(together, np.concatenate([np.zeros(2, np.int64), *offsets]), np.concatenate(weights))
    return SharedProfiles(joined, list_of, masses)
