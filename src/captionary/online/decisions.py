"""What users decide about their profiles, and forgetting: of a user, of an item. Each step is one atomic update.

After it the state is that of a log in which what was forgotten never was, to the bit, as of `represent.forgetting`.
"""

from __future__ import annotations

import time

from captionary.errors import bad_value, nearest
from captionary.online import keys
from captionary.online.forgotten import note_parting
from captionary.online.governance import EVERY, Action, Governance, Verb, acted
from captionary.online.items import unpack_item
from captionary.online.keyvalue import Transaction
from captionary.online.log import EVENTS, MEDIA
from captionary.online.packing import Id, id_bytes
from captionary.online.store import OnlineStore, read_log
from captionary.online.updates import AUDIENCE_AT_ONCE, drop_list, refold

__all__ = ["erase", "erase_token", "forget_item", "forget_user", "govern"]


def govern(
    store: OnlineStore,
    user_id: Id,
    verb: Verb,
    *,
    event: str = EVERY,
    token: int = -1,
    factor: float = 1.0,
    at: int | None = None,
) -> Governance:
    """Mute, unmute, boost or erase for a user; what they have decided in all.

    Args:
        store: where it is kept.
        user_id: whose profile it is.
        verb: `mute`, `unmute`, `boost`, `erase_token` of a token, or `erase` of everything.
        event: an event type, or `*` for all.
        token: an id of the vocabulary; for `erase` none.
        factor: of `boost`, above 0 and up to 100; 1 takes a boost back.
        at: microseconds: what is erased is what earlier events brought; None: now.

    Raises:
        CaptionaryError: an unknown event type, token or factor.
    """
    if event != EVERY and event not in store.config.event_types:
        raise bad_value("event type", event, nearest(event, (*store.config.event_types, EVERY)))
    user, moment = id_bytes(user_id), time.time_ns() // 1000 if at is None else at

    def work(transaction: Transaction) -> Governance:
        (packed,) = transaction.get_many([keys.governance(user)])
        action = Action(verb, event, token, factor, moment, transaction.sequence)
        governance = acted(Governance.unpack(packed), action, len(store.folder.idf))
        transaction.put(keys.governance(user), governance.pack())
        transaction.put(keys.user(user), b"")
        if verb in ("erase", "erase_token"):
            types = store.config.event_types if event == EVERY else (event,)
            members = [keys.audience_member(user, kind) for kind in types]
            refold(store, transaction, members)
        return governance

    return store.engine.update(work)


def erase(store: OnlineStore, user_id: Id, *, event: str = EVERY, at: int | None = None) -> Governance:
    """Make a user's profile empty: the events before `at` are deleted from the store, and do not count again."""
    return govern(store, user_id, "erase", event=event, at=at)


def erase_token(
    store: OnlineStore, user_id: Id, token: int, *, event: str = EVERY, at: int | None = None
) -> Governance:
    """Take a token out of a user's past: only events from `at` on can bring it again."""
    return govern(store, user_id, "erase_token", event=event, token=token, at=at)


def forget_user(store: OnlineStore, user_id: Id, last_position: int = 0) -> bool:
    """Delete everything about a user; whether there was anything.

    Args:
        store: where they are known.
        user_id: whom.
        last_position: `EventLog.last` of the topic of events: events up to there are on their way to the store
            perhaps, and are passed over. Call `EventLog.erase` first.
    """
    user, moment = id_bytes(user_id), time.time_ns() // 1000

    def work(transaction: Transaction) -> bool:
        found = any(
            packed is not None for packed in transaction.get_many([keys.user(user), keys.governance(user)])
        )
        for event in store.config.event_types:
            state, rows = read_log(transaction, user, event)
            found |= bool(rows.times)
            drop_list(transaction, user, event, state.events)
            for name in set(rows.items):
                transaction.remove(keys.audience(name), keys.audience_member(user, event))
        transaction.delete(keys.user(user))
        transaction.delete(keys.governance(user))
        note_parting(transaction, user, moment)
        if last_position:
            transaction.add(keys.forgotten(EVENTS), keys.placed(last_position, user))
        return found

    return store.engine.update(work)


def forget_item(store: OnlineStore, item_id: Id, last_position: int = 0) -> bool:
    """Delete an item, its rows, and every event on it from the profiles; whether there was anything.

    The state is then that of one that never had it. `last_position`: as of `forget_user`, of the topic of media.
    """
    name = id_bytes(item_id)

    def piece(transaction: Transaction) -> int:
        members = transaction.members(keys.audience(name), AUDIENCE_AT_ONCE)
        refold(store, transaction, members, without=name)
        for member in members:
            transaction.remove(keys.audience(name), member)
        return len(members)

    def end(transaction: Transaction) -> bool:
        (packed,) = transaction.get_many([keys.item(name)])
        for version in transaction.members(keys.rows_of(name)):
            transaction.delete(keys.row(version.decode(), name))
            transaction.remove(keys.rows_of(name), version)
        if packed is not None:
            for number in range(unpack_item(packed).revision + 1):
                transaction.delete(keys.revision(name, number))
        transaction.delete(keys.item(name))
        transaction.remove(keys.REFOLD, name)
        for member in transaction.members(keys.rest(name)):
            transaction.remove(keys.rest(name), member)
        if last_position:
            transaction.add(keys.forgotten(MEDIA), keys.placed(last_position, name))
        transaction.add(keys.GONE, keys.placed(transaction.sequence, name))
        return packed is not None

    pieces = 0
    while done := store.engine.update(piece):
        pieces += done
    return store.engine.update(end) or pieces > 0
