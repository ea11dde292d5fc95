"""What the first page shows, and lists of users that are never a scan of all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from captionary.online import keys
from captionary.online.explorer.freshness import ingest_view
from captionary.online.items import ItemRecord
from captionary.online.packing import Id, id_bytes
from captionary.online.status import TopicStatus

if TYPE_CHECKING:
    from captionary.online.explorer.catalogue import Catalogue
    from captionary.online.service.services import Services

__all__ = ["Overview", "RankerView", "UserList", "glimpses", "overview", "users_from"]

_FIRST = 12


class RankerView(NamedTuple):
    """A ranker that is loaded."""

    name: str
    version: str
    default: bool
    words: bool
    items: int


class Overview(NamedTuple):
    """The first page."""

    users: tuple[Id, ...]
    items: tuple[ItemRecord, ...]
    uploaded: bool
    """Whether `items` are uploads; else they are from the catalogue."""
    rankers: tuple[RankerView, ...]
    experiments: tuple[tuple[str, bool], ...]
    """Name, and whether it was stopped."""
    topics: tuple[TopicStatus, ...]
    workers: int
    """That said something within a minute."""
    fresh: dict[str, float]
    ready: dict[str, str]


class UserList(NamedTuple):
    """A page of users."""

    users: tuple[Id, ...]
    after: str
    """Id from which the next page goes on; "": none."""
    offset: int
    """Place from which the next page goes on, where the store has no order; 0: none."""
    known: bool
    """Whether these are users of the ranker's training, as the store has no order to list by."""


def overview(services: Services, catalogue: Catalogue) -> Overview:
    """Blocks."""
    newest = catalogue.newest(_FIRST // 2)
    seen = ingest_view(services)
    experiments = services.trials.experiments
    stopped = services.trials.stopped
    return Overview(
        users=users_from(services, "", "", 0, _FIRST).users,
        items=tuple(newest or catalogue.sample(_FIRST // 2, 0)),
        uploaded=bool(newest),
        rankers=tuple(
            RankerView(
                name,
                one.version,
                name == services.config.default,
                bool(one.parts.ranker.schema.events),
                one.ranker.items,
            )
            for name, one in services.rankers.loaded.items()
        ),
        experiments=tuple((name, name in stopped) for name in (experiments.names if experiments else ())),
        topics=seen.topics,
        workers=sum(alive for _, alive, _ in seen.workers),
        fresh=seen.fresh,
        ready=services.readiness(),
    )


def glimpses(services: Services, users: Sequence[Id], most: int = 6) -> list[tuple[Id, list[str]]]:
    """Each user with the words that weigh most over all event types; one read a user. Blocks."""
    present, found = time.time_ns() // 1000, []
    for user in users:
        weights: Counter[int] = Counter()
        for one in services.store.profile(user, present).values():
            for token, weight in zip(one.token_ids.tolist(), one.weights.tolist(), strict=True):
                weights[token] += weight * one.mass
        found.append((user, services.words.words(token for token, _ in weights.most_common(most))))
    return found


def users_from(services: Services, start: str, after: str, offset: int, most: int) -> UserList:
    """Users of whom there is something: a step in LMDB's order, however many there are. Blocks.

    Redis has no order: there the users whom the ranker knows are listed, and any other is found by the whole id.

    Args:
        services: of the running service.
        start: id to begin with, itself included; "": the first.
        after: id to go on behind, in the place of `start`.
        offset: where to go on in a store without an order.
        most: users.

    Raises:
        CaptionaryError: an id that is none.
    """
    store = services.store
    if urlsplit(services.config.store).scheme in ("redis", "rediss", "unix"):
        ids = services.rankers[services.config.default].parts.lookups["user"].vocabulary.ids
        page = tuple(ids[place].as_py() for place in range(offset, min(offset + most, len(ids))))
        return UserList(page, "", offset + most if offset + most < len(ids) else 0, True)
    found: list[Id] = []
    text = after or start
    begin = services.user_id(text) if text else None
    if start and begin is not None and store.engine.read([keys.user(id_bytes(begin))])[1][0] is not None:
        found.append(begin)
    found += store.user_ids(begin, most + 1)
    return UserList(tuple(found[:most]), str(found[most - 1]) if len(found) > most else "", 0, False)
