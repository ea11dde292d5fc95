"""Writing to the online store what the log brings: events and items. Each call is one atomic update.

What comes from a log brings its positions: those that have had their effect are kept beside it, so that an entry
that is delivered twice is recognised, by whatever worker and after whatever crash.

An item that comes, changes or goes changes the profiles of those who had to do with it before: its audience is kept,
and folded anew in the same update, or, where it is large, piece by piece soon after (`refold_pending`).
"""

from __future__ import annotations

import bisect
import struct
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.online import keys
from captionary.online.folding import BEGINNING, SLACK_MICROS, fresh_state, in_order
from captionary.online.governance import Governance
from captionary.online.items import ItemRecord, pack_item, unpack_item
from captionary.online.keyvalue import Reader, Transaction
from captionary.online.log import EVENTS, MEDIA, EventMessage
from captionary.online.packing import (
    FoldState,
    Segment,
    id_bytes,
    pack_fold,
    pack_list,
    pack_segment,
    unpack_fold,
)
from captionary.online.store import OnlineStore, joined, read_log, read_tokens
from captionary.represent.profile_log import event_values

__all__ = [
    "ItemUpdate",
    "apply_events",
    "checked_event",
    "drop_list",
    "put_items",
    "put_rows",
    "refold",
    "refold_pending",
    "tidy",
]

AUDIENCE_AT_ONCE = 2000
"""Lists that one update folds anew."""
_MARK = struct.Struct("<qq")


class ItemUpdate(NamedTuple):
    """An item as it shall be served, and what each ranker folded of it."""

    record: ItemRecord
    rows: Mapping[str, npt.NDArray[np.float32]] = {}
    """Version of a ranker → float32 [R]."""


def checked_event(store: OnlineStore, message: EventMessage) -> float | None:
    """What an event counts under the store's configuration; None for a type without profiles.

    Raises:
        CaptionaryError: an id that cannot be one, a value below 0 or too large.
    """
    id_bytes(message.user_id)
    id_bytes(message.item_id)
    if message.event not in store.config.event_types:
        return None
    if not BEGINNING < message.timestamp < -BEGINNING:
        raise bad_value("timestamp", message.timestamp, "microseconds since 1970")
    given = np.array([np.nan if message.value is None else message.value], np.float64)
    return float(event_values(given, store.config, "event")[0])


def apply_events(
    store: OnlineStore, messages: Sequence[EventMessage], positions: Sequence[int] = ()
) -> dict[int, int]:
    """Add events to their users' profiles; those whose position had its effect before are passed over.

    Args:
        store: whose profiles change.
        messages: in any order; of types without profiles and with a value of 0 they change nothing.
        positions: of each in the log, for `EventLog.done`; none for events of a table.

    Returns:
        position → the update with which it had its effect.

    Raises:
        CaptionaryError: as `checked_event`; nothing was applied.
    """
    values = [checked_event(store, message) for message in messages]
    places = list(positions) or [0] * len(messages)

    def work(transaction: Transaction) -> dict[int, int]:
        marks = _marks(transaction, EVENTS)
        sequences = {p: marks.get(p, transaction.sequence) for p in places if p}
        forgotten = _forgotten(transaction, EVENTS)
        groups: dict[tuple[bytes, str], list[tuple[int, bytes, float]]] = {}
        for message, value, place in zip(messages, values, places, strict=True):
            user = id_bytes(message.user_id)
            passed = place in marks or (place and place <= forgotten.get(user, 0))
            if value and not passed:  # neither of another type nor without a weight
                rows = groups.setdefault((user, message.event), [])
                rows.append((message.timestamp, id_bytes(message.item_id), value))
        _extend(store, transaction, groups)
        _keep_marks(transaction, EVENTS, marks, sequences)
        return sequences

    return store.engine.update(work)


def put_items(
    store: OnlineStore, updates: Sequence[ItemUpdate], positions: Sequence[int] = (), *, topic: str = MEDIA
) -> dict[int, int]:
    """Make items visible: records, rows, and the profiles that they change.

    An upload that is older than what the item has (by position) changes nothing. That an upload failed is no effect
    that counts once: it may be revived, and succeed.

    Returns:
        position → the update with which it had its effect.
    """
    places = list(positions) or [0] * len(updates)

    def work(transaction: Transaction) -> dict[int, int]:
        marks, forgotten = _marks(transaction, topic), _forgotten(transaction, topic)
        sequences = {p: marks.get(p, transaction.sequence) for p in places if p}
        names = [id_bytes(update.record.item_id) for update in updates]
        before = dict(zip(names, transaction.get_many([keys.item(name) for name in names]), strict=True))
        changed = set()
        for name, update, place in zip(names, updates, places, strict=True):
            packed = before[name]
            old = None if packed is None else unpack_item(packed)
            passed = place and place <= forgotten.get(name, 0)
            if place in marks or passed or (old is not None and place and old.position > place):
                continue
            record = msgspec.structs.replace(
                update.record,
                position=place,
                revision=0 if old is None else old.revision + 1,
                sequence=transaction.sequence,
                visible_at=time.time_ns() // 1000,
            )
            before[name] = packed = pack_item(record)
            transaction.put(keys.item(name), packed)
            lived = msgspec.msgpack.encode((record.sequence, record.tokens))
            transaction.put(keys.revision(name, record.revision), lived)
            for version, row in update.rows.items():
                transaction.put(keys.row(version, name), np.ascontiguousarray(row, "<f4").tobytes())
                transaction.add(keys.rows_of(name), version.encode())
            if old is None or old.tokens != record.tokens:
                changed.add(name)
        _refold_audiences(store, transaction, changed)
        failed = {p for p, update in zip(places, updates, strict=True) if update.record.status == "failed"}
        _keep_marks(transaction, topic, marks, {p: s for p, s in sequences.items() if p not in failed})
        return sequences

    return store.engine.update(work)


def put_rows(store: OnlineStore, updates: Sequence[ItemUpdate]) -> int:
    """Write rankers' rows of items that are known, for a version that goes live beside others; of how many items.

    Args:
        store: where they are known.
        updates: records as `store.items` gave them; an item that has changed since keeps the rows that it has.
    """
    names = [id_bytes(update.record.item_id) for update in updates]

    def work(transaction: Transaction) -> int:
        count = 0
        packed = transaction.get_many([keys.item(name) for name in names])
        for name, update, there in zip(names, updates, packed, strict=True):
            if there is None or unpack_item(there).sequence != update.record.sequence:
                continue
            count += bool(update.rows)
            for version, row in update.rows.items():
                transaction.put(keys.row(version, name), np.ascontiguousarray(row, "<f4").tobytes())
                transaction.add(keys.rows_of(name), version.encode())
        return count

    return store.engine.update(work)


def refold_pending(store: OnlineStore) -> int:
    """Fold anew a piece of what items with large audiences have left to do; how many lists, 0 when all is done."""

    def work(transaction: Transaction) -> int:
        for name in transaction.members(keys.REFOLD):
            left = transaction.members(keys.rest(name), AUDIENCE_AT_ONCE)
            refold(store, transaction, left)
            for member in left:
                transaction.remove(keys.rest(name), member)
            if left:
                return len(left)
            transaction.remove(keys.REFOLD, name)
        return 0

    if not store.engine.view(lambda reader: reader.members(keys.REFOLD, 1)):
        return 0
    return store.engine.update(work)


def tidy(store: OnlineStore, topic: str, floor: int) -> None:
    """Let go of the marks of positions that will not be delivered again (`EventLog.floor`)."""

    def work(transaction: Transaction) -> None:
        marks = _marks(transaction, topic)
        kept = {place: sequence for place, sequence in marks.items() if place > floor}
        if len(kept) < len(marks):
            transaction.put(keys.applied(topic), _packed_marks(kept))
        for member in transaction.members(keys.forgotten(topic)):
            if keys.place_of(member)[0] <= floor:
                transaction.remove(keys.forgotten(topic), member)

    def idle(reader: Reader) -> bool:
        old = any(place <= floor for place in _marks(reader, topic))
        return not old and not any(
            keys.place_of(member)[0] <= floor for member in reader.members(keys.forgotten(topic))
        )

    if not store.engine.view(idle):
        store.engine.update(work)


def _extend(
    store: OnlineStore,
    transaction: Transaction,
    groups: Mapping[tuple[bytes, str], list[tuple[int, bytes, float]]],
) -> None:
    """Put new events into logs, fold on, and write the lists."""
    order = list(groups)
    states = transaction.get_many([keys.fold(*group) for group in order])
    users = list({user for user, _ in order})
    rules = transaction.get_many([keys.governance(user) for user in users])
    governed = {user: Governance.unpack(packed) for user, packed in zip(users, rules, strict=True)}
    begun: dict[tuple[bytes, str], tuple[FoldState, int]] = {}
    wanted: dict[tuple[bytes, str], list[bytes]] = {}
    for group, packed in zip(order, states, strict=True):
        user, event = group
        state = fresh_state() if packed is None else unpack_fold(packed)
        earliest = max(governed[user].erased_before(event), state.since - store.config.caps[1])
        groups[group][:] = [row for row in groups[group] if row[0] >= earliest]
        if not groups[group]:
            continue
        # Events before the newest moment are folded: where none of the new ones is earlier, the end of the log will do.
        late = store.config.capped or min(row[0] for row in groups[group]) < state.newest
        first = 0 if late else state.folded // keys.SEGMENT_EVENTS
        begun[group] = (fresh_state(state.events, state.since) if late else state), first
        wanted[group] = keys.segments(user, event, state.events, first)
    found = iter(transaction.get_many([key for places in wanted.values() for key in places]))
    logs = {}
    for group, places in wanted.items():
        times, items, values = zip(*groups[group], strict=True)
        before = joined([next(found) for _ in places])
        logs[group] = before.plus(Segment(list(times), list(items), list(values)))
    tokens = read_tokens(transaction, {item for rows in logs.values() for item in rows.items})
    for (user, event), rows in logs.items():
        state, first = begun[user, event]
        for _, item, _ in groups[user, event]:
            transaction.add(keys.audience(item), keys.audience_member(user, event))
        _write(store, transaction, user, event, state, rows, tokens, governed[user], first)
        transaction.put(keys.user(user), b"")


def _write(
    store: OnlineStore,
    transaction: Transaction,
    user: bytes,
    event: str,
    state: FoldState,
    rows: Segment,
    tokens: Mapping[bytes, npt.NDArray[np.int32]],
    governance: Governance,
    first: int = 0,
) -> None:
    """Order the events from segment `first` on, fold those that are not folded, write segments, state and list."""
    offset = state.folded - first * keys.SEGMENT_EVENTS
    tail = in_order(rows.part(offset), tokens)
    rows, before = rows.part(0, offset).plus(tail), state.events
    if store.config.caps[1] and (old := _too_old(store, rows)):
        for name in set(rows.items[:old]) - set(rows.items[old:]):
            transaction.remove(keys.audience(name), keys.audience_member(user, event))
        rows = tail = rows.part(old)
        state = state._replace(since=rows.times[-1] - SLACK_MICROS)
    count = first * keys.SEGMENT_EVENTS + len(rows.times)
    kept, record = store.folder.fold(event, state._replace(events=count), tail, tokens, governance)
    places = keys.segments(user, event, count, first)
    for number, place in enumerate(places):
        start = number * keys.SEGMENT_EVENTS
        transaction.put(place, pack_segment(rows.part(start, start + keys.SEGMENT_EVENTS)))
    for place in keys.segments(user, event, before, first + len(places)):
        transaction.delete(place)
    transaction.put(keys.fold(user, event), pack_fold(kept))
    transaction.put(keys.profile(user, event), pack_list(record))


def _too_old(store: OnlineStore, rows: Segment) -> int:
    """How many events, from the first, count at no moment that may still be asked about; 0 where it is few.

    Only with `last_days`; all of a log is there then.
    """
    oldest = rows.times[-1] - SLACK_MICROS - store.config.caps[1]
    count = bisect.bisect_left(rows.times, oldest)
    return count if count >= keys.SEGMENT_EVENTS else 0  # what is left is written anew


def refold(
    store: OnlineStore, transaction: Transaction, members: Iterable[bytes], *, without: bytes | None = None
) -> None:
    """Make lists anew from their logs, without the events on an item where one is to go, and without erased ones."""
    for member in members:
        user, event = keys.audience_of(member)
        if event not in store.config.event_types:
            continue
        state, rows = read_log(transaction, user, event)
        if not rows.times:
            continue
        governance = Governance.unpack(transaction.get_many([keys.governance(user)])[0])
        erased = governance.erased_before(event)
        chosen = [
            at
            for at, (when, name) in enumerate(zip(rows.times, rows.items, strict=True))
            if when >= erased and name != without
        ]
        left = rows.chosen(chosen)
        for name in set(rows.items) - set(left.items):
            transaction.remove(keys.audience(name), member)
        if left.times:
            tokens = read_tokens(transaction, set(left.items))
            fresh = fresh_state(state.events, state.since)
            _write(store, transaction, user, event, fresh, left, tokens, governance)
        else:
            drop_list(transaction, user, event, state.events)


def _refold_audiences(store: OnlineStore, transaction: Transaction, names: Collection[bytes]) -> None:
    """Fold the profiles of items' audiences anew, at once where they are few."""
    members: dict[bytes, None] = {}
    for name in names:
        found = transaction.members(keys.audience(name))
        if len(members) + len(found) <= AUDIENCE_AT_ONCE:
            members.update(dict.fromkeys(found))
        else:
            for member in found:
                transaction.add(keys.rest(name), member)
            transaction.add(keys.REFOLD, name)
    refold(store, transaction, members)


def drop_list(transaction: Transaction, user: bytes, event: str, events: int) -> None:
    """Delete a user's list of a type, and its log of so many events."""
    for place in keys.segments(user, event, events):
        transaction.delete(place)
    transaction.delete(keys.fold(user, event))
    transaction.delete(keys.profile(user, event))


def _marks(reader: Reader, topic: str) -> dict[int, int]:
    (packed,) = reader.get_many([keys.applied(topic)])
    return dict(_MARK.iter_unpack(packed or b""))


def _packed_marks(marks: Mapping[int, int]) -> bytes:
    return b"".join(_MARK.pack(*mark) for mark in marks.items())


def _keep_marks(
    transaction: Transaction, topic: str, before: Mapping[int, int], new: Mapping[int, int]
) -> None:
    if new.keys() - before.keys():
        transaction.put(keys.applied(topic), _packed_marks({**before, **new}))


def _forgotten(transaction: Transaction, topic: str) -> dict[bytes, int]:
    """User or item → the greatest position up to which entries about them are passed over."""
    found: dict[bytes, int] = {}
    for member in transaction.members(keys.forgotten(topic)):
        place, name = keys.place_of(member)
        found[name] = max(found.get(name, 0), place)
    return found
