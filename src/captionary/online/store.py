"""The online store: what the ranker reads of a user and of items, in one round trip; written by `updates`.

    user, event type ──▶ packed list, packed event log, fold state        written by the stream update of `represent`
    user             ──▶ what they muted, boosted, erased                 applied when a profile is read
    item             ──▶ caption, tokens, media, visible_at
    item, version    ──▶ float32 row: what the ranker of that version folded of the item

The state is a function of the events and items that were applied, in whatever order they came: a profile is bit for
bit what `represent.profiles.build_profiles` gives for the same events and items. Each update has a number, the
sequence; a read says after which update it saw the store, so that `verify` can do it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import msgspec
import numpy as np
import numpy.typing as npt

from captionary.config import to_mapping
from captionary.errors import bad_value, nearest
from captionary.online import keys
from captionary.online.folding import Folder, fresh_state, list_at
from captionary.online.governance import Governance, governed
from captionary.online.items import ItemRecord, unpack_item
from captionary.online.keyvalue import Engine, Reader, Transaction, open_engine
from captionary.online.packing import (
    FoldState,
    Id,
    Segment,
    id_bytes,
    id_of,
    unpack_fold,
    unpack_list,
    unpack_segment,
)
from captionary.represent.profiles import ProfileConfig, ProfileList

__all__ = ["OnlineStore", "Read", "joined", "open_store", "read_log", "read_tokens"]

FORMAT = 1
_NO_LIST = ProfileList(np.empty(0, np.int32), np.empty(0, np.float32), 0.0)


class Read(NamedTuple):
    """What a ranking request needs, of one moment."""

    lists: dict[str, ProfileList]
    """event type -> the user's profile as of the moment asked about, as they govern it; empty for no events."""
    rows: npt.NDArray[np.float32]
    """[n, R] what the ranker folded of each item, in the order asked; 0 where there is none."""
    present: npt.NDArray[np.bool_]
    """[n] whether there is a row."""
    sequence: int
    """The last update of the store that the read saw."""
    governance: Governance
    """What the user has muted, boosted and erased."""


class OnlineStore:
    """An open online store; of several threads, and its data of several processes.

    Args:
        engine: where the bytes are.
        config: how events become profiles; it must name its event types.
        idf: float32 [V], of the tokenizer.

    Raises:
        CaptionaryError: a config without event types; the store was filled under another config or idf.
        StoreUnavailableError: here and in every method: the engine does not answer.
    """

    def __init__(self, engine: Engine, config: ProfileConfig, idf: npt.NDArray[np.float32]) -> None:
        if not config.event_types:
            raise bad_value("event_types", "()", "given", where="profiles of the online store")
        self.engine, self.config = engine, config
        self.folder = Folder(config, idf)
        self._check_meta(idf)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files or connections."""
        self.engine.close()

    @property
    def sequence(self) -> int:
        """The number of the last update."""
        return self.engine.read([])[0]

    def read(
        self, user_id: Id, item_ids: Sequence[Id], as_of: int, *, version: str = "", width: int = 0
    ) -> Read:
        """The user's lists and the items' rows in one round trip.

        Args:
            user_id: need not be known.
            item_ids: need not be known, may repeat.
            as_of: microseconds since 1970; events strictly before it count.
            version: of the ranker whose rows are asked for.
            width: R of that ranker's rows; rows of another width count as absent.

        Raises:
            CaptionaryError: an id that cannot be one; a moment so long ago that its events have been dropped.
        """
        user, types = id_bytes(user_id), self.config.event_types
        wanted = [keys.governance(user), *(keys.profile(user, event) for event in types)]
        row_keys = [keys.row(version, id_bytes(item)) for item in item_ids] if width else []
        sequence, values = self.engine.read(wanted + row_keys)
        governance = Governance.unpack(values[0])
        lists, stale = {}, []
        for event, packed in zip(types, values[1 : 1 + len(types)], strict=True):
            found = _NO_LIST if packed is None else list_at(unpack_list(packed), as_of, self.folder, event)
            if found is None:
                stale.append(event)
            else:
                lists[event] = governed(found, governance, event)
        if stale:  # a moment before the newest event, or one at which an event has become too old to count
            sequence, governance, lists = self._from_logs(user, as_of)
        rows, present = _rows(values[1 + len(types) :], len(item_ids), width)
        return Read(lists, rows, present, sequence, governance)

    def profile(self, user_id: Id, as_of: int) -> dict[str, ProfileList]:
        """`read` without items."""
        return self.read(user_id, (), as_of).lists

    def history(self, user_id: Id, as_of: int) -> dict[str, ProfileList]:
        """The user's lists as of any moment, made from their log: for pages that show interests over time.

        Raises:
            CaptionaryError: a moment so long ago that its events have been dropped.
        """
        return self._from_logs(id_bytes(user_id), as_of)[2]

    def events_of(self, user_id: Id, event: str, most: int = 100) -> list[tuple[int, Id, float]]:
        """A user's newest events of a type that count: (timestamp, item, value), the newest first."""
        self._check_event(event)
        user = id_bytes(user_id)
        rows = self.engine.view(lambda reader: read_log(reader, user, event)[1])
        found = list(zip(*rows, strict=True))[-most:]
        return [(time, id_of(item), value) for time, item, value in reversed(found)]

    def governance_of(self, user_id: Id) -> Governance:
        """What a user muted, boosted and erased, and when."""
        return Governance.unpack(self.engine.read([keys.governance(id_bytes(user_id))])[1][0])

    def item(self, item_id: Id) -> ItemRecord | None:
        """What is known of an item; None: nothing, or its media have not been worked through."""
        return self.items([item_id])[0]

    def items(self, item_ids: Sequence[Id]) -> list[ItemRecord | None]:
        """`item` for several, in one round trip."""
        found = self.engine.read([keys.item(id_bytes(item)) for item in item_ids])[1]
        return [None if packed is None else unpack_item(packed) for packed in found]

    def item_ids(self, after: Id | None = None, most: int = 1000) -> list[Id]:
        """Ids of items with a record; with LMDB in order, from the first above `after`."""
        return self._ids(keys.ITEM, after, most)

    def user_ids(self, after: Id | None = None, most: int = 1000) -> list[Id]:
        """Ids of users of whom there is anything; with LMDB in order, from the first above `after`."""
        return self._ids(keys.USER, after, most)

    def _ids(self, prefix: bytes, after: Id | None, most: int) -> list[Id]:
        ids = []
        start = b"" if after is None else prefix + id_bytes(after)
        for key in self.engine.scan(prefix, start):
            ids.append(id_of(key[len(prefix) :]))
            if len(ids) >= most:
                break
        return ids

    def _check_event(self, event: str) -> None:
        if event not in self.config.event_types:
            raise bad_value("event type", event, nearest(event, self.config.event_types))

    def _from_logs(self, user: bytes, as_of: int) -> tuple[int, Governance, dict[str, ProfileList]]:
        """(sequence, governance, lists as of a moment) made from the logs."""

        def work(reader: Reader) -> tuple[int, Governance, dict[str, ProfileList]]:
            governance = Governance.unpack(reader.get_many([keys.governance(user)])[0])
            logs = {event: read_log(reader, user, event) for event in self.config.event_types}
            tokens = read_tokens(reader, {item for _, rows in logs.values() for item in rows.items})
            lists = {}
            for event, (state, rows) in logs.items():
                made = self.folder.at(event, state.since, rows, tokens, governance, as_of)
                lists[event] = governed(made, governance, event)
            return reader.sequence, governance, lists

        return self.engine.view(work)

    def _check_meta(self, idf: npt.NDArray[np.float32]) -> None:
        """Refuse a store whose profiles were made under other settings: old and new ones would be mixed."""
        mine = msgspec.json.encode(
            {
                "format": FORMAT,
                "idf": hashlib.sha256(np.ascontiguousarray(idf, "<f4").tobytes()).hexdigest()[:32],
                "profiles": to_mapping(self.config),
            },
            order="deterministic",
        )
        found = self.engine.read([keys.META])[1][0]
        if found is None and self.engine.writable:

            def work(transaction: Transaction) -> bytes:
                there = transaction.get_many([keys.META])[0]
                if there is None:
                    transaction.put(keys.META, mine)
                return there or mine

            found = self.engine.update(work)
        if found is not None and found != mine:
            there, given = msgspec.json.decode(found), msgspec.json.decode(mine)
            unlike = ", ".join(name for name in given if given[name] != there.get(name))
            todo = "fill a new store (captionary ingest seed), or give the settings of this one"
            raise bad_value("store", unlike, "that with which it was filled", todo=todo)


def read_log(reader: Reader, user: bytes, event: str, first: int = 0) -> tuple[FoldState, Segment]:
    """A user's log of one type: its fold state, and its events from segment `first` on."""
    (packed,) = reader.get_many([keys.fold(user, event)])
    state = fresh_state() if packed is None else unpack_fold(packed)
    return state, joined(reader.get_many(keys.segments(user, event, state.events, first)))


def joined(segments: Sequence[bytes | None]) -> Segment:
    """Segments as one."""
    rows = Segment([], [], [])
    for packed in segments:
        if packed is not None:
            rows = rows.plus(unpack_segment(packed))
    return rows


def read_tokens(reader: Reader, items: Collection[bytes]) -> dict[bytes, npt.NDArray[np.int32]]:
    """The tokens of those items that have a record; of one without a caption none, as in a run's table of tokens."""
    order = sorted(items)
    found = {}
    for item, packed in zip(order, reader.get_many([keys.item(item) for item in order]), strict=True):
        if packed is not None:
            found[item] = unpack_item(packed).token_ids
    return found


def _rows(
    values: Sequence[bytes | None], count: int, width: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """(rows [n, R], present [n]) of packed rows; one copy, no work for each number."""
    size = 4 * width
    nothing = bytes(size)
    fits = [value is not None and len(value) == size for value in values] if width else [False] * count
    whole = b"".join(v if ok else nothing for v, ok in zip(values, fits, strict=True)) if width else b""  # type: ignore[misc]
    return np.frombuffer(whole, "<f4").reshape(count, width), np.array(fits, np.bool_)


def open_store(
    url: str,
    config: ProfileConfig,
    idf: npt.NDArray[np.float32],
    *,
    readonly: bool = False,
    timeout: float = 2.0,
    connections: int = 16,
) -> OnlineStore:
    """Open the online store at a URL, see `keyvalue.open_engine`."""
    return OnlineStore(
        open_engine(url, readonly=readonly, timeout=timeout, connections=connections), config, idf
    )
